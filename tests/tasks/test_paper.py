import pytest

from poet.tokens import tasks as tokens_tasks
from tasks import mixtures, paper, registry


def shares_of(name):
    return {entry.task.name: share for entry, share in registry.resolve(name)}


@pytest.mark.parametrize("name", paper.NAMES)
def test_every_name_is_its_task(name):
    entry = registry.get(name)
    assert name == f"poet_{entry.task.name}"
    assert entry.task is tokens_tasks.TASKS[entry.task.name]


def test_families_of_pretrain_weigh_the_same():
    shares = shares_of(mixtures.PRETRAIN.name)
    # All but the four that are no pretraining tasks of the paper, or another name of one.
    assert set(tokens_tasks.TASKS) - set(shares) == {
        "image_to_video_without_text",
        "audio_video_continuation_9",
        "future_prediction_with_text",
        "text_to_video_with_sound",
    }
    for name in ("text_to_image", "unconditional", "audio_to_video", "audio_video_continuation"):
        assert shares[name] == pytest.approx(0.1)
    for name in ("inpainting", "outpainting_with_text", "future_prediction_13"):
        assert shares[name] == pytest.approx(0.025)
    # The first frame is given in half of the stylizations.
    assert shares["stylization"] == shares["stylization_with_first_frame"] == pytest.approx(0.05)


def test_table_1_ablations():
    ssl = {"unconditional", "audio_video_continuation", *mixtures.PAINTING}
    ssl |= set(mixtures.FUTURE_PREDICTION)
    assert set(shares_of("poet_table1_t2v")) == {"text_to_video"}
    assert set(shares_of("poet_table1_t2v_i")) == {"text_to_video", "text_to_image"}
    assert set(shares_of("poet_table1_ssl")) == ssl
    no_t2i = shares_of("poet_table1_no_t2i")
    assert set(no_t2i) == ssl | {"text_to_video"}
    # Each video task has 20 % of the samples (spec section 4.6).
    assert no_t2i["text_to_video"] == pytest.approx(0.2)
    assert sum(no_t2i[name] for name in mixtures.PAINTING) == pytest.approx(0.2)
    assert set(shares_of("poet_table1_all")) == ssl | {"text_to_video", "text_to_image"}


def test_adaptation_mixtures():
    assert set(shares_of("poet_adapt_t2v")) == {"text_to_video"}
    assert set(shares_of("poet_adapt_i2v")) == {"image_to_video", "future_prediction_1"}
    assert set(shares_of("poet_adapt_v2a")) == {"video_to_audio"}


def test_demo_mixes_its_six_evenly():
    shares = shares_of("poet_demo")
    assert len(shares) == 6 and shares == pytest.approx(dict.fromkeys(shares, 1 / 6))
