import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_lm
from flax.core import meta

from poet.models.config import PrefixLMConfig
from poet.models.prefix_lm import PrefixLM
from poet.models.text_encoder import TextEncoderConfig
from poet.tokens import sequence, tasks
from poet.tokens.vocabulary import Vocabulary


@functools.partial(jax.jit, static_argnums=(0, 3))
def run_hidden(config, params, batch, plan):
    return PrefixLM(config).apply({"params": params}, plan, batch)


@functools.partial(jax.jit, static_argnums=(0, 3))
def run_loss(config, params, batch, plan):
    return PrefixLM(config).apply({"params": params}, plan, batch, method="loss")


@functools.partial(jax.jit, static_argnums=(0, 3))
def run_grad(config, params, batch, plan):
    return jax.grad(lambda p: run_loss(config, p, batch, plan)[0])(params)


@functools.partial(jax.jit, static_argnums=2)
def run_by_part(params, batch, plan):
    return PrefixLM(tiny_lm.CONFIG).apply({"params": params}, plan, batch, method="loss_by_part")


def hidden(plan, batch):
    return np.asarray(run_hidden(tiny_lm.CONFIG, tiny_lm.lively_params(), batch, plan))


def loss(plan, batch):
    return run_loss(tiny_lm.CONFIG, tiny_lm.lively_params(), batch, plan)


def change_input(plan, batch, position):
    """The batch with another code of the same range at one position of every example."""
    tokens = np.array(batch["decoder_input_tokens"])
    slot = next(slot for slot in plan.slots if slot.start <= position < slot.stop)
    local = tokens[:, position] - slot.ids.start
    tokens[:, position] = slot.ids.start + (local + 1) % slot.ids.num_ids
    return batch | {"decoder_input_tokens": tokens}


@pytest.mark.parametrize("name", ["image_to_video", "video_to_audio"])
def test_output_sees_the_whole_prefix_and_is_causal(name):
    """Changing an input changes every row that may look at it, and no other."""
    plan, batch = tiny_lm.plan_of(name), tiny_lm.batch_of(name)
    before = hidden(plan, batch)
    for slot in plan.slots:
        if slot.kind == "text":
            continue
        for position in (slot.start, min(slot.stop, plan.length - 1) - 1):
            after = hidden(plan, change_input(plan, batch, position))
            is_changed = (np.abs(after - before).max(axis=-1) > 1e-6).all(axis=0)
            rows = plan.prefix_length + np.arange(before.shape[1])
            np.testing.assert_array_equal(is_changed, rows >= position, err_msg=str(slot))


def test_prefix_sees_all_of_itself_and_nothing_of_the_output():
    """Seen from inside the prefix, where no output row helps."""
    plan, batch = tiny_lm.plan_of("image_to_video"), tiny_lm.batch_of("image_to_video")

    variables = {"params": tiny_lm.lively_params()}

    @jax.jit
    def prefix_rows(batch):
        rows = PrefixLM(tiny_lm.CONFIG).apply(variables, plan, batch, method="stream")
        return rows[:, : plan.prefix_length]

    before = prefix_rows(batch)
    last_given, first_written = plan.slots[1].stop - 1, plan.slots[2].start
    inside = prefix_rows(change_input(plan, batch, last_given))
    assert (jnp.abs(inside - before).max(axis=-1) > 1e-7).all(), "also rows before it change"
    outside = prefix_rows(change_input(plan, batch, first_written))
    np.testing.assert_array_equal(outside, before)


def test_loss_reads_no_prefix_positions():
    plan, batch = tiny_lm.plan_of("image_to_video"), tiny_lm.batch_of("image_to_video")
    targets, weights = (
        np.array(batch[name]) for name in ("decoder_target_tokens", "decoder_loss_weights")
    )
    targets[:, : plan.prefix_length] = 7
    weights[:, : plan.prefix_length] = 5.0
    other = batch | {"decoder_target_tokens": targets, "decoder_loss_weights": weights}
    assert loss(plan, batch)[0] == loss(plan, other)[0]


