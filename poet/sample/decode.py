"""Writes the output of a plan, token by token, with a cache.

The prefix goes through the layers once. Then every output slot is one ``lax.scan`` with unrolled
layers: a step embeds the last code, writes its keys and values into the caches in place, and
reads only the slot's own slice of the head, so that illegal ids cannot appear. Delimiters are
forced: they pass the layers, for the cache, but no head.

Axes: B requests, R rows (B, or 2 B with guidance: with text first, then without), P prefix,
M cached positions, K key/value heads, H head width, D model width.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from poet.layers.norm import RMSNorm
from poet.layers.position import rotation_table
from poet.models.block import Block
from poet.models.config import PrefixLMConfig
from poet.models.prefix_lm import PrefixLM
from poet.models.tables import SegmentTables, segment_rows
from poet.sample import choose as choosing
from poet.sample.requests import SamplingMode, SamplingRequest
from poet.tokens import sequence
from poet.tokens.layout import Slot
from poet.tokens.sequence import SequencePlan
from poet.typing import Array

# A scan reads the whole cache it carries, so a long slot is cut and the cache grows in between.
_STEPS_PER_SCAN = 256

# (logits [R, V], position) -> (codes int32 [R], anything to collect)
ChooseFn = Callable[[Array, Any], tuple[Array, Any]]


def prepare_for_sampling(params: Any, config: PrefixLMConfig) -> dict[str, Any]:
    """Lays trained parameters out for ``generate``; run it once, it is compiled inside.

    Returns ``layers``, a tuple with one tree a layer, in the type of the products; ``heads``, the
    real rows of each segment's unembedding; and ``base``, everything else.
    """
    return _prepare(nn.meta.unbox(params), config)


@functools.partial(jax.jit, static_argnums=1)
def _prepare(params: Any, config: PrefixLMConfig) -> dict[str, Any]:
    stacked = params["layers"]["block"]
    cast = functools.partial(jax.tree.map, lambda x: x.astype(config.dtype))
    return {
        "base": {name: tree for name, tree in params.items() if name not in ("layers", "head")},
        "layers": tuple(
            cast(jax.tree.map(lambda x, i=index: x[i], stacked))
            for index in range(config.num_layers)
        ),
        "heads": {
            segment.name: cast(segment_rows(params["head"], segment))
            for segment in config.vocabulary.segments
        },
    }


def generate(
    sampling_params: Mapping[str, Any],
    config: PrefixLMConfig,
    plan: SequencePlan,
    fields: Mapping[str, Any],
    request: SamplingRequest,
    request_ids: Any = None,
    negative_text_ids: Any = None,
) -> dict[str, np.ndarray]:
    """The output of the plan for a batch of requests.

    Args:
      sampling_params: From ``prepare_for_sampling``.
      config: The model's.
      plan: Of the task and sizes.
      fields: Local codes of the task's inputs, as ``sequence.assemble`` takes them; fields of
        outputs may be missing. All-zero text ids stand for no text.
      request: How to choose.
      request_ids: Whole numbers [B]; a request's draws depend on its id, the seed and nothing
        else of the batch. 0 to B - 1 when None; needed for tasks that are given nothing.
      negative_text_ids: Text ids [B, slots] that guidance leads away from, instead of no text.

    Returns:
      Local codes int32 of each output field: visual [B, t, h, w], audio [B, levels, frames],
      for the frames that the task writes.
    """
    request.check_task(plan.task)
    if negative_text_ids is not None and request.guidance == 1:
        raise ValueError("A negative text needs guidance; set guidance above 1, for example 3.")
    given = {part.field for part in plan.task.inputs}
    missing = given - set(fields)
    if missing:
        raise ValueError(
            f"Task {plan.task.name!r} is given {sorted(given)}, but {sorted(missing)} is missing."
        )
    if request_ids is None:
        if not given:
            raise ValueError(
                f"Task {plan.task.name!r} is given nothing, so the number of requests is unknown;"
                " pass request_ids, for example numpy.arange(4)."
            )
        request_ids = np.arange(len(fields[min(given)]))
    batch_size = len(request_ids)
    inputs = {name: np.asarray(fields[name]) for name in given}
    prefix = sequence.assemble_prefix(plan, inputs, batch_size)
    null_text_ids = np.zeros_like(prefix["text_ids"])
    if negative_text_ids is not None:
        negative = inputs | {plan.text_slot.field: np.asarray(negative_text_ids)}
        null_text_ids = sequence.assemble_prefix(plan, negative, batch_size)["text_ids"]
    tokens = _generate(
        config,
        plan,
        request.mode,
        sampling_params,
        prefix | {"null_text_ids": null_text_ids},
        choosing.split_ids(request_ids),
        {name: getattr(request, name) for name in ("temperature", "top_p", "guidance")}
        | {"seed": np.uint32(request.seed)},
    )
    return sequence.local_outputs(plan, np.asarray(tokens))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _generate(
    config: PrefixLMConfig,
    plan: SequencePlan,
    mode: SamplingMode,
    params: Any,
    prefix: Any,
    request_words: Any,
    numbers: Any,
) -> Array:
    """Whole sequences int32 [B, L], the prefix and the delimiters included."""
    tokens, text_ids = prefix["prefix_tokens"], prefix["text_ids"]
    keys = choosing.request_keys(numbers["seed"], request_words)
    if mode.has_guidance:
        tokens = jnp.concatenate([tokens, tokens])
        text_ids = jnp.concatenate([text_ids, prefix["null_text_ids"]])

    def choose(logits: Array, position: Any) -> tuple[Array, None]:
        if mode.has_guidance:
            logits = choosing.guide(*jnp.split(logits, 2), numbers["guidance"])
        codes = choosing.choose(
            logits, keys, position, mode, numbers["temperature"], numbers["top_p"]
        )
        return (jnp.concatenate([codes, codes]) if mode.has_guidance else codes), None

    written = _write_slots(config, plan, params, tokens, text_ids, choose)
    batch_size = prefix["prefix_tokens"].shape[0]
    template = jnp.broadcast_to(jnp.asarray(plan.template)[None], (batch_size, plan.length))
    whole = template.at[:, : plan.prefix_length + 1].set(prefix["prefix_tokens"])
    for slot, (codes, _) in written:
        whole = whole.at[:, slot.start : slot.stop].set(codes[:batch_size] + slot.ids.start)
    return whole


@functools.partial(jax.jit, static_argnums=(1, 2))
def cached_logits(
    sampling_params: Any, config: PrefixLMConfig, plan: SequencePlan, batch: Any
) -> tuple[Array, ...]:
    """Logits of every output slot, [B, n, V of the slot], when the batch's own tokens are fed.

    Takes the path of ``generate``, so that it can be compared with the training-time pass.
    """
    targets = batch["decoder_target_tokens"]
    tokens = batch["decoder_input_tokens"][:, : plan.prefix_length + 1]
    slots = [slot for slot in plan.slots if slot.is_output]
    starts = np.zeros(plan.length, np.int32)
    for slot in slots:
        starts[slot.start : slot.stop] = slot.ids.start

    def force(logits: Array, position: Any) -> tuple[Array, Array]:
        return targets[:, position - 1] - jnp.asarray(starts)[position], logits

    written = _write_slots(config, plan, sampling_params, tokens, batch["text_ids"], force)
    return tuple(jnp.moveaxis(logits, 0, 1) for _, (_, logits) in written)


def _write_slots(
    config: PrefixLMConfig,
    plan: SequencePlan,
    params: Any,
    tokens: Array,
    text_ids: Array,
    choose: ChooseFn,
) -> list[tuple[Slot, tuple[Array, Any]]]:
    """Every output slot with its codes [R, n] and what ``choose`` collected [n, ...]."""
    base, first = {"params": params["base"]}, plan.prefix_length
    model = PrefixLM(config)
    attributes = model.apply(base, plan, method="attributes")
    x = model.apply(base, plan, tokens[:, :first], text_ids, method="embed_tokens")
    rotation = jnp.asarray(rotation_table(plan.length - 1, config.head_dim))
    caches = []
    for layer in params["layers"]:
        x, cache = Block(config.block).apply(
            {"params": layer}, x, rotation[:first], method="prefill"
        )
        caches.append(cache)

    step = functools.partial(_step, config, params["layers"], attributes, rotation)
    # `at` is the next position to feed, `vector` the embedding of its token.
    at, written = first, []
    vector = _embed_fixed(config, base, plan, at, tokens.shape[0])
    for slot in plan.slots:
        if not slot.is_output:
            continue
        while at < slot.start - 1:
            _, caches = step(_grow(caches, at + 1), vector, at)
            at += 1
            vector = _embed_fixed(config, base, plan, at, tokens.shape[0])
        pieces = []
        for stop in [*range(slot.start + _STEPS_PER_SCAN, slot.stop, _STEPS_PER_SCAN), slot.stop]:
            body = _slot_step(config, params, slot, step, choose)
            positions = jnp.arange(at, stop - 1)
            carry = (_grow(caches, stop - 1), vector)
            (caches, vector), piece = jax.lax.scan(body, carry, positions)
            pieces.append(piece)
            at = stop - 1
        codes, kept = jax.tree.map(lambda *xs: jnp.concatenate(xs), *pieces)
        written.append((slot, (codes.T, kept)))
    return written


def _slot_step(
    config: PrefixLMConfig, params: Any, slot: Slot, step: Callable[..., Any], choose: ChooseFn
) -> Callable[..., Any]:
    """The scan body of one slot: feeds the last code, chooses the next."""
    head, final_norm = params["heads"][slot.ids.name], RMSNorm(dtype=config.dtype)
    tables = {"params": params["base"]["embed"]}

    def body(carry: Any, position: Array) -> Any:
        caches, vector = carry
        x, caches = step(caches, vector, position)
        x = final_norm.apply({"params": params["base"]["final_norm"]}, x)
        logits = jnp.matmul(x[:, 0], head.T, preferred_element_type=jnp.float32)
        codes, kept = choose(logits, position + 1)
        vector = _tables(config).apply(tables, codes[:, None], slot.ids, method="codes")
        return (caches, vector), (codes, kept)

    return body


def _step(
    config: PrefixLMConfig,
    layers: Any,
    attributes: Array,
    rotation: Array,
    caches: list[Any],
    vector: Array,
    position: Any,
) -> tuple[Array, list[Any]]:
    """One position through all layers; returns its hidden state [R, 1, D] and the caches."""

    def row(table: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(table, position, 1)

    x = (vector + row(attributes)[None]).astype(config.dtype)
    turned, block, after = row(rotation), Block(config.block), []
    for layer, cache in zip(layers, caches, strict=True):
        x, cache = block.apply({"params": layer}, x, turned, cache, position, method="step")
        after.append(cache)
    return x, after


def _embed_fixed(
    config: PrefixLMConfig, base: Any, plan: SequencePlan, position: int, num_rows: int
) -> Array:
    """Embedding [R, 1, D] of the special token that the plan fixes at a position."""
    codes = jnp.full((num_rows, 1), plan.template[position])
    tables = {"params": base["params"]["embed"]}
    return _tables(config).apply(tables, codes, plan.vocabulary.special, method="codes")


def _tables(config: PrefixLMConfig) -> SegmentTables:
    return SegmentTables(
        config.vocabulary,
        config.d_model,
        config.row_multiple,
        stddev=1.0,
        visual_bits=config.visual_bits,
    )


def _grow(caches: list[Any], length: int) -> list[Any]:
    """The caches with room for ``length`` positions."""
    return [
        jax.tree.map(
            lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0))), cache
        )
        for cache in caches
    ]
