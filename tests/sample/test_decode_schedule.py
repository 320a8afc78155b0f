"""The diagonal order: decoding against a plain mask over all rows ever fed, then training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_lm

from poet.layers.attention import masked_attention
from poet.layers.norm import RMSNorm
from poet.layers.position import rotation_table
from poet.models.prefix_lm import PrefixLM
from poet.sample import decode, layers
from poet.sample.requests import SamplingRequest
from poet.sample.weights import multiply, sampling_config
from poet.tokens import sequence, tasks
from poet.tokens.clip import ClipShape
from poet.tokens.fed_rows import fed_rows
from poet.tokens.schedule import IDLE, Schedule, passes_of

# Frames of 3 x 4 tokens; two of them.
CLIP = ClipShape(5, 24, 32)


def plan_of(name, clip=CLIP):
    sizes = (clip, tiny_lm.SOUND, tiny_lm.TEXT_SLOTS, tiny_lm.VOCABULARY)
    return sequence.plan(tasks.get(name), *sizes)


def given(plan):
    return {part.field for part in plan.task.inputs}


def fields_of(plan):
    """Codes of every kind for two clips."""
    rng, fields = np.random.default_rng(0), tiny_lm.random_fields(seed=3)
    pictures = {
        name: rng.integers(0, 12, (2, *CLIP.grid)) for name in ("visual", "masked", "structure")
    }
    return fields | pictures


def visual_slot(plan):
    return next(slot for slot in plan.slots if slot.is_output and slot.kind == "visual")


@functools.cache
def sampling_params():
    return decode.prepare_for_sampling(tiny_lm.lively_params(), tiny_lm.CONFIG)


def plain_mask_codes(plan, fields, diagonal):
    """Greedy codes: each pass runs every row fed so far through the layers, under one mask.

    Rows that are not fed yet see and are seen by themselves alone, so that all passes have one
    shape.
    """
    slot, params = visual_slot(plan), sampling_params()
    passes = passes_of(plan, slot, diagonal)
    base, first = {"params": params["base"]}, plan.prefix_length
    model = PrefixLM(sampling_config(tiny_lm.CONFIG))
    batch = len(next(iter(fields.values())))
    prefix = sequence.assemble_prefix(plan, fields, batch)
    tokens = np.zeros((batch, plan.length), np.int64)
    tokens[:, : first + 1] = prefix["prefix_tokens"]
    given_tokens = (jnp.asarray(tokens[:, :first]), jnp.asarray(prefix["text_ids"]))
    rows = model.apply(base, plan, *given_tokens, method="embed_tokens")
    attributes = np.asarray(model.apply(base, plan, method="attributes"))
    embed = jax.tree.map(np.asarray, params["base"]["embed"])
    rotation = rotation_table(plan.length - 1, tiny_lm.CONFIG.head_dim)
    total = first + int(sum((np.asarray(rows) != IDLE).sum() for rows in passes.rows))
    x = np.zeros((batch, total, rows.shape[-1]), np.float32)
    x[:, :first] = rows
    places, since = list(range(first)), [-1] * first
    for number in range(len(passes)):
        for row, source in zip(passes.rows[number], passes.sources[number], strict=True):
            if row == IDLE:
                continue
            at_start = source < slot.start
            name = "special" if at_start else "visual"
            code = tokens[:, source] - (0 if at_start else slot.ids.start)
            x[:, len(places)] = embed[name][code] + attributes[row]
            places.append(int(row))
            since.append(number)
        visible = np.eye(total, dtype=bool)
        fed = len(places)
        visible[:fed, :fed] = mask_of(np.array(places), np.array(since), first)
        turns = rotation[np.array(places + [0] * (total - fed))]
        logits = np.asarray(visual_logits(params, x, turns, visible))
        for target, row in zip(passes.targets[number], passes.rows[number], strict=True):
            if target != IDLE:
                lane = max(i for i, place in enumerate(places) if place == row)
                tokens[:, target] = slot.ids.start + logits[:, lane].argmax(axis=-1)
    return (
        tokens[:, slot.start : slot.stop].reshape(batch, -1, *plan.clip.grid[1:]) - slot.ids.start
    )


@jax.jit
def visual_logits(params, x, rotation, visible):
    config = sampling_config(tiny_lm.CONFIG)
    for layer in params["layers"]:
        q, k, v = layers._project(config, layer, x, rotation)
        x = layers._finish(config, layer, x, masked_attention(q, k, v, visible))
    norm = RMSNorm().apply({"params": params["base"]["final_norm"]}, x)
    return multiply(norm, params["heads"]["visual"])


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
    return visible


@pytest.mark.parametrize("name, slope", [("text_to_video", 0.0), ("image_to_video", 0.5)])
def test_codes_are_those_of_a_plain_mask(name, slope):
    plan = plan_of(name)
    fields = {name: codes for name, codes in fields_of(plan).items() if name in given(plan)}
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


@functools.partial(jax.jit, static_argnums=(0, 2))
def trained_states(model, params, plan, batch):
    return model.apply({"params": params}, plan, batch)


@pytest.mark.parametrize(
    "name, slope",
    [
        ("text_to_video", 0.0),
        pytest.param("text_to_video", 0.5, marks=pytest.mark.slow),
        ("image_to_video", 0.5),
        ("inpainting", 0.0),
        pytest.param("text_to_video_with_sound", 0.0, marks=pytest.mark.slow),
        ("text_to_video_with_sound", 0.5),
    ],
)
def test_training_computes_what_decoding_computes(name, slope):
    """One masked pass over tokens that decoding wrote gives the logits that chose them."""
    plan, diagonal = plan_of(name), Schedule("diagonal", slope)
    fields = fields_of(plan)
    decoding = decode.Decoding(schedule=diagonal, block=64)
    request = SamplingRequest(temperature=0.0)
    asked = (plan, {k: v for k, v in fields.items() if k in given(plan)}, request)
    written = decode.generate(sampling_params(), tiny_lm.CONFIG, *asked, decoding=decoding)
    whole = sequence.join_given(plan, fields, written)
    batch = sequence.assemble(plan, fields | whole)
    cached = decode.cached_logits(sampling_params(), tiny_lm.CONFIG, plan, batch, decoding)

    params = tiny_lm.lively_params()
    hidden = trained_states(PrefixLM(tiny_lm.CONFIG, diagonal), params, plan, batch)
    slots = [slot for slot in plan.slots if slot.is_output]
    for slot, want in zip(slots, cached, strict=True):
        first = plan.prefix_length + 1
        rows = hidden[:, slot.start - first : slot.stop - first]
        logits = rows @ params["head"][slot.ids.name][: slot.ids.num_ids].T
        np.testing.assert_allclose(logits, want[..., : slot.ids.num_ids], atol=1e-5)
        targets = batch["decoder_target_tokens"][:, slot.start - 1 : slot.stop - 1]
        np.testing.assert_array_equal(logits.argmax(axis=-1), targets - slot.ids.start)


@pytest.mark.parametrize("slope", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("name", ["text_to_video", "text_to_video_with_sound"])
def test_the_mask_of_training_is_the_plain_one(name, slope):
    rows = fed_rows(plan_of(name), Schedule("diagonal", slope))
    np.testing.assert_array_equal(
        rows.visible, mask_of(rows.places, rows.since, rows.prefix_length)
    )