@pytest.mark.parametrize("name", tiny_lm.TASK_NAMES)
def test_loss_is_the_plain_cross_entropy(name):
    plan, batch = tiny_lm.plan_of(name), tiny_lm.batch_of(name)
    params, segments = tiny_lm.lively_params(), tiny_lm.VOCABULARY.segments
    table = np.concatenate([params["head"][s.name][: s.num_ids] for s in segments])
    logits = hidden(plan, batch) @ table.T
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    targets = batch["decoder_target_tokens"][:, plan.prefix_length :]
    nats = -np.take_along_axis(log_p, targets[:, :, None], axis=-1)[:, :, 0]
    weights = plan.loss_weights[plan.prefix_length :]

    total, measures = loss(plan, batch)
    np.testing.assert_allclose(measures["loss_nats"], nats[:, weights > 0].mean(), rtol=1e-5)
    assert measures["num_tokens"] == tiny_lm.BATCH * weights.sum()
    assert measures["loss_nats"] < total < measures["loss_nats"] + 0.1, "z-loss is small"
    is_correct = logits.argmax(axis=-1) == targets
    np.testing.assert_allclose(measures["accuracy"], is_correct[:, weights > 0].mean(), rtol=1e-5)
    kinds = {slot.ids.name for slot in plan.slots if slot.is_output}
    kinds |= {"special"} if plan.task.ends else set()
    assert {name for name in measures if name.startswith("nats_")} == {f"nats_{k}" for k in kinds}


@pytest.mark.parametrize("name", ["image_to_video", "text_to_video_with_sound"])
def test_sums_by_part_are_those_of_the_parts_tokens(name):
    plan, batch = tiny_lm.plan_of(name), tiny_lm.batch_of(name)
    params, segments = tiny_lm.lively_params(), tiny_lm.VOCABULARY.segments
    table = np.concatenate([params["head"][s.name][: s.num_ids] for s in segments])
    logits = hidden(plan, batch) @ table.T
    targets = batch["decoder_target_tokens"][:, plan.prefix_length :]
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    nats = -np.take_along_axis(log_p, targets[:, :, None], axis=-1)[:, :, 0]
    weights = plan.loss_weights[plan.prefix_length :]
    parts = run_by_part(params, batch, plan)
    assert parts["all"]["num_tokens"] == tiny_lm.BATCH * weights.sum()
    np.testing.assert_allclose(parts["all"]["nats"], (nats * weights).sum(), rtol=1e-5)
    assert parts["all"]["correct"] == ((logits.argmax(axis=-1) == targets) * weights).sum()
    (slot,) = (slot for slot in plan.slots if slot.is_output and slot.kind == "visual")
    size = tiny_lm.CLIP.grid[1] * tiny_lm.CLIP.grid[2]
    frames = sorted(part for part in parts if part.startswith("visual/"))
    # An image stands before image_to_video: its outputs begin with latent frame 1.
    begun = tiny_lm.CLIP.grid[0] - (slot.stop - slot.start) // size
    assert frames == [f"visual/frame_{t:02}" for t in range(begun, tiny_lm.CLIP.grid[0])]
    for at, part in enumerate(frames):
        first = slot.start + at * size - plan.prefix_length - 1
        found = nats[:, first : first + size].sum()
        np.testing.assert_allclose(parts[part]["nats"], found, rtol=1e-5)
    if name == "text_to_video_with_sound":
        assert {"audio_0", "audio_1"} <= set(parts)


def test_tied_tables_give_the_loss_of_a_head_that_is_a_scaled_embedding():
    """And their gradient is the sum of both: of what is fed, and scaled of what is predicted."""
    plan, batch = tiny_lm.plan_of("image_to_video"), tiny_lm.batch_of("image_to_video")
    scale = 0.02 / 0.3
    params = {k: v for k, v in tiny_lm.lively_params().items() if k != "head"}
    head = jax.tree.map(lambda table: scale * table, params["embed"])
    config = dataclasses.replace(tiny_lm.CONFIG, ties_embedding=True)
    want = run_grad(tiny_lm.CONFIG, params | {"head": head}, batch, plan)
    got = run_grad(config, params, batch, plan)
    for name, grad in got["embed"].items():
        both = want["embed"][name] + scale * want["head"][name]
        np.testing.assert_allclose(grad, both, atol=1e-6)


