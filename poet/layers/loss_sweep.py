"""One device's part of the tiled cross-entropy: its tokens against its rows of the tables.

Axes: N tokens, D model width, V ids. Where a vocabulary is spread over devices, each has some rows
of every table, and what a token needs from all of them (the largest logit, the sum of
exponentials, the target's logit, the gradient of its hidden state) is summed token tile by token
tile; no device reads another's rows.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from poet.typing import Array

# The logit of a row that is no id: far below any other, yet finite.
_NO_LOGIT = -1e30


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossTiles:
    """How the loss is cut up. Numbers change speed and memory, not results.

    Attributes:
      num_tokens: Tokens a tile, at most, on each device.
      num_ids: Rows of a table a tile, on each device.
      max_kept_logits: Up to this many logits of a token tile are kept between the two sweeps over
        the vocabulary; above it they are computed a second time.
      z_loss: Weight of log-sum-exp squared, which keeps logits near 0.
    """

    num_tokens: int = 4096
    num_ids: int = 16_384
    max_kept_logits: int = 2**26
    z_loss: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("num_tokens", "num_ids"):
            if getattr(self, name) < 1:
                raise ValueError(f"LossTiles {name}={getattr(self, name)} must be at least 1.")


class VocabularyTile(NamedTuple):
    """Some rows of the tables.

    Attributes:
      rows: [V, D].
      start: Id of the first one; the others follow.
      ids: Instead of that, the id of each row int32 [V], -1 for a row that is none.
    """

    rows: Array
    start: int = 0
    ids: Array | None = None

    def logits(self, hidden: Array) -> Array:
        """Of tokens [N, D] over the rows, float32 [N, V]."""
        logits = jnp.matmul(hidden, self.rows.T, preferred_element_type=jnp.float32)
        return logits if self.ids is None else jnp.where(self.ids[None] < 0, _NO_LOGIT, logits)

    def target_logit(self, logits: Array, targets: Array) -> Array:
        """Each token's logit of its target [N], 0 where the target is not among the rows."""
        if self.ids is not None:
            return jnp.where(self.is_target(targets), logits, 0.0).sum(axis=-1)
        local = targets - self.start
        inside = (local >= 0) & (local < logits.shape[1])
        index = jnp.clip(local, 0, logits.shape[1] - 1)[:, None]
        return jnp.where(inside, jnp.take_along_axis(logits, index, axis=1)[:, 0], 0.0)

    def is_target(self, targets: Array) -> Array:
        """Bool [N, V]."""
        if self.ids is not None:
            return self.ids[None, :] == targets[:, None]
        return jnp.arange(self.rows.shape[0])[None, :] == (targets - self.start)[:, None]


def whole_tiles(
    tables: Sequence[Array], sizes: Sequence[int], num_ids: int
) -> list[VocabularyTile]:
    """Tiles of whole tables without their padding; one single tile when all fit into it."""
    real = [table[:size] for table, size in zip(tables, sizes, strict=True)]
    if sum(sizes) <= num_ids:
        return [VocabularyTile(real[0] if len(real) == 1 else jnp.concatenate(real))]
    found, start = [], 0
    for rows, size in zip(real, sizes, strict=True):
        for first in range(0, size, num_ids):
            found.append(VocabularyTile(rows[first : first + num_ids], start + first))
        start += size
    return found


