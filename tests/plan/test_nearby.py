"""What is proposed where decoding or a tokenizer's step does not fit."""

import dataclasses
import types

import pytest
import tiny_lm

from poet.plan import decode_step, nearby, planning, tokenizer_step
from poet.plan.chips import parse_topology
from poet.plan.measure import DoesNotFitError, Needs
from poet.plan.sizes import TokenSizes
from poet.train.chips import GIB
from poet.train.lm import LMRun
from poet.train.loop import LoopConfig
from poet.train.partitioning import MeshConfig
from poet.train.tokenizer_run import AudioRecipe, TokenizerRun, VisualRecipe

SIZES = TokenSizes(num_visual=64, audio_levels=(16,)).sequence_sizes(16, 259)
SLICE = parse_topology("v5e:2x4")
FITS = types.SimpleNamespace(fits=True)
FULL = types.SimpleNamespace(fits=False, memory=types.SimpleNamespace(total=20 * GIB))
RUN = LMRun(
    data_dir="nowhere",
    mixture_or_task_name="poet_demo",
    model=dataclasses.replace(tiny_lm.TRAINED, num_heads=8, num_kv_heads=4),
    loop=LoopConfig(model_dir="nowhere", num_steps=1),
    batch_tokens=2048,
)


def quiet(text):
    pass


def decoding(needs, size=16, name="v5e:2x4", **mesh):
    run = dataclasses.replace(RUN, mesh=MeshConfig(**mesh))
    asked = (run, SIZES, parse_topology(name), "text_to_video", size)
    return nearby.of_decoding(asked, needs, quiet)


def test_decoding_takes_fewer_requests_or_more_ways_of_tensor():
    found = decoding(Needs(total=20 * GIB, held=12 * GIB))
    words = [change.words for change in found]
    assert words[:3] == [
        "--batch 8 (was 16)",
        "mesh tensor = 2 (was 1)",
        "--batch 8 (was 16), mesh tensor = 2 (was 1)",
    ]
    # Eight copies of the model take no fewer than eight requests; four heads no eight ways.
    assert not any("--batch 4 (was 16)" == each or "tensor = 8" in each for each in words)
    # The parameters are split, the caches follow the requests.
    assert [change.needed / GIB for change in found[:3]] == [16, 14, 10]


def test_decoding_on_too_few_chips_asks_for_a_larger_slice():
    found = decoding(Needs(total=None, held=0.0), size=2, name="v5e:1x2", tensor=2)
    assert [change.words for change in found][:2] == [
        "--batch 1 (was 2)",
        "mesh tensor = 4 (was 2), v5e:2x2 (4 chips)",
    ]
    assert found[0].needed is None


def test_a_tokenizer_computes_blocks_again_or_takes_smaller_batches():
    recipe = VisualRecipe(frames_per_batch=272, image_steps=1, images_per_batch=16)
    run = TokenizerRun(recipe=recipe, num_steps=1)
    needs = Needs(total=12 * GIB, held=2 * GIB)
    found = nearby.of_tokenizer(run, SLICE, needs, quiet)
    assert [change.words for change in found][:3] == [
        "VisualLossConfig.remat_blocks = True",
        "frames_per_batch = 136 (was 272), images_per_batch = 8 (was 16)",
        "frames_per_batch = 136 (was 272), images_per_batch = 8 (was 16),"
        " VisualLossConfig.remat_blocks = True",
    ]
    assert [change.needed / GIB for change in found[:3]] == [8, 7, 5]
    assert any(change.words == "v5e:4x4 (16 chips)" for change in found)
    clips = TokenizerRun(recipe=dataclasses.replace(recipe, image_steps=0), num_steps=1)
    found = nearby.of_tokenizer(clips, SLICE, needs, quiet)
    assert found[1].words == "frames_per_batch = 136 (was 272)", "there are no steps on images"
    sounds = TokenizerRun(recipe=AudioRecipe(batch_size=64), num_steps=1)
    found = nearby.of_tokenizer(sounds, SLICE, needs, quiet)
    assert [change.words for change in found][:2] == [
        "batch_size = 32 (was 64)",
        "batch_size = 16 (was 64)",
    ]


def test_a_change_compiles_what_its_words_say(monkeypatch):
    asked = []
    monkeypatch.setattr(decode_step, "plan_decoding", lambda *args: asked.append(args) or FITS)
    monkeypatch.setattr(tokenizer_step, "plan_tokenizer", lambda *args: asked.append(args) or FITS)
    decoding(Needs(total=None, held=0.0))[1].make()
    assert asked[-1][0].mesh.tensor == 2 and asked[-1][4] == 16
    run = TokenizerRun(recipe=VisualRecipe(), num_steps=1)
    nearby.of_tokenizer(run, SLICE, Needs(total=None, held=0.0), quiet)[0].make()
    assert asked[-1][0].recipe.losses.remat_blocks and asked[-1][1] == SLICE


def change(words, result, needed=None):
    def make():
        if isinstance(result, Exception):
            raise result
        return result

    return nearby.Change(words=words, topology=SLICE, needed=needed, make=make)


def test_a_refusal_has_the_first_change_that_fits():
    tight = DoesNotFitError("Used 20.5G of 15.75G hbm", held=GIB)

    def make():
        raise tight

    seen = []

    def near(needs):
        seen.append(needs)
        return [
            change("far too large", FITS, needed=16 * GIB),
            change("no", FULL),
            change("refused", ValueError("no such mesh")),
            change("this", FITS, needed=15 * GIB),
        ]

    found = planning.or_refusal(SLICE, make, near)
    assert found.refusal.endswith("v5e:2x4 has 15.8 GiB a chip. It fits with this.")
    assert seen == [Needs(total=20.5 * GIB, held=GIB)]
    # After three that do not, no more are compiled.
    none = planning.or_refusal(SLICE, make, lambda needs: [change("no", FULL)] * 3 + near(needs))
    assert "take a larger slice" in none.refusal


def test_what_a_try_needs_corrects_the_estimates_of_the_others():
    tried = []
    changes = [
        change("half", DoesNotFitError("Used 40.0G of 15.75G hbm"), needed=10 * GIB),
        change("quarter", FULL, needed=5 * GIB),
        change("eighth", FITS, needed=2.5 * GIB),
    ]
    assert nearby.first_that_fits(changes, tried.append) == ["eighth"]
    # A quarter of 80 GiB is more than there is: it was not compiled.
    assert [said for said in tried if "trying" in said] == ["trying half ...", "trying eighth ..."]


@pytest.mark.parametrize(("total", "needed"), [(None, None), (10.0, 4.0 / 2 + 6.0 / 3)])
def test_needs_are_scaled_part_by_part(total, needed):
    assert Needs(total=total, held=4.0).scaled(1 / 2, 1 / 3) == needed