def test_a_fresh_model_knows_nothing():
    plan, batch = tiny_lm.plan_of("text_to_video"), tiny_lm.batch_of("text_to_video")
    params = meta.unbox(tiny_lm.boxed_params())
    _, measures = run_loss(tiny_lm.CONFIG, params, batch, plan)
    assert abs(measures["loss_nats"] - np.log(tiny_lm.VOCABULARY.size)) < 0.05


def test_dropped_text_is_the_row_of_no_text_at_all():
    """What training calls the null is what guidance samples with: all slots hold the pad vector."""
    plan, batch = tiny_lm.plan_of("text_to_video"), tiny_lm.batch_of("text_to_video")
    dropped = hidden(plan, batch | {"text_is_dropped": np.array([True, False])})
    empty = hidden(plan, batch | {"text_ids": np.zeros_like(batch["text_ids"])})
    full = hidden(plan, batch)
    np.testing.assert_array_equal(dropped[0], empty[0])
    np.testing.assert_array_equal(dropped[1], full[1])
    assert np.abs(dropped[0] - full[0]).max() > 1e-4


@pytest.mark.slow
def test_channels_are_dropped_only_with_a_key():
    """Training draws; evaluation and sampling, which have no key, see the whole model."""
    plan, batch = tiny_lm.plan_of("text_to_video"), tiny_lm.batch_of("text_to_video")
    config = dataclasses.replace(tiny_lm.CONFIG, dropout_rate=0.2)
    params = {"params": tiny_lm.lively_params()}

    def nats(key=None):
        rngs = None if key is None else {"dropout": jax.random.key(key)}
        return float(PrefixLM(config).apply(params, plan, batch, method="loss", rngs=rngs)[0])

    assert nats() == pytest.approx(float(loss(plan, batch)[0]), rel=1e-6)
    assert nats(0) == nats(0)
    assert len({nats(), nats(0), nats(1)}) == 3


def test_slots_after_the_text_hold_one_vector():
    def vectors(text_ids):
        model = PrefixLM(tiny_lm.CONFIG)
        variables = {"params": tiny_lm.lively_params()}
        return model.apply(variables, jnp.asarray(text_ids), None, method="text_vectors")

    short, long = vectors([[5, 6, 0, 0]]), vectors([[5, 6, 0, 0, 0, 0]])
    np.testing.assert_allclose(short[:, :2], long[:, :2], atol=1e-6)
    pad = tiny_lm.lively_params()["text_pad"]
    np.testing.assert_array_equal(long[0, 2:], np.broadcast_to(pad, (4, 16)))


def test_images_and_videos_share_their_beginning():
    """A text-to-image batch is a text-to-video batch cut short, to the last bit of the states."""
    image = hidden(tiny_lm.plan_of("text_to_image"), tiny_lm.batch_of("text_to_image"))
    video = hidden(tiny_lm.plan_of("text_to_video"), tiny_lm.batch_of("text_to_video"))
    np.testing.assert_allclose(image, video[:, : image.shape[1]], atol=1e-5)


@pytest.mark.parametrize("name", ["full", "dots_except_widening"])
def test_rematerialisation_changes_nothing(name):
    plan, batch = tiny_lm.plan_of("image_to_video"), tiny_lm.batch_of("image_to_video")
    params = tiny_lm.lively_params()
    want = run_grad(tiny_lm.CONFIG, params, batch, plan)
    got = run_grad(dataclasses.replace(tiny_lm.CONFIG, remat_policy=name), params, batch, plan)
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_every_parameter_learns_from_some_task():
    """No dead parameters: what a text-free task leaves alone, others reach."""
    reached = []
    for name in ("image_to_video", "video_to_audio"):
        plan, batch = tiny_lm.plan_of(name), tiny_lm.batch_of(name)
        grads = run_grad(tiny_lm.CONFIG, tiny_lm.lively_params(), batch, plan)
        reached.append(jax.tree.map(lambda g: bool(jnp.any(g != 0)), grads))
    either = jax.tree.map(lambda a, b: a or b, *reached)
    leaves = jax.tree_util.tree_leaves_with_path(either)
    dead = [jax.tree_util.keystr(path) for path, is_moved in leaves if not is_moved]
    # Text is read by the encoder, never fed as tokens.
    assert dead == ["['embed']['text']"]


