"""The programs of decoding compiled from shapes alone, for devices that may be only described.

What `Engine.generate` runs, one after the other: the parameters laid out (once a checkpoint), the
prefix through the layers, then one pass after another.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from poet.models.config import PrefixLMConfig
from poet.models.prefix_lm import PrefixLM
from poet.sample import choose, decode, weights
from poet.sample.requests import SamplingRequest, settings_of
from poet.tokens.schedule import passes_of
from poet.tokens.sequence import SequencePlan
from poet.train import partitioning


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of requests and the model that answers them.

    Attributes:
      config: The model's.
      plan: Of the task and sizes.
      size: Requests.
      request: How each of them chooses.
      decoding: Types and order.
    """

    config: PrefixLMConfig
    plan: SequencePlan
    size: int
    request: SamplingRequest = SamplingRequest()
    decoding: decode.Decoding = decode.Decoding()


class DecodePrograms:
    """Compiles the programs of one batch.

    Args:
      batch: What is asked for.
      mesh: Rows lie over its replica and fsdp axes, parameters over fsdp and tensor as `poet train`
        and `poet generate` have them.
    """

    def __init__(self, batch: Batch, mesh: Mesh):
        self._batch, self._mesh = batch, mesh
        rows = partitioning.batch_sharding(mesh)
        decoding = dataclasses.replace(batch.decoding, row_sharding=rows)
        self._static = decode._Static(batch.config, decoding, batch.request.mode)
        self._rows = rows

    @property
    def num_passes(self) -> int:
        """Of a whole clip."""
        return sum(len(self._passes(slot)) for slot in self._slots)

    def compile_prepare(self) -> Any:
        """The parameters of training laid out for decoding."""
        return self._prepared[0]

    def compile_prefix(self) -> Any:
        """The prefix through the layers."""
        return self._started[0]

    def compile_pass(self) -> Any:
        """A loop over passes of the first slot, the caches at their largest.

        The loop's bounds are arguments: its text tells the work of one pass.
        """
        plan, params = self._batch.plan, self.params
        state, where = self._started[1]
        slot = self._slots[0]
        passes = self._passes(slot)
        before = plan.vocabulary.segments[plan.segment_index[slot.start - 1]]
        number = jax.ShapeDtypeStruct((), np.int32)
        codes = {
            "head": params["heads"][slot.ids.name],
            "table": params["base"]["embed"][slot.ids.name],
            "id_start": number,
            "slot_start": number,
            "before_table": params["base"]["embed"][before.name],
            "before_id_start": number,
        }
        lanes = {
            name: jax.ShapeDtypeStruct(getattr(passes, name).shape, np.int32)
            for name in ("rows", "sources", "targets")
        }
        if passes.width > 1:
            lanes["order"] = jax.ShapeDtypeStruct((self._capacity,), np.int32)
        used = {"layers": params["layers"], "final_norm": params["base"]["final_norm"]}
        bounds = jax.ShapeDtypeStruct((2,), np.int32)
        lowered = decode._write.lower(
            self._static, used, state, codes, lanes | where, self._settings, bounds
        )
        return lowered.compile()

    @property
    def params(self) -> Any:
        """Shapes of the parameters laid out, with the shardings that preparing them gives."""
        return self._prepared[1]

    @property
    def state(self) -> Any:
        """Shapes of caches and tokens, with shardings."""
        return self._started[1][0]

    @property
    def _slots(self) -> list[Any]:
        return [slot for slot in self._batch.plan.slots if slot.is_output]

    def _passes(self, slot: Any) -> Any:
        return passes_of(self._batch.plan, slot, self._static.decoding.schedule)

    @property
    def _capacity(self) -> int:
        block = self._static.decoding.block
        return -(-self._batch.plan.length // block) * block

    @functools.cached_property
    def _prepared(self) -> tuple[Any, Any]:
        config, plan = self._batch.config, self._batch.plan
        example = {
            "decoder_input_tokens": np.zeros((1, plan.length - 1), np.int32),
            "text_ids": np.zeros((1, max(1, plan.num_text_slots)), np.int32),
        }
        make = functools.partial(PrefixLM(config).init, plan=plan, batch=example)
        boxed = jax.eval_shape(lambda key: make(key), _KEY)["params"]
        shardings = partitioning.param_shardings(boxed, self._mesh)
        shapes = jax.tree.map(_placed, nn.meta.unbox(boxed), shardings)
        lowered = weights._prepare.lower(shapes, config, self._static.decoding.weight_dtype)
        return _with_shapes(lowered)

    @functools.cached_property
    def _started(self) -> tuple[Any, Any]:
        plan, size = self._batch.plan, self._batch.size
        prefix = {
            "prefix_tokens": self._shape((size, plan.prefix_length + 1)),
            "text_ids": self._shape((size, plan.num_text_slots)),
            "null_text_ids": self._shape((size, plan.num_text_slots)),
        }
        tokens = self._shape((size, plan.length))
        lowered = decode._start.lower(
            self._static, plan, self._capacity, self.params, tokens, prefix
        )
        return _with_shapes(lowered)

    @property
    def _settings(self) -> Any:
        found = settings_of([self._batch.request] * self._batch.size)
        words = jax.ShapeDtypeStruct((self._batch.size, 2), np.uint32)
        seeds = jax.ShapeDtypeStruct((self._batch.size,), np.uint32)
        shapes = {
            name: jax.ShapeDtypeStruct(values.shape, values.dtype)
            for name, values in found.items()
            if name != "seed"
        }
        return shapes | {"keys": jax.eval_shape(choose.request_keys, seeds, words)}

    def _shape(self, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=self._rows)


_KEY = jax.eval_shape(lambda: jax.random.key(0))


def _placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _with_shapes(lowered: Any) -> tuple[Any, Any]:
    """(the compiled program, shapes of its results with the shardings it gives them)."""
    compiled = lowered.compile()
    return compiled, jax.tree.map(_placed, lowered.out_info, compiled.output_shardings)
