"""The loss under a schedule: raster where it is raster, and the same parameters."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny_lm

from poet.models.prefix_lm import PrefixLM
from poet.tokens import sequence, tasks
from poet.tokens.clip import ClipShape
from poet.tokens.fed_rows import fed_rows
from poet.tokens.schedule import RASTER, Schedule

# Two frames of 2 x 4 tokens.
CLIP = ClipShape(5, 16, 32)
DIAGONAL = Schedule("diagonal")


@functools.cache
def example(name):
    """A plan and a batch of it."""
    sizes = (CLIP, tiny_lm.SOUND, tiny_lm.TEXT_SLOTS, tiny_lm.VOCABULARY)
    plan, rng = sequence.plan(tasks.get(name), *sizes), np.random.default_rng(0)
    fields = tiny_lm.random_fields() | {"visual": rng.integers(0, 12, (2, *CLIP.grid))}
    return plan, sequence.assemble(plan, fields)


@functools.partial(jax.jit, static_argnums=(0, 1))
def jit_loss(model, plan, params, batch):
    return model.apply({"params": params}, plan, batch, method="loss")


@functools.partial(jax.jit, static_argnums=(0, 1))
def jit_grad(model, plan, params, batch):
    def nats(params):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply({"params": params}, plan, batch, method="loss", rngs=rngs)[0]

    return jax.grad(nats)(params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def jit_hidden(model, plan, params, batch):
    return model.apply({"params": params}, plan, batch)


def run(function, model, plan, batch):
    return function(model, plan, tiny_lm.lively_params(), batch)


@pytest.mark.parametrize("name", ["image_to_video", "text_to_video_with_sound"])
def test_slope_one_is_the_raster_loss(name):
    plan, batch = example(name)
    want = run(jit_loss, PrefixLM(tiny_lm.CONFIG), plan, batch)
    got = run(jit_loss, PrefixLM(tiny_lm.CONFIG, Schedule("diagonal", 1.0)), plan, batch)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_task_without_pictures_to_write_is_raster():
    plan, batch = example("video_to_audio")
    want = run(jit_loss, PrefixLM(tiny_lm.CONFIG, RASTER), plan, batch)
    got = run(jit_loss, PrefixLM(tiny_lm.CONFIG, DIAGONAL), plan, batch)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_the_same_targets_are_counted_and_seen_from_elsewhere():
    plan, batch = example("text_to_video_with_sound")
    (_, want), (_, got) = (
        run(jit_loss, PrefixLM(tiny_lm.CONFIG, order), plan, batch) for order in (RASTER, DIAGONAL)
    )
    assert got.keys() == want.keys() and got["num_tokens"] == want["num_tokens"]
    assert abs(got["nats_visual"] - want["nats_visual"]) > 1e-3
    # Sound follows: each of its rows sees all true tokens. What those saw has changed a little.
    assert 0 < abs(got["nats_audio_0"] - want["nats_audio_0"]) < 0.5


def test_a_token_changes_what_may_see_it_and_nothing_else():
    """The fourth token of the first frame: its own row ends later than the next one begins."""
    plan, batch = example("text_to_video")
    slot = next(slot for slot in plan.slots if slot.is_output)
    position = slot.start + 3
    tokens = np.array(batch["decoder_input_tokens"])
    tokens[:, position] = slot.ids.start + (tokens[:, position] - slot.ids.start + 1) % 12
    model = PrefixLM(tiny_lm.CONFIG, DIAGONAL)
    before = run(jit_hidden, model, plan, batch)
    after = run(jit_hidden, model, plan, batch | {"decoder_input_tokens": tokens})
    is_changed = (np.abs(after - before).max(axis=-1) > 1e-6).all(axis=0)
    rows = fed_rows(plan, DIAGONAL)
    # It is written in pass 3, so that passes from 4 on know it.
    np.testing.assert_array_equal(is_changed, rows.since[rows.predicting] >= 4)


@pytest.mark.slow
def test_rematerialisation_and_dropout_work_as_in_raster():
    plan, batch = example("image_to_video")
    config = dataclasses.replace(tiny_lm.CONFIG, dropout_rate=0.1)
    want = run(jit_grad, PrefixLM(config, DIAGONAL), plan, batch)
    config = dataclasses.replace(config, remat_policy="full", layers_per_iteration=2)
    got = run(jit_grad, PrefixLM(config, DIAGONAL), plan, batch)
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