def test_bfloat16_stays_close():
    plan, batch = tiny_lm.plan_of("text_to_video"), tiny_lm.batch_of("text_to_video")
    config = dataclasses.replace(tiny_lm.CONFIG, dtype=jnp.bfloat16)
    low, _ = run_loss(config, tiny_lm.lively_params(), batch, plan)
    high, _ = loss(plan, batch)
    assert low.dtype == jnp.float32 and abs(low - high) < 0.05


def test_ids_out_of_range_are_not_passed_over():
    """Traced ids cannot be refused, but they turn the loss into NaN, which stops a run."""
    plan, batch = tiny_lm.plan_of("text_to_video"), tiny_lm.batch_of("text_to_video")
    tokens = np.array(batch["decoder_input_tokens"])
    tokens[0, plan.slots[1].start] = 100_000
    assert np.isnan(loss(plan, batch | {"decoder_input_tokens": tokens})[0])


def test_logical_axes():
    specs = nn.get_partition_spec(tiny_lm.boxed_params())
    names = {axis for spec in jax.tree.leaves(specs) for axis in spec}
    assert names == {"layers", "embed", "heads", "kv", "mlp", "vocab", None}
    block = specs["layers"]["block"]
    assert tuple(block["query"]["kernel"]) == ("layers", "embed", "heads", "kv")
    assert tuple(block["mlp"]["down"]["kernel"]) == ("layers", "mlp", "embed")
    assert tuple(specs["head"]["audio_1"]) == ("vocab", "embed")


def test_tables_are_padded_one_by_one():
    shapes = jax.tree.map(jnp.shape, meta.unbox(tiny_lm.boxed_params()))
    assert shapes["embed"] == shapes["head"]
    assert {name: rows for name, (rows, _) in shapes["head"].items()} == {
        "special": 256,
        "visual": 128,
        "audio_0": 128,
        "audio_1": 128,
        "text": 128,
    }


def test_parameters_do_not_depend_on_the_plan():
    plan, batch = tiny_lm.plan_of("image_to_video"), tiny_lm.batch_of("image_to_video")
    shapes = jax.eval_shape(
        lambda key: PrefixLM(tiny_lm.CONFIG).init(key, plan, batch), jax.random.key(0)
    )
    want = jax.tree.map(jnp.shape, meta.unbox(tiny_lm.boxed_params()))
    assert jax.tree.map(jnp.shape, meta.unbox(shapes["params"])) == want


def test_a_plan_of_another_vocabulary_is_refused():
    other = Vocabulary(num_visual=13, audio_levels=(5, 6), num_text=20)
    plan = sequence.plan(tasks.get("unconditional"), tiny_lm.CLIP, None, 5, other)
    with pytest.raises(ValueError, match="plan's vocabulary has 300 ids .* the model's 299"):
        loss(plan, sequence.assemble(plan, tiny_lm.random_fields()))


SMALL_TEXT = TextEncoderConfig(num_ids=100)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"remat_policy": "some"}, "remat_policy='some' is unknown; choose one of none, full"),
        ({"num_layers": 0}, "num_layers=0 must be at least 1"),
        ({"dropout_rate": 1.0}, r"dropout_rate=1.0 must be in \[0, 1\)"),
        ({"head_dim": 5}, "head_dim=5 must be even"),
        ({"num_kv_heads": 3}, "num_kv_heads=3 must divide num_heads=16"),
        ({"text": SMALL_TEXT}, "The text encoder has 100 rows, the text tokenizer 32128 ids"),
    ],
)
def test_configs_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PrefixLMConfig(**fields)
