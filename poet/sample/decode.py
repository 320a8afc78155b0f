"""Writes the output of a plan with a cache.

The prefix goes through the layers once. Then every output slot is a loop of passes: a pass embeds
what was written last, adds its keys and values to the caches in place, and reads only the slot's
own slice of the head, so that illegal ids cannot appear. Delimiters are forced: they pass the
layers, for the cache, but no head.

A loop's program knows a capacity of the caches and the kind of codes, nothing of the task: between
loops the caches grow by a block, codes can be looked at, and tasks share programs.

Axes: B requests, R rows (B, or 2 B with guidance: with text first, then without), P prefix,
L sequence, W positions of a pass, M capacity, D model width, V codes of a slot.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poet.layers.norm import RMSNorm
from poet.layers.position import rotation_table
from poet.models.config import PrefixLMConfig
from poet.models.prefix_lm import PrefixLM
from poet.sample import cache as caching
from poet.sample import choose as choosing
from poet.sample import layers
from poet.sample.requests import SamplingMode, SamplingRequest, settings_of
from poet.sample.weights import multiply, prepare_for_sampling, sampling_config
from poet.tokens import sequence
from poet.tokens.layout import Slot
from poet.tokens.schedule import IDLE, RASTER, Passes, Schedule, passes_of, runs_of, whole_frames
from poet.tokens.sequence import SequencePlan
from poet.typing import Array

__all__ = ["Decoding", "Progress", "cached_logits", "generate", "prepare_for_sampling"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a batch is decoded; changes speed and memory, and with "raster" nothing but rounding.

    Attributes:
      cache_dtype: Of keys and values: "model" (the type of the model's products), "bfloat16" or
        "int8".
      weight_dtype: Of the matrices, for who lays the parameters out (``prepare_for_sampling``).
      schedule: Order of visual tokens.
      block: Positions by which caches grow. A step reads less than a block beyond what is written;
        every block of a sequence is one more program to compile.
      row_sharding: How rows lie on the mesh of the parameters, such as
        `poet.train.partitioning.batch_sharding(mesh)`; None leaves it to the compiler.
    """

    cache_dtype: str = "model"
    weight_dtype: str = "model"
    schedule: Schedule = RASTER
    block: int = 256
    row_sharding: jax.sharding.NamedSharding | None = None

    def __post_init__(self) -> None:
        if self.cache_dtype not in caching.CACHE_DTYPES:
            raise ValueError(
                f"cache_dtype={self.cache_dtype!r} is unknown; choose one of"
                f" {', '.join(caching.CACHE_DTYPES)}."
            )
        if self.block < 1:
            raise ValueError(f"block={self.block} must be at least 1; 256 is usual.")

    def facts(self) -> dict[str, Any]:
        """What of it may change an answer, as JSON."""
        return {
            "cache_dtype": self.cache_dtype,
            "weight_dtype": self.weight_dtype,
            "schedule": self.schedule.name,
            "slope": self.schedule.slope,
        }


@dataclasses.dataclass(frozen=True)
class Progress:
    """What is written so far.

    Attributes:
      done: Passes.
      total: Passes of the whole plan.
      written: Function without arguments: codes as ``generate`` returns them, 0 where nothing is
        written yet. Reading them waits for the device.
      latent_frames: Frames of the picture that are whole, given ones not counted.
    """

    done: int
    total: int
    written: Callable[[], dict[str, np.ndarray]]
    latent_frames: int


@dataclasses.dataclass(frozen=True)
class _Static:
    """What all programs of a batch are compiled for, besides shapes."""

    config: PrefixLMConfig
    decoding: Decoding
    mode: SamplingMode
    # Codes come from the buffer instead of being chosen, and logits are kept.
    is_forced: bool = False
    has_likelihood: bool = False


