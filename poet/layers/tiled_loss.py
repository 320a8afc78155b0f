"""Cross-entropy over a large, segmented vocabulary without ever holding all logits.

Axes: B sequences, R output positions, D model width, V ids. The unembedding comes as several
tables, which together make one softmax. Work goes token tile by token tile and, inside, vocabulary
tile by vocabulary tile. Under differentiation the gradients of the hidden states and of the tables
are formed in the same pass and later scaled by the cotangent: three products with the tables
instead of four when a token tile's logits may be kept, and memory that does not grow with tokens x
vocabulary.

On a mesh each device goes through its own tokens and its own rows of the tables: a table's width,
which `fsdp` splits, is gathered once before the tiles, and its gradient is summed and split again
once after them; or, with `LossTiles.gathers_by_tile`, tile by tile.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from poet.layers.loss_sweep import LossTiles, Sweep, sweep
from poet.layers.sharding import (
    TokenAxes,
    num_ways,
    positions_to_add,
    positions_whole,
    token_axes,
)
from poet.layers.vocabulary_tiles import parts_of_tables, whole_tables
from poet.typing import Array, Float, Int

__all__ = ["LossTiles", "tiled_cross_entropy"]


def tiled_cross_entropy(
    hidden: Float[Array, "*lead D"],
    tables: tuple[Float[Array, "_ D"], ...],
    sizes: tuple[int, ...],
    targets: Int[Array, "*lead"],
    weights: Float[Array, "*lead"],
    tiles: LossTiles = LossTiles(),  # noqa: B008 (frozen value)
) -> tuple[Float[Array, ""], dict[str, Float[Array, "*lead"]]]:
    """Weighted sum of -log p(target) plus z-loss, and measures of every token.

    Args:
      hidden: Final hidden states; their type is the type of the products, sums are float32.
        [B, R, D] are spread over the mesh in force, if logical axis rules are.
      tables: Unembedding tables; rows from ``sizes[i]`` on are padding and take no part.
      sizes: Number of ids of each table. Id 0 is the first row of the first table; the tables
        follow each other without gaps.
      targets: Ids over the whole vocabulary.
      weights: Factor of each token's loss.
      tiles: Tile sizes and z-loss.

    Returns:
      The sum in nats, and {"nats": -log p(target), "is_correct": 1.0 where no other id has a
      higher logit}, both of the targets' shape, without gradient.

    Raises:
      ValueError: A table has fewer rows than ids, or the sequences do not divide among the devices.
    """
    for table, size in zip(tables, sizes, strict=True):
        if not 0 < size <= table.shape[0]:
            raise ValueError(f"A table of {table.shape[0]} rows cannot hold {size} ids.")
    num_positions = targets.shape[-1]
    axes = token_axes(hidden.shape[-1]) if hidden.ndim == 3 else TokenAxes()
    if axes.any:
        if len(hidden) % num_ways(axes.rows):
            raise ValueError(
                f"A batch of {len(hidden)} sequences cannot be split over {num_ways(axes.rows)}"
                f" devices ({' x '.join(axes.rows)}); use a multiple of that."
            )
        more = ((0, 0), (0, positions_to_add(num_positions)))
        hidden = jnp.pad(hidden, (*more, (0, 0)))
        targets, weights = jnp.pad(targets, more), jnp.pad(weights, more)
    how = _How(tiles, tuple(sizes), axes)
    total, measures = _loss(how, hidden, tuple(tables), targets, weights)
    measures = {name: jax.lax.stop_gradient(values) for name, values in measures.items()}
    if axes.any:
        measures = {k: positions_whole(v)[:, :num_positions] for k, v in measures.items()}
    return total, measures


@dataclasses.dataclass(frozen=True)
class _How:
    """What is static."""

    tiles: LossTiles
    sizes: tuple[int, ...]
    axes: TokenAxes
    has_grads: bool = False
    trains_tables: bool = False


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(how: _How, hidden: Any, tables: Any, targets: Any, weights: Any) -> Any:
    total, measures, _ = _sweep(how, hidden, tables, targets, weights)
    return total, measures


def _loss_forward(how: _How, *args: Any) -> Any:
    # A head that does not train, as under adapters, spares a product and the largest array.
    trains_tables = any(leaf.perturbed for leaf in jax.tree.leaves(args[1], is_leaf=_is_primal))
    hidden, tables, targets, weights = jax.tree.map(
        lambda leaf: leaf.value, args, is_leaf=_is_primal
    )
    how = dataclasses.replace(how, has_grads=True, trains_tables=trains_tables)
    total, measures, grads = _sweep(how, hidden, tables, targets, weights)
    return (total, measures), (*grads, targets)


def _is_primal(leaf: Any) -> bool:
    return isinstance(leaf, jax.custom_derivatives.CustomVJPPrimal)


def _loss_backward(how: _How, kept: Any, cotangents: Any) -> Any:
    del how
    d_hidden, d_tables, d_weights, targets = kept
    scale = cotangents[0]
    return (
        (d_hidden * scale).astype(d_hidden.dtype),
        tuple(None if d is None else (d * scale).astype(d.dtype) for d in d_tables),
        None if targets is None else np.zeros(targets.shape, jax.dtypes.float0),
        d_weights * scale,
    )


_loss.defvjp(_loss_forward, _loss_backward, symbolic_zeros=True)


def _sweep(how: _How, hidden: Any, tables: Any, targets: Any, weights: Any) -> Any:
    """`loss_sweep.sweep` over tokens of any number of axes, on whatever devices there are."""
    if how.axes.any:
        return _sweep_on_mesh(how, hidden, tables, targets, weights)
    cast = [table.astype(hidden.dtype) for table in tables]
    one = Sweep(
        tiles=how.tiles,
        vocabulary=whole_tables(cast, how.sizes),
        has_grads=how.has_grads,
        trains_tables=how.trains_tables,
    )
    return _sweep_tokens(one, hidden, tables, targets, weights)


def _sweep_tokens(how: Sweep, hidden: Any, tables: Any, targets: Any, weights: Any) -> Any:
    shape = targets.shape
    total, measures, grads = sweep(
        how, hidden.reshape(-1, hidden.shape[-1]), tables, targets.reshape(-1), weights.reshape(-1)
    )
    measures = {name: values.reshape(shape) for name, values in measures.items()}
    if grads is not None:
        d_hidden, d_tables, d_weights = grads
        grads = d_hidden.reshape(hidden.shape), d_tables, d_weights.reshape(shape)
    return total, measures, grads


def _sweep_on_mesh(how: _How, hidden: Any, tables: Any, targets: Any, weights: Any) -> Any:
    axes, num_rows = how.axes, [len(table) for table in tables]
    # A table that its devices do not divide gets rows that are no ids.
    ways = num_ways(axes.ids)
    tables = tuple(jnp.pad(table, ((0, -len(table) % ways), (0, 0))) for table in tables)

    def on_device(hidden: Any, tables: Any, targets: Any, weights: Any) -> Any:
        # In the type of the products, which may be half as wide.
        cast = [table.astype(hidden.dtype) for table in tables]
        if axes.width and not how.tiles.gathers_by_tile:
            cast = [jax.lax.all_gather(t, axes.width, axis=1, tiled=True) for t in cast]
        one = _device_sweep(how, cast)
        total, measures, grads = _sweep_tokens(one, hidden, cast, targets, weights)
        total = _sum(total, axes.rows + axes.positions)
        if how.trains_tables:
            d_hidden, d_tables, d_weights = grads
            d_tables = tuple(_sum_table(how, d_table) for d_table in d_tables)
            # Layers go backward from d_hidden. Whole gradients of the tables, float32 and as large
            # as the vocabulary, would wait on every device until that is done, if they could.
            d_hidden, d_tables = jax.lax.optimization_barrier((d_hidden, d_tables))
            grads = d_hidden, d_tables, d_weights
        return total, measures, grads

    tokens, table_specs = axes.tokens, (axes.table,) * len(tables)
    measured = dict.fromkeys(("nats", "is_correct", "log_sum_exp"), tokens)
    grad_specs = (tokens, table_specs if how.trains_tables else (None,) * len(tables), tokens)
    total, measures, grads = jax.shard_map(
        on_device,
        in_specs=(tokens, table_specs, tokens, tokens),
        out_specs=(PartitionSpec(), measured, grad_specs if how.has_grads else None),
        # What is equal on all devices of an axis is so by the sums above.
        check_vma=False,
    )(hidden, tables, targets, weights)
    if how.trains_tables:
        d_hidden, d_tables, d_weights = grads
        d_tables = tuple(t[:rows] for t, rows in zip(d_tables, num_rows, strict=True))
        grads = d_hidden, d_tables, d_weights
    return total, measures, grads


def _device_sweep(how: _How, tables: Any) -> Sweep:
    """Of a device that has `tables` of each table's rows."""
    width = how.axes.width if how.tiles.gathers_by_tile else ()
    if how.axes.ids:
        vocabulary = parts_of_tables(tables, how.sizes, jax.lax.axis_index(how.axes.ids), width)
    else:
        vocabulary = whole_tables(tables, how.sizes, width)
    return Sweep(
        tiles=how.tiles,
        vocabulary=vocabulary,
        shared_over=how.axes.ids,
        has_grads=how.has_grads,
        trains_tables=how.trains_tables,
    )


def _sum(x: Any, axes: tuple[str, ...]) -> Any:
    return jax.lax.psum(x, axes) if axes else x


def _sum_table(how: _How, d_table: Any) -> Any:
    """A table's gradient from all tokens, split by width as the table is."""
    axes = how.axes
    if axes.width and not how.tiles.gathers_by_tile:
        d_table = jax.lax.psum_scatter(d_table, axes.width, scatter_dimension=1, tiled=True)
    others = (name for name in axes.rows + axes.positions if name not in axes.width)
    return _sum(d_table, tuple(others))
