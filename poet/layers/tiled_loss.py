"""Cross-entropy over a large, segmented vocabulary without ever holding all logits.

Axes: N tokens, D model width, V ids. The unembedding comes as several tables, which together
make one softmax. Work goes token tile by token tile and, inside, vocabulary tile by vocabulary
tile. Under differentiation the gradients of the hidden states and of the tables are formed in the
same pass and later scaled by the cotangent: three products with the tables instead of four when
a token tile's logits may be kept, and memory that does not grow with tokens x vocabulary.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poet.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossTiles:
    """How the loss is cut up. Numbers change speed and memory, not results.

    Attributes:
      num_tokens: Tokens a tile.
      num_ids: Rows of a table a tile.
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


def tiled_cross_entropy(
    hidden: Float[Array, "N D"],
    tables: tuple[Float[Array, "_ D"], ...],
    sizes: tuple[int, ...],
    targets: Int[Array, " N"],
    weights: Float[Array, " N"],
    tiles: LossTiles = LossTiles(),  # noqa: B008 (frozen value)
) -> tuple[Float[Array, ""], dict[str, Float[Array, " N"]]]:
    """Weighted sum of -log p(target) plus z-loss, and measures of every token.

    Args:
      hidden: Final hidden states; its type is the type of the products, sums are float32.
      tables: Unembedding tables; rows from ``sizes[i]`` on are padding and take no part.
      sizes: Number of ids of each table. Id 0 is the first row of the first table; the tables
        follow each other without gaps.
      targets: Ids over the whole vocabulary.
      weights: Factor of each token's loss.
      tiles: Tile sizes and z-loss.

    Returns:
      The sum in nats, and {"nats": -log p(target), "is_correct": 1.0 where no other id has a
      higher logit}, both [N], without gradient.
    """
    for table, size in zip(tables, sizes, strict=True):
        if not 0 < size <= table.shape[0]:
            raise ValueError(f"A table of {table.shape[0]} rows cannot hold {size} ids.")
    num_tokens = hidden.shape[0]
    tile = min(tiles.num_tokens, num_tokens)
    # Whole tiles only: tokens of weight 0 fill the last one.
    fill = -num_tokens % tile
    if fill:
        hidden = jnp.pad(hidden, ((0, fill), (0, 0)))
        targets, weights = jnp.pad(targets, (0, fill)), jnp.pad(weights, (0, fill))
    total, measures = _loss(tuple(sizes), tiles, hidden, tuple(tables), targets, weights)
    measures = jax.lax.stop_gradient(measures)
    return total, {name: values[:num_tokens] for name, values in measures.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(sizes: Any, tiles: Any, hidden: Any, tables: Any, targets: Any, weights: Any) -> Any:
    total, measures, _ = _sweep(sizes, tiles, hidden, tables, targets, weights, grads=False)
    return total, measures


def _loss_forward(
    sizes: Any, tiles: Any, hidden: Any, tables: Any, targets: Any, weights: Any
) -> Any:
    total, measures, grads = _sweep(sizes, tiles, hidden, tables, targets, weights, grads=True)
    return (total, measures), (*grads, targets)


def _loss_backward(sizes: Any, tiles: Any, kept: Any, cotangents: Any) -> Any:
    del sizes, tiles
    d_hidden, d_tables, d_weights, targets = kept
    scale = cotangents[0]
    return (
        (d_hidden * scale).astype(d_hidden.dtype),
        tuple((table * scale).astype(table.dtype) for table in d_tables),
        None if targets is None else np.zeros(targets.shape, jax.dtypes.float0),
        d_weights * scale,
    )


_loss.defvjp(_loss_forward, _loss_backward)


def _sweep(
    sizes: Any, tiles: LossTiles, hidden: Any, tables: Any, targets: Any, weights: Any, grads: bool
) -> Any:
    """All token tiles: sum, measures [N], and gradients (hidden, tables, weights) or None."""
    num_tokens = hidden.shape[0]
    tile = min(tiles.num_tokens, num_tokens)
    num_tiles = num_tokens // tile
    vocabulary = _vocabulary_tiles(sizes, tables, tiles, hidden.dtype)
    run = functools.partial(_token_tile, vocabulary, tiles=tiles, grads=grads)
    d_tables = tuple(jnp.zeros(t.shape, jnp.float32) for t in tables) if grads else None
    if num_tiles == 1:
        total, measures, d_hidden, d_parts = run(hidden, targets, weights)
        d_tables = _add_parts(d_tables, d_parts, sizes, tiles)
    else:
        # Token i goes to tile i % num_tiles: each tile then spans the whole batch, and a batch
        # that is sharded over devices stays where it is.
        def deal(x: Any) -> Any:
            return x.reshape(tile, num_tiles, *x.shape[1:]).swapaxes(0, 1)

        def body(carry: Any, dealt: Any) -> Any:
            total, d_tables = carry
            part, measures, d_hidden, d_parts = run(*dealt)
            return (total + part, _add_parts(d_tables, d_parts, sizes, tiles)), (measures, d_hidden)

        start = (jnp.zeros((), jnp.float32), d_tables)
        dealt = (deal(hidden), deal(targets), deal(weights))
        (total, d_tables), stacked = jax.lax.scan(body, start, dealt)
        measures, d_hidden = jax.tree.map(
            lambda x: x.swapaxes(0, 1).reshape(num_tokens, *x.shape[2:]), stacked
        )
    if not grads:
        return total, measures, None
    d_weights = measures["nats"] + tiles.z_loss * jnp.square(measures["log_sum_exp"])
    return total, measures, (d_hidden, d_tables, d_weights)


def _token_tile(
    vocabulary: Any, hidden: Any, targets: Any, weights: Any, *, tiles: LossTiles, grads: bool
) -> Any:
    """One tile of tokens against the whole vocabulary, in two sweeps."""
    logits_of = [_logits(hidden, rows) for _, rows in vocabulary]
    top = functools.reduce(jnp.maximum, [logits.max(axis=-1) for logits in logits_of])
    sum_exp = sum(jnp.exp(logits - top[:, None]).sum(axis=-1) for logits in logits_of)
    log_sum_exp = jnp.log(sum_exp) + top
    target_logit = sum(
        _pick(logits, targets - start)
        for (start, _), logits in zip(vocabulary, logits_of, strict=True)
    )
    nats = log_sum_exp - target_logit
    total = jnp.sum(weights * (nats + tiles.z_loss * jnp.square(log_sum_exp)))
    measures = {
        "nats": nats,
        "is_correct": (target_logit >= top).astype(jnp.float32),
        "log_sum_exp": log_sum_exp,
    }
    if not grads:
        return total, measures, None, None

    num_logits = hidden.shape[0] * sum(rows.shape[0] for _, rows in vocabulary)
    if num_logits > tiles.max_kept_logits:
        # The barrier keeps XLA from seeing that these are the logits of the first sweep, which
        # it would otherwise keep.
        again, log_sum_exp = jax.lax.optimization_barrier((hidden, log_sum_exp))
        logits_of = (_logits(again, rows) for _, rows in vocabulary)
    factor = (weights * (1 + 2 * tiles.z_loss * log_sum_exp))[:, None]
    d_hidden, d_parts = jnp.zeros(hidden.shape, jnp.float32), []
    for (start, rows), logits in zip(vocabulary, logits_of, strict=True):
        is_target = jnp.arange(rows.shape[0])[None, :] == (targets - start)[:, None]
        d_logits = factor * jnp.exp(logits - log_sum_exp[:, None])
        d_logits = jnp.where(is_target, d_logits - weights[:, None], d_logits).astype(hidden.dtype)
        d_hidden += jnp.matmul(d_logits, rows, preferred_element_type=jnp.float32)
        d_parts.append(jnp.matmul(d_logits.T, hidden, preferred_element_type=jnp.float32))
    return total, measures, d_hidden.astype(hidden.dtype), d_parts


def _logits(hidden: Any, rows: Any) -> Any:
    return jnp.matmul(hidden, rows.T, preferred_element_type=jnp.float32)


def _pick(logits: Any, local: Any) -> Any:
    """logits[n, local[n]], 0 where local lies outside this tile."""
    inside = (local >= 0) & (local < logits.shape[1])
    index = jnp.clip(local, 0, logits.shape[1] - 1)[:, None]
    return jnp.where(inside, jnp.take_along_axis(logits, index, axis=1)[:, 0], 0.0)


def _vocabulary_tiles(sizes: Any, tables: Any, tiles: LossTiles, dtype: Any) -> Any:
    """(first id, rows) of every vocabulary tile; one single tile when all tables fit into it."""
    real = [table[:size].astype(dtype) for table, size in zip(tables, sizes, strict=True)]
    if sum(sizes) <= tiles.num_ids:
        return [(0, real[0] if len(real) == 1 else jnp.concatenate(real))]
    found, start = [], 0
    for rows, size in zip(real, sizes, strict=True):
        for first in range(0, size, tiles.num_ids):
            found.append((start + first, rows[first : first + tiles.num_ids]))
        start += size
    return found


def _add_parts(d_tables: Any, d_parts: Any, sizes: Any, tiles: LossTiles) -> Any:
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