def generate(
    sampling_params: Mapping[str, Any],
    config: PrefixLMConfig,
    plan: SequencePlan,
    fields: Mapping[str, Any],
    request: SamplingRequest | Sequence[SamplingRequest],
    request_ids: Any = None,
    negative_text_ids: Any = None,
    **more: Any,
) -> dict[str, np.ndarray]:
    """The output of the plan for a batch of requests.

    Args:
      sampling_params: From ``prepare_for_sampling``.
      config: The model's.
      plan: Of the task and sizes.
      fields: Local codes of the task's inputs, as ``sequence.assemble`` takes them; fields of
        outputs may be missing. All-zero text ids stand for no text.
      request: How to choose, for all or one a row.
      request_ids: Whole numbers [B]; a request's draws depend on its id, its seed and nothing
        else of the batch. 0 to B - 1 when None; needed for tasks that are given nothing.
      negative_text_ids: Text ids [B, slots] that guidance leads away from; rows of zeros, and None,
        are no text.
      **more: ``decoding`` (a ``Decoding``), ``say`` (called with a ``Progress`` between loops),
        ``with_likelihood`` (adds "log_likelihood" float32 [B], nats of the chosen codes at
        temperature 1, after guidance).

    Returns:
      Local codes int32 of each output field: visual [B, t, h, w], audio [B, levels, frames],
      for the frames that the task writes.
    """
    return _generate(
        sampling_params,
        config,
        _Ask(plan, fields, request, request_ids, negative_text_ids),
        **more,
    )


class _Ask:
    """A checked batch: what the first program is given."""

    def __init__(self, plan, fields, request, request_ids, negative_text_ids):
        self.plan = plan
        given = {part.field for part in plan.task.inputs}
        missing = given - set(fields)
        if missing:
            raise ValueError(
                f"Task {plan.task.name!r} is given {sorted(given)}, but {sorted(missing)} is"
                " missing."
            )
        is_one = isinstance(request, SamplingRequest)
        for one in [request] if is_one else request:
            one.check_task(plan.task)
        if request_ids is None:
            if not given and is_one:
                raise ValueError(
                    f"Task {plan.task.name!r} is given nothing, so the number of requests is"
                    " unknown; pass request_ids, for example numpy.arange(4)."
                )
            request_ids = np.arange(len(fields[min(given)]) if given else len(request))
        size = len(request_ids)
        requests = [request] * size if is_one else list(request)
        if len(requests) != size:
            raise ValueError(f"Expected {size} requests, one a row, got {len(requests)}.")
        self.mode = SamplingMode.of(requests)
        self.settings = settings_of(requests)
        self.settings["words"] = choosing.split_ids(request_ids)
        inputs = {name: np.asarray(fields[name]) for name in given}
        self.prefix = sequence.assemble_prefix(plan, inputs, size)
        null = np.zeros_like(self.prefix["text_ids"])
        if negative_text_ids is not None:
            negative_text_ids = np.asarray(negative_text_ids)
            if (negative_text_ids.any(axis=1) & (self.settings["guidance"] == 1)).any():
                raise ValueError(
                    "A negative text needs guidance; set guidance above 1, for example 3."
                )
            negative = inputs | {plan.text_slot.field: negative_text_ids}
            null = sequence.assemble_prefix(plan, negative, size)["text_ids"]
        self.prefix["null_text_ids"] = null


def _generate(
    sampling_params: Mapping[str, Any],
    config: PrefixLMConfig,
    ask: _Ask,
    decoding: Decoding | None = None,
    say: Callable[[Progress], None] | None = None,
    with_likelihood: bool = False,
) -> dict[str, np.ndarray]:
    static = _Static(config, decoding or Decoding(), ask.mode, has_likelihood=with_likelihood)
    tokens = np.broadcast_to(ask.plan.template, (len(ask.settings["seed"]), ask.plan.length)).copy()
    tokens[:, : ask.plan.prefix_length + 1] = ask.prefix["prefix_tokens"]
    writer = _Writer(static, ask.plan, sampling_params, tokens, ask.prefix, ask.settings)
    writer.run(say)
    found = writer.written()
    if with_likelihood:
        found["log_likelihood"] = np.asarray(writer.state["nats"])
    return found


def cached_logits(
    sampling_params: Any,
    config: PrefixLMConfig,
    plan: SequencePlan,
    batch: Any,
    decoding: Decoding | None = None,
) -> tuple[Array, ...]:
    """Logits of every output slot, [B, n, V of the slot], when the batch's own tokens are fed.

    Takes the path of ``generate``, so that it can be compared with the training-time pass.
    """
    static = _Static(
        config, decoding or Decoding(), SamplingMode.of([SamplingRequest()]), is_forced=True
    )
    tokens = np.concatenate(
        [batch["decoder_input_tokens"], batch["decoder_target_tokens"][:, -1:]], axis=1
    )
    settings = settings_of([SamplingRequest()] * len(tokens))
    settings["words"] = choosing.split_ids(np.arange(len(tokens)))
    writer = _Writer(
        static, plan, sampling_params, tokens, {"text_ids": batch["text_ids"]}, settings
    )
    return tuple(writer.run())