def part_tiles(
    tables: Sequence[Array], sizes: Sequence[int], num_ids: int, part: Array
) -> list[VocabularyTile]:
    """Tiles of a device's rows, if it is number `part` of those that share each table equally."""
    ids, start = [], 0
    for table, size in zip(tables, sizes, strict=True):
        rows = part * table.shape[0] + jnp.arange(table.shape[0])
        ids.append(jnp.where(rows < size, start + rows, -1))
        start += size
    if sum(len(table) for table in tables) <= num_ids:
        return [VocabularyTile(jnp.concatenate(tables), ids=jnp.concatenate(ids))]
    return [
        VocabularyTile(table[first : first + num_ids], ids=its[first : first + num_ids])
        for table, its in zip(tables, ids, strict=True)
        for first in range(0, len(table), num_ids)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """How tokens go through the vocabulary.

    Attributes:
      tiles: Tile sizes and z-loss.
      vocabulary: All tiles of this device, in the order of the tables.
      sizes: Rows of each table that the tiles cover.
      shared_over: Mesh axes whose devices have the other rows.
      has_grads: Whether gradients are formed.
    """

    tiles: LossTiles
    vocabulary: Sequence[VocabularyTile]
    sizes: tuple[int, ...]
    shared_over: tuple[str, ...] = ()
    has_grads: bool


def sweep(how: Sweep, hidden: Array, tables: Any, targets: Array, weights: Array) -> Any:
    """All token tiles: sum, measures [N], and gradients (hidden, tables, weights) or None.

    Of the tables only the shapes are read, those of the gradients.
    """
    num_real = hidden.shape[0]
    # As few tiles as there can be, of one size: tokens of weight 0 fill the last one.
    tile = -(-num_real // -(-num_real // how.tiles.num_tokens))
    fill = -num_real % tile
    if fill:
        hidden = jnp.pad(hidden, ((0, fill), (0, 0)))
        targets, weights = jnp.pad(targets, (0, fill)), jnp.pad(weights, (0, fill))
    num_tokens = num_real + fill
    num_tiles = num_tokens // tile
    run = functools.partial(_token_tile, how)
    add = functools.partial(_add_parts, sizes=how.sizes)
    d_tables = tuple(jnp.zeros(t.shape, jnp.float32) for t in tables) if how.has_grads else None
    if num_tiles == 1:
        total, measures, d_hidden, d_parts = run(hidden, targets, weights)
        d_tables = add(d_tables, d_parts)
    else:
        # Token i goes to tile i % num_tiles: each tile then spans the whole batch, and a batch
        # that is sharded over devices stays where it is.
        def deal(x: Any) -> Any:
            return x.reshape(tile, num_tiles, *x.shape[1:]).swapaxes(0, 1)

        def body(carry: Any, dealt: Any) -> Any:
            total, d_tables = carry
            part, measures, d_hidden, d_parts = run(*dealt)
            return (total + part, add(d_tables, d_parts)), (measures, d_hidden)

        start = (jnp.zeros((), jnp.float32), d_tables)
        dealt = (deal(hidden), deal(targets), deal(weights))
        (total, d_tables), stacked = jax.lax.scan(body, start, dealt)
        measures, d_hidden = jax.tree.map(
            lambda x: x.swapaxes(0, 1).reshape(num_tokens, *x.shape[2:]), stacked
        )
    measures = {name: values[:num_real] for name, values in measures.items()}
    if not how.has_grads:
        return total, measures, None
    d_hidden = d_hidden[:num_real]
    d_weights = measures["nats"] + how.tiles.z_loss * jnp.square(measures["log_sum_exp"])
    return total, measures, (d_hidden, d_tables, d_weights)


def _token_tile(how: Sweep, hidden: Any, targets: Any, weights: Any) -> Any:
    """One tile of tokens against the whole vocabulary, in two sweeps."""
    vocabulary, z_loss = how.vocabulary, how.tiles.z_loss
    logits_of = [ids.logits(hidden) for ids in vocabulary]
    top = functools.reduce(jnp.maximum, [logits.max(axis=-1) for logits in logits_of])
    if how.shared_over:
        top = jax.lax.pmax(top, how.shared_over)
    sum_exp = sum(jnp.exp(logits - top[:, None]).sum(axis=-1) for logits in logits_of)
    target_logit = sum(
        ids.target_logit(logits, targets) for ids, logits in zip(vocabulary, logits_of, strict=True)
    )
    if how.shared_over:
        sum_exp, target_logit = jax.lax.psum((sum_exp, target_logit), how.shared_over)
    log_sum_exp = jnp.log(sum_exp) + top
    nats = log_sum_exp - target_logit
    total = jnp.sum(weights * (nats + z_loss * jnp.square(log_sum_exp)))
    measures = {
        "nats": nats,
        "is_correct": (target_logit >= top).astype(jnp.float32),
        "log_sum_exp": log_sum_exp,
    }
    if not how.has_grads:
        return total, measures, None, None

    num_logits = hidden.shape[0] * sum(ids.rows.shape[0] for ids in vocabulary)
    if num_logits > how.tiles.max_kept_logits:
        # The barrier keeps XLA from seeing that these are the logits of the first sweep, which
        # it would otherwise keep.
        again, log_sum_exp = jax.lax.optimization_barrier((hidden, log_sum_exp))
        logits_of = (ids.logits(again) for ids in vocabulary)
    factor = (weights * (1 + 2 * z_loss * log_sum_exp))[:, None]
    d_hidden, d_parts = jnp.zeros(hidden.shape, jnp.float32), []
    for ids, logits in zip(vocabulary, logits_of, strict=True):
        d_logits = factor * jnp.exp(logits - log_sum_exp[:, None])
        d_logits = jnp.where(ids.is_target(targets), d_logits - weights[:, None], d_logits).astype(
            hidden.dtype
        )
        d_hidden += jnp.matmul(d_logits, ids.rows, preferred_element_type=jnp.float32)
        d_parts.append(jnp.matmul(d_logits.T, hidden, preferred_element_type=jnp.float32))
    if how.shared_over:
        d_hidden = jax.lax.psum(d_hidden, how.shared_over)
    return total, measures, d_hidden.astype(hidden.dtype), d_parts


def _add_parts(d_tables: Any, d_parts: Any, sizes: tuple[int, ...]) -> Any:
    """Adds the vocabulary tiles' gradients to the tables'; padding rows stay 0."""
    if d_tables is None:
        return None
    if len(d_parts) == 1 and len(sizes) > 1:  # one tile over all tables
        d_parts = jnp.split(d_parts[0], np.cumsum(sizes)[:-1])
    parts, sums = iter(d_parts), []
    for table, size in zip(d_tables, sizes, strict=True):
        first = 0
        while first < size:
            part = next(parts)
            table = table.at[first : first + part.shape[0]].add(part)
            first += part.shape[0]
        sums.append(table)
    return tuple(sums)
