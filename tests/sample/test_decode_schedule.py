"""The diagonal order, against one pass a token by a plain mask over all rows that were ever fed."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_lm

from poet.layers.attention import masked_attention
from poet.layers.norm import RMSNorm
from poet.layers.position import rotation_table
from poet.models.prefix_lm import PrefixLM
from poet.sample import decode, layers, schedule
from poet.sample.requests import SamplingRequest
from poet.sample.schedule import IDLE, RASTER, Schedule
from poet.sample.weights import multiply, sampling_config
from poet.tokens import sequence, tasks
from poet.tokens.clip import ClipShape

# Frames of 3 x 4 tokens; two of them.
CLIP = ClipShape(5, 24, 32)


def plan_of(name, clip=CLIP):
    sizes = (clip, tiny_lm.SOUND, tiny_lm.TEXT_SLOTS, tiny_lm.VOCABULARY)
    return sequence.plan(tasks.get(name), *sizes)


def visual_slot(plan):
    return next(slot for slot in plan.slots if slot.is_output and slot.kind == "visual")


@functools.cache
def sampling_params():
    return decode.prepare_for_sampling(tiny_lm.lively_params(), tiny_lm.CONFIG)


def test_one_column_behind_is_the_anti_diagonal():
    """Hand-worked: a row starts one pass after the row above; frames overlap."""
    plan = plan_of("unconditional")
    slot, passes = visual_slot(plan), None
    passes = schedule.passes_of(plan, slot, Schedule("diagonal"))
    written = [sorted(t - slot.start for t in row if t != IDLE) for row in passes.targets]
    # Tokens of the first frame are 0-3, 4-7, 8-11; the second frame starts at 12.
    assert written == [
        [0],
        [1, 4],
        [2, 5, 8],
        [3, 6, 9, 12],
        [7, 10, 13, 16],
        [11, 14, 17, 20],
        [15, 18, 21],
        [19, 22],
        [23],
    ]
    first = {
        int(target): int(source)
        for targets, sources in zip(passes.targets, passes.sources, strict=True)
        for target, source in zip(targets, sources, strict=True)
    }
    # The second row starts from the only token above; the first one of all from <bov_o>.
    assert first[slot.start + 4] == slot.start and first[slot.start] == slot.start - 1
    # The true end of the first row is fed in its own place once it is written.
    assert slot.start + 3 in passes.rows[4]


@pytest.mark.parametrize("slope", [0.0, 0.5, 0.75])
def test_everything_is_fed_and_written_in_time(slope):
    plan = plan_of("text_to_video")
    slot = visual_slot(plan)
    passes = schedule.passes_of(plan, slot, Schedule("diagonal", slope))
    written = {position: -1 for position in range(slot.start)}
    for number in range(len(passes)):
        lanes = [lane for lane in range(passes.width) if passes.rows[number, lane] != IDLE]
        for lane in lanes:
            assert written[int(passes.sources[number, lane])] < number, "fed before it was written"
        for lane in lanes:
            if passes.targets[number, lane] != IDLE:
                written[int(passes.targets[number, lane])] = number
    assert set(written) == set(range(slot.stop))
    fed_last = {}
    for rows, sources in zip(passes.rows, passes.sources, strict=True):
        fed_last |= dict(zip(rows.tolist(), sources.tolist(), strict=True))
    for position in range(slot.start, slot.stop - 1):
        assert fed_last[position] == position, "the cache ends with the true tokens"


def test_slope_one_is_raster():
    plan = plan_of("text_to_video")
    a = schedule.passes_of(plan, visual_slot(plan), Schedule("diagonal", 1.0))
    b = schedule.passes_of(plan, visual_slot(plan), RASTER)
    for name in ("rows", "sources", "targets", "order"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_sound_is_raster_whatever_the_schedule():
    plan = plan_of("video_to_audio")
    for slot in (slot for slot in plan.slots if slot.is_output):
        assert schedule.passes_of(plan, slot, Schedule("diagonal")).width == 1


def test_refusals():
    with pytest.raises(ValueError, match="Schedule 'spiral' is unknown; choose raster or diag"):
        Schedule("spiral")
    with pytest.raises(ValueError, match="slope=2 must be between 0"):
        Schedule("diagonal", 2)


def plain_mask_codes(plan, fields, diagonal):
    """Greedy codes: each pass runs every row fed so far through the layers, under one mask."""
    slot, params = visual_slot(plan), sampling_params()
    passes = schedule.passes_of(plan, slot, diagonal)
    config = sampling_config(tiny_lm.CONFIG)
    base, model, first = {"params": params["base"]}, PrefixLM(config), plan.prefix_length
    batch = len(next(iter(fields.values())))
    prefix = sequence.assemble_prefix(plan, fields, batch)
    tokens = np.zeros((batch, plan.length), np.int64)
    tokens[:, : first + 1] = prefix["prefix_tokens"]
    x = model.apply(
        base,
        plan,
        jnp.asarray(tokens[:, :first]),
        jnp.asarray(prefix["text_ids"]),
        method="embed_tokens",
    )
    attributes = model.apply(base, plan, method="attributes")
    rotation = jnp.asarray(rotation_table(plan.length - 1, config.head_dim))
    places, since = list(range(first)), [-1] * first
    for number in range(len(passes)):
        for row, source in zip(passes.rows[number], passes.sources[number], strict=True):
            if row == IDLE:
                continue
            at_start = source < slot.start
            name = "special" if at_start else "visual"
            code = tokens[:, source] - (0 if at_start else slot.ids.start)
            vector = params["base"]["embed"][name][code] + attributes[row][None]
            x = jnp.concatenate([x, vector[:, None]], axis=1)
            places.append(int(row))
            since.append(number)
        visible = mask_of(np.array(places), np.array(since), first)
        hidden = x
        for layer in params["layers"]:
            q, k, v = layers._project(config, layer, hidden, rotation[np.array(places)])
            hidden = layers._finish(config, layer, hidden, masked_attention(q, k, v, visible))
        norm = RMSNorm().apply({"params": params["base"]["final_norm"]}, hidden)
        logits = np.asarray(multiply(norm, params["heads"]["visual"]))
        for target, row in zip(passes.targets[number], passes.rows[number], strict=True):
            if target != IDLE:
                lane = max(i for i, place in enumerate(places) if place == row)
                tokens[:, target] = slot.ids.start + logits[:, lane].argmax(axis=-1)
    return (
        tokens[:, slot.start : slot.stop].reshape(batch, -1, *plan.clip.grid[1:]) - slot.ids.start
    )


def mask_of(places, since, prefix):
    """Row i sees the last row so far of every earlier place that was fed before i's pass."""
    count = len(places)
    visible = np.eye(count, dtype=bool)
    for i in range(count):
        for place in range(places[i]):
            rows = [j for j in range(count) if places[j] == place and since[j] <= since[i]]
            if rows and min(since[j] for j in rows) < since[i]:
                visible[i, max(rows, key=lambda j: since[j])] = True
    visible[:prefix, :prefix] = True
    return jnp.asarray(visible)


@pytest.mark.parametrize("name, slope", [("text_to_video", 0.0), ("image_to_video", 0.5)])
def test_codes_are_those_of_a_plain_mask(name, slope):
    plan = plan_of(name)
    fields = tiny_lm.random_fields(seed=3)
    fields["visual"] = np.random.default_rng(0).integers(0, 12, (2, *CLIP.grid))
    given = {part.field for part in plan.task.inputs}
    fields = {field: fields[field] for field in given}
    diagonal = Schedule("diagonal", slope)
    want = plain_mask_codes(plan, fields, diagonal)
    got = decode.generate(
        sampling_params(),
        tiny_lm.CONFIG,
        plan,
        fields,
        SamplingRequest(temperature=0.0),
        decoding=decode.Decoding(schedule=diagonal, block=16),
    )
    np.testing.assert_array_equal(got["visual"], want)


def test_passes_are_counted():
    plan = plan_of("text_to_video")
    assert schedule.describe(plan, RASTER) == {"schedule": "raster", "passes": 24, "tokens": 24}
    assert schedule.describe(plan, Schedule("diagonal"))["passes"] == 9
