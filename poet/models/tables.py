"""Embedding and unembedding, stored one table a segment of the vocabulary."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from poet.layers.lookup import rows_of
from poet.tokens.sequence import SequencePlan, Slot
from poet.tokens.vocabulary import IdRange, Vocabulary
from poet.typing import Array, Float, Int

# The stream starts near the size of what the first layers add to it; logits start near 0.
EMBED_STDDEV = 0.3
HEAD_STDDEV = 0.02
# On the hidden states where the embedding is the head too.
TIED_SCALE = HEAD_STDDEV / EMBED_STDDEV

# Of the spread of other tables, for the part of a visual row that is not shared.
_OWN_SHARE = 0.1


class SegmentTables(nn.Module):
    """One table [rows, D] for special, visual, each audio level and text.

    Rows are padded to a multiple of ``row_multiple``, so that every table can be sharded by
    itself; padding rows are never looked up and have no part in the softmax.

    Attributes:
      vocabulary: The id table.
      dim: D.
      row_multiple: 128 x the size of the mesh's tensor axis.
      stddev: Of the initial values.
      visual_bits: Codes of visual tokens have so many bits, and a visual row is its own vector plus
        or minus one shared vector a bit; 0 shares nothing. Own vectors then start small, so that
        codes are at first what their bits are.
      dtype: Of the rows of tokens; those of the template and parameters stay float32.
      rows_at_once: As in `poet.layers.lookup.rows_of`.
    """

    vocabulary: Vocabulary
    dim: int
    row_multiple: int
    stddev: float
    visual_bits: int = 0
    dtype: DTypeLike = jnp.float32
    rows_at_once: int | None = None

    def setup(self) -> None:
        spread = {segment.name: self.stddev for segment in self.vocabulary.segments}
        if self.visual_bits:
            spread["visual"] *= _OWN_SHARE
        tables = {
            segment.name: self.param(
                segment.name,
                nn.with_logical_partitioning(
                    nn.initializers.normal(spread[segment.name]), ("vocab", "embed")
                ),
                (padded_rows(segment.num_ids, self.row_multiple), self.dim),
            )
            for segment in self.vocabulary.segments
        }
        if self.visual_bits:
            shared_init = nn.with_logical_partitioning(
                nn.initializers.normal(self.stddev * self.visual_bits**-0.5), (None, "embed")
            )
            shared = self.param("visual_bits", shared_init, (self.visual_bits, self.dim))
            tables["visual"] = add_bits(tables["visual"], shared)
        self.tables = tables

    def __call__(self) -> tuple[Float[Array, "_ D"], ...]:
        """All tables, in the order of the vocabulary's segments, padding rows included."""
        return tuple(self.tables[segment.name] for segment in self.vocabulary.segments)

    def codes(self, codes: Int[Array, "*B"], segment: IdRange) -> Float[Array, "*B D"]:
        """Rows of local codes; NaN for codes outside the table."""
        return rows_of(self.tables[segment.name], codes, self.dtype, self.rows_at_once)

    def sequence(
        self,
        plan: SequencePlan,
        tokens: Int[Array, "B L"],
        text_vectors: Float[Array, "B T D"] | None,
    ) -> Float[Array, "B L D"]:
        """Rows for the first L positions of the plan.

        The segment of every position is static, so that each table is looked up once, for all of
        its positions; fixed special tokens come from the template and are the same for all
        examples. Text positions take ``text_vectors``.
        """
        batch, length = tokens.shape
        pieces, at = [], 0
        looked_up = self._looked_up(plan, tokens)

        def fixed(start: int, stop: int) -> None:
            if start < stop:
                rows = self.tables["special"][plan.template[start:stop]]
                pieces.append(jnp.broadcast_to(rows[None], (batch, stop - start, self.dim)))

        for slot in plan.slots:
            if slot.start >= length:
                break
            fixed(at, slot.start)
            at = min(slot.stop, length)
            pieces.append(text_vectors if slot.kind == "text" else looked_up[slot.start])
        fixed(at, length)
        return jnp.concatenate(pieces, axis=1)

    def _looked_up(self, plan: SequencePlan, tokens: Array) -> dict[int, Array]:
        """Start of a slot -> rows of its tokens.

        One lookup a table: on a mesh each is gathered, and its gradient summed, once.
        """
        slots: dict[IdRange, list[Slot]] = {}
        for slot in plan.slots:
            if slot.kind != "text" and slot.start < tokens.shape[1]:
                slots.setdefault(slot.ids, []).append(slot)
        found = {}
        for ids, its in slots.items():
            parts = [tokens[:, slot.start : slot.stop] - ids.start for slot in its]
            ends = np.cumsum([part.shape[1] for part in parts])[:-1]
            rows = jnp.split(self.codes(jnp.concatenate(parts, axis=1), ids), ends, axis=1)
            found |= {slot.start: part for slot, part in zip(its, rows, strict=True)}
        return found


def segment_rows(params: Mapping[str, Array], segment: IdRange) -> Float[Array, "_ D"]:
    """The real rows of a segment's table, from the parameters of `SegmentTables`."""
    table = params[segment.name]
    if segment.name == "visual" and "visual_bits" in params:
        table = add_bits(table, params["visual_bits"])
    return table[: segment.num_ids]


def head_rows(params: Mapping[str, Any], segment: IdRange) -> Float[Array, "_ D"]:
    """The real rows of a segment's unembedding, from the parameters of a model.

    One without a head of its own has the rows of its embedding, scaled.
    """
    if "head" in params:
        return segment_rows(params["head"], segment)
    return segment_rows(params["embed"], segment) * TIED_SCALE


def add_bits(
    table: Float[Array, "rows D"], shared: Float[Array, "bits D"]
) -> Float[Array, "rows D"]:
    """Row i plus shared[b] where bit b of i is 1, minus it where the bit is 0.

    Bits of a lookup-free code mean the same in every code (MAGVIT-v2, section 3.1: each is the sign
    of one latent channel), so what is learned from one code serves all that share bits with it.
    """
    ids = jnp.arange(table.shape[0])[:, None]
    signs = ((ids >> jnp.arange(shared.shape[0])[None, :]) & 1) * 2 - 1
    return table + signs.astype(table.dtype) @ shared


def padded_rows(num_ids: int, row_multiple: int) -> int:
    """Rows of the table that holds ``num_ids``."""
    return -(-num_ids // row_multiple) * row_multiple
