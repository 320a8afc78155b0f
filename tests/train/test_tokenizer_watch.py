"""The words of a tokenizer's training."""

import functools

from poet.train import tokenizer_run, tokenizer_watch

alarms = functools.partial(
    tokenizer_watch.visual_alarms, num_codes=1_000, window=10, floor=0.1, start=20
)


def test_a_collapse_is_said_after_the_beginning():
    row = {"codes_used_lately": 99.0, "num_tokens": 500.0}
    assert alarms(19, row) == {}
    (sentence,) = alarms(20, row).values()
    assert "99 of 1,000 possible ones" in sentence and "Raise entropy_weight" in sentence
    assert alarms(20, row | {"codes_used_lately": 100.0}) == {}


def test_few_tokens_cannot_use_all_codes():
    assert alarms(20, {"codes_used_lately": 6.0, "num_tokens": 5.0}) == {}
    assert "codes" in alarms(20, {"codes_used_lately": 4.0, "num_tokens": 5.0})


def test_a_discriminator_that_won_is_said():
    row = {"codes_used_lately": 900.0, "num_tokens": 500.0}
    assert alarms(1, row | {"discriminator": 1.3}) == {}
    assert (
        "its loss is 0.010. Raise r1_weight"
        in alarms(1, row | {"discriminator": 0.01})["discriminator"]
    )


def test_a_level_of_sound_that_collapses_is_said():
    alarms = functools.partial(
        tokenizer_watch.audio_alarms,
        num_levels=2,
        num_codes=1_024,
        num_frames=480,
        floor=0.05,
        start=100,
    )
    row = {"codes_used_0": 24.0, "codes_used_1": 23.9, "discriminator": 1.9}
    assert alarms(99, row) == {}
    assert list(alarms(100, row)) == ["codes_1"]
    assert "level 1 collapse: 23.9 of 480 possible" in alarms(100, row)["codes_1"]
    assert (
        "its loss is 0.010. Lower AudioGameConfig"
        in alarms(1, row | {"discriminator": 0.01})["discriminator"]
    )
    recipe = tokenizer_run.AudioRecipe()
    assert recipe.alarms(10_000, {"codes_used_0": 1.0}).keys() == {"codes_0"}


def test_the_progress_line_names_what_matters():
    measures = {"psnr_db": 24.26, "codes_used_lately": 1234.0}
    note = tokenizer_run.VisualRecipe().note
    assert note(measures) == "24.3 dB, 1,234 codes"
    measures |= {"logit_real": 0.5, "logit_fake": -0.25}
    assert note(measures) == "24.3 dB, 1,234 codes, D +0.50 real -0.25 fake"