class _Writer:
    """Runs the programs of one batch one after the other.

    Attributes:
      state: {"caches", "tokens" int32 [B, L], "nats" float32 [B]}, on the device.
    """

    def __init__(self, static, plan, params, tokens, prefix, settings):
        self._static, self._plan, self._params = static, plan, params
        self._settings = {k: v for k, v in settings.items() if k not in ("seed", "words")}
        self._settings["keys"] = choosing.request_keys(settings["seed"], settings["words"])
        capacity = self._capacity(plan.prefix_length + 1)
        if static.decoding.row_sharding is not None:
            tokens = jax.device_put(tokens, static.decoding.row_sharding)
        self.state, self._where = _start(static, plan, capacity, params, tokens, dict(prefix))

    def run(self, say: Callable[[Progress], None] | None = None) -> list[Array]:
        """Writes all slots; returns the logits of each, if they are kept."""
        plan, at, kept = self._plan, self._plan.prefix_length, []
        slots = [slot for slot in plan.slots if slot.is_output]
        all_passes = [passes_of(plan, slot, self._static.decoding.schedule) for slot in slots]
        total, done, frames = sum(len(passes) for passes in all_passes), 0, 0
        block = self._static.decoding.block
        for slot, passes in zip(slots, all_passes, strict=True):
            if at < slot.start - 1:
                self._feed(at, slot.start - 1)
            logits = []
            for first, stop in runs_of(plan, slot, passes, block, every_frame=say is not None):
                self._grow(int(passes.needed[stop - 1]))
                logits.append(self._write(slot, passes, first, stop))
                if slot.kind == "visual":
                    frames = whole_frames(plan, slot, passes, stop)
                if say is not None:
                    say(Progress(done + stop, total, self.written, frames))
            done, at = done + len(passes), slot.stop - 1
            if self._static.is_forced:
                kept.append(_in_order(slot, passes, jnp.concatenate(logits)))
        return kept

    def written(self) -> dict[str, np.ndarray]:
        """Codes so far, local; 0 where the template still stands."""
        tokens = np.array(self.state["tokens"])
        for slot in self._plan.slots:
            if slot.is_output:
                part = tokens[:, slot.start : slot.stop]
                part[part == 0] = slot.ids.start
        return sequence.local_outputs(self._plan, tokens)

    def _capacity(self, length: int) -> int:
        block = self._static.decoding.block
        return -(-length // block) * block

    def _grow(self, length: int) -> None:
        caches = self.state["caches"]
        if caches[0]["key"].shape[2] < length:
            self.state["caches"] = _grow(caches, self._capacity(length))

    def _feed(self, start: int, stop: int) -> None:
        """Positions [start, stop), whose tokens are known, go through the layers for the cache."""
        self._grow(stop)
        plan = self._plan
        kinds = tuple(plan.vocabulary.segments[i].name for i in plan.segment_index[start:stop])
        self.state = _feed(
            self._static, kinds, self._params, self.state, self._where, np.int32(start)
        )

    def _write(self, slot: Slot, passes: Passes, first: int, stop: int) -> Array:
        self.state, logits = _write(*self.loop_arguments(slot, passes, first, stop))
        return logits[first:stop] if self._static.is_forced else logits

    def loop_arguments(self, slot: Slot, passes: Passes, first: int, stop: int) -> tuple[Any, ...]:
        """What `_write` is given for some passes of a slot."""
        plan, params = self._plan, self._params
        before = plan.vocabulary.segments[plan.segment_index[slot.start - 1]]
        codes = {
            "head": params["heads"][slot.ids.name],
            "table": params["base"]["embed"][slot.ids.name],
            "id_start": np.int32(slot.ids.start),
            "slot_start": np.int32(slot.start),
            "before_table": params["base"]["embed"][before.name],
            "before_id_start": np.int32(before.start),
        }
        lanes = {"rows": passes.rows, "sources": passes.sources, "targets": passes.targets}
        if passes.width > 1:
            capacity = self.state["caches"][0]["key"].shape[2]
            order = np.full(capacity, IDLE, np.int32)
            order[: min(capacity, plan.length)] = passes.order[:capacity]
            lanes["order"] = order
        layers_and_norm = {"layers": params["layers"], "final_norm": params["base"]["final_norm"]}
        bounds = np.array([first, stop], np.int32)
        where = lanes | self._where
        return self._static, layers_and_norm, self.state, codes, where, self._settings, bounds


def compiled_loop(
    sampling_params: Any,
    config: PrefixLMConfig,
    plan: SequencePlan,
    batch_size: int,
    decoding: Decoding | None = None,
) -> str:
    """The compiled program of the first loop of a plan, as text: what a step really does."""
    static = _Static(config, decoding or Decoding(), SamplingRequest().mode)
    slot = next(slot for slot in plan.slots if slot.is_output)
    passes = passes_of(plan, slot, static.decoding.schedule)
    settings = settings_of([SamplingRequest()] * batch_size)
    settings["words"] = choosing.split_ids(np.arange(batch_size))
    text_ids = np.zeros((batch_size, plan.num_text_slots), np.int32)
    tokens = np.broadcast_to(plan.template, (batch_size, plan.length))
    writer = _Writer(static, plan, sampling_params, tokens, {"text_ids": text_ids}, settings)
    return _write.lower(*writer.loop_arguments(slot, passes, 0, len(passes))).compile().as_text()


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _start(
    static: _Static, plan: SequencePlan, capacity: int, params: Any, tokens: Any, prefix: Any
) -> tuple[Any, Any]:
    """The prefix through the layers: the loops' state, and what is known of every position."""
    config = sampling_config(static.config)
    model, base, first = PrefixLM(config), {"params": params["base"]}, plan.prefix_length
    text_ids, inputs = prefix["text_ids"], tokens[:, :first]
    if static.mode.has_guidance:
        inputs = jnp.concatenate([inputs, inputs])
        text_ids = jnp.concatenate([text_ids, prefix["null_text_ids"]])
    x = model.apply(base, plan, inputs, text_ids, method="embed_tokens")
    table = jnp.asarray(rotation_table(plan.length - 1, config.head_dim))
    caches = layers.prefill(
        config, params["layers"], x, table[:first], capacity, static.decoding.cache_dtype
    )
    nats = jnp.zeros(tokens.shape[0], jnp.float32)
    where = {"attributes": model.apply(base, plan, method="attributes"), "rotation": table}
    return {"caches": caches, "tokens": jnp.asarray(tokens), "nats": nats}, where


@functools.partial(jax.jit, static_argnums=1)
def _grow(caches: Any, capacity: int) -> Any:
    return [caching.grow(cache, capacity) for cache in caches]


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _feed(
    static: _Static, kinds: tuple[str, ...], params: Any, state: Any, where: Any, start: Any
) -> Any:
    """Known tokens, one of each kind of id in turn, through the layers; no head."""
    vocabulary = static.config.vocabulary
    pieces = []
    for index, name in enumerate(kinds):
        ids = vocabulary.segments[vocabulary.segment_index(name)]
        token = jax.lax.dynamic_slice_in_dim(state["tokens"], start + index, 1, axis=1)
        pieces.append(jnp.take(params["base"]["embed"][name], token - ids.start, axis=0))
    rows = start + jnp.arange(len(kinds))
    capacity = state["caches"][0]["key"].shape[2]
    visible = jnp.arange(capacity)[None, :] <= rows[:, None]
    x = _enter(static, jnp.concatenate(pieces, axis=1), where, rows)
    turned = jnp.take(where["rotation"], rows, axis=0)
    _, caches = layers.one_pass(
        static.config, params["layers"], x, turned, state["caches"], rows, visible
    )
    return state | {"caches": caches}


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _write(
    static: _Static,
    params: Any,
    state: Any,
    codes: Any,
    where: Any,
    settings: Any,
    bounds: Any,
) -> tuple[Any, Any]:
    """Passes bounds[0] to bounds[1] - 1 of one slot; logits [N, B, W, V] where they are kept."""
    at_start = jax.lax.dynamic_slice_in_dim(state["tokens"], codes["slot_start"] - 1, 1, axis=1)
    before = jnp.take(codes["before_table"], at_start - codes["before_id_start"], axis=0)
    final_norm = RMSNorm(dtype=static.config.dtype)
    capacity = state["caches"][0]["key"].shape[2]

    def one_pass(number: Any, carry: Any) -> Any:
        state, logits = carry
        rows, sources, targets = (where[name][number] for name in ("rows", "sources", "targets"))
        tokens = state["tokens"]
        vectors = jnp.take(
            codes["table"], jnp.take(tokens, sources, axis=1) - codes["id_start"], axis=0,
            mode="clip",
        )  # fmt: skip
        vectors = jnp.where((sources < codes["slot_start"])[None, :, None], before, vectors)
        x = _enter(static, vectors, where, rows)
        visible = _visible(capacity, rows, number, where.get("order"))
        turned = jnp.take(where["rotation"], rows, axis=0, mode="clip")
        x, caches = layers.one_pass(
            static.config, params["layers"], x, turned, state["caches"], rows, visible
        )
        x = final_norm.apply({"params": params["final_norm"]}, x)
        now = multiply(x, codes["head"], jnp.float32)
        if static.is_forced:
            return state | {"caches": caches}, logits.at[number].set(now)
        chosen, nats = _choose(static, now, targets, settings)
        tokens = _put(tokens, chosen + codes["id_start"], targets)
        state = {"caches": caches, "tokens": tokens, "nats": state["nats"] + nats}
        return state, logits

    shape = (0,)
    if static.is_forced:
        num_passes, width = where["rows"].shape
        shape = (num_passes, len(state["tokens"]), width, _width_of(codes["head"]))
    return jax.lax.fori_loop(bounds[0], bounds[1], one_pass, (state, jnp.zeros(shape, jnp.float32)))


def _visible(capacity: int, rows: Array, number: Any, order: Any) -> Array:
    """Bool [W, M]: cached positions that each fed row of a pass looks at."""
    places = jnp.arange(capacity)[None, :]
    visible = places <= rows[:, None]
    if order is not None:
        visible = visible & ((order[None, :] < number) | (places == rows[:, None]))
    return visible


def _choose(static: _Static, logits: Array, targets: Array, settings: Any) -> tuple[Array, Array]:
    """Codes [B, W] and their nats [B] from logits [R, W, V]; idle lanes count nothing."""
    num_rows, width, num_codes = logits.shape
    logits = logits.reshape(num_rows * width, num_codes)

    def spread(values: Array) -> Array:
        return jnp.repeat(values, width) if width > 1 else values

    settings = {name: spread(values) for name, values in settings.items()}
    if static.mode.has_guidance:
        logits = choosing.guide(*jnp.split(logits, 2), settings["guidance"])
    positions = jnp.tile(targets, len(logits) // width)
    chosen = choosing.choose(logits, settings["keys"], positions, static.mode, settings)
    nats = jnp.zeros(len(logits) // width, jnp.float32)
    if static.has_likelihood:
        each = choosing.log_shares(logits, chosen)
        nats = jnp.where(positions < IDLE, each, 0.0).reshape(-1, width).sum(axis=-1)
    return chosen.reshape(-1, width), nats


def _put(tokens: Array, values: Array, targets: Array) -> Array:
    if values.shape[1] == 1:
        return jax.lax.dynamic_update_slice_in_dim(tokens, values, targets[0], axis=1)
    return tokens.at[:, targets].set(values, mode="drop")


def _enter(static: _Static, vectors: Array, where: Any, rows: Array) -> Array:
    """The residual stream's start [R, W, D] of fed tokens [B, W, D] at rows [W]."""
    attributes = jnp.take(where["attributes"], rows, axis=0, mode="clip")
    x = (vectors + attributes[None]).astype(static.config.dtype)
    return jnp.concatenate([x, x]) if static.mode.has_guidance else x


def _width_of(head: Any) -> int:
    return next(iter(head.values())).shape[-1] if "kernel" in head else head["int8"].shape[-1]


def _in_order(slot: Slot, passes: Passes, logits: Array) -> Array:
    """Logits [N, B, W, V] of all passes as [B, n, V], in raster order."""
    number, lane = np.nonzero(passes.targets < IDLE)
    by_position = np.argsort(passes.targets[number, lane])
    return jnp.moveaxis(logits[number[by_position], :, lane[by_position]], 0, 1)
