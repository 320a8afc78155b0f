"""Rows of an embedding, looked up in the layers' type, with gradients that add up in float32.

On a mesh each device looks up its own tokens. A table's width, which `fsdp` splits, is gathered for
that, and its gradient is summed and split again: all of it at once, or so many rows at a time.

Axes: V rows of the table, D model width.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from poet.layers.sharding import TokenAxes, num_ways, token_axes
from poet.layers.vocabulary_tiles import visit_rows
from poet.typing import Array, Float, Int


def rows_of(
    table: Float[Array, "V D"],
    codes: Int[Array, "*B"],
    dtype: DTypeLike,
    rows_at_once: int | None = None,
) -> Float[Array, "*B D"]:
    """The rows of codes in [0, V), in `dtype`; NaN for others, so that they cannot go unseen.

    A row's gradient is the sum over all tokens that looked it up, which stays float32 whatever the
    `dtype`: in bfloat16 a sum of many stops growing.

    Args:
      table: Float32. On a mesh it lies as the logical axes ("vocab", "embed") say.
      codes: [B, n], or of any shape where no mesh is in force.
      dtype: Of the result.
      rows_at_once: Rows that are gathered at a time on a mesh that splits the table's width; None
        gathers all.
    """
    axes = token_axes(table.shape[1])
    divides = codes.ndim == 2 and codes.shape[0] % num_ways(axes.rows) == 0
    # What the mesh does not divide is left to the partitioner. The loss refuses such batches.
    if not divides or table.shape[0] % num_ways(axes.ids):
        axes = TokenAxes()
    at_once = (rows_at_once if axes.width else None) or table.shape[0]
    how = _How(axes, tuple(table.shape), jnp.dtype(dtype), at_once)
    return _rows_of(how, table, codes)


@dataclasses.dataclass(frozen=True)
class _How:
    """What is static."""

    axes: TokenAxes
    shape: tuple[int, int]
    dtype: Any
    rows_at_once: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rows_of(how: _How, table: Array, codes: Array) -> Array:
    axes = how.axes
    if not axes.any:
        return _taken(table.astype(how.dtype), codes, jnp.nan)

    def on_device(part: Array, codes: Array) -> Array:
        part, local = part.astype(how.dtype), codes - _first_row(how, len(part))

        def visit(first: Any, count: int, x: Array) -> Array:
            rows = jax.lax.dynamic_slice_in_dim(part, first, count)
            if axes.width:
                rows = jax.lax.all_gather(rows, axes.width, axis=1, tiled=True)
            return x + _taken(rows, local - first, 0)

        x = jnp.zeros((*codes.shape, how.shape[1]), how.dtype)
        x = visit_rows(len(part), how.rows_at_once, visit, x)
        if axes.ids:
            x = jax.lax.psum(x, axes.ids)
        is_row = (codes >= 0) & (codes < how.shape[0])
        return jnp.where(is_row[..., None], x, jnp.nan)

    rows = PartitionSpec(axes.rows or None)
    return jax.shard_map(on_device, in_specs=(axes.table, rows), out_specs=rows, check_vma=False)(
        table, codes
    )


def _forward(how: _How, table: Array, codes: Array) -> tuple[Array, Array]:
    return _rows_of(how, table, codes), codes


def _backward(how: _How, codes: Array, d_rows: Array) -> tuple[Array, np.ndarray]:
    axes, d_codes = how.axes, np.zeros(codes.shape, jax.dtypes.float0)
    if not axes.any:
        return _summed(how.shape, codes, d_rows), d_codes

    def on_device(codes: Array, d_rows: Array) -> Array:
        num_rows = how.shape[0] // num_ways(axes.ids)
        local = codes - _first_row(how, num_rows)

        def visit(first: Any, count: int, d_part: Array) -> Array:
            d_tile = _summed((count, how.shape[1]), local - first, d_rows)
            if axes.width:
                d_tile = jax.lax.psum_scatter(d_tile, axes.width, scatter_dimension=1, tiled=True)
            return jax.lax.dynamic_update_slice_in_dim(d_part, d_tile, first, axis=0)

        d_part = jnp.zeros((num_rows, how.shape[1] // num_ways(axes.width)), jnp.float32)
        d_part = visit_rows(num_rows, how.rows_at_once, visit, d_part)
        others = tuple(name for name in axes.rows if name not in axes.width)
        return jax.lax.psum(d_part, others) if others else d_part

    rows = PartitionSpec(axes.rows or None)
    d_table = jax.shard_map(
        on_device, in_specs=(rows, rows), out_specs=axes.table, check_vma=False
    )(codes, d_rows)
    return d_table, d_codes


_rows_of.defvjp(_forward, _backward)


def _first_row(how: _How, num_rows: int) -> Array | int:
    """Of this device's part of the table."""
    return jax.lax.axis_index(how.axes.ids) * num_rows if how.axes.ids else 0


def _taken(table: Array, codes: Array, otherwise: float) -> Array:
    # Unsigned, since a negative index would count from the end.
    return jnp.take(table, codes.astype(jnp.uint32), axis=0, mode="fill", fill_value=otherwise)


def _summed(shape: tuple[int, int], codes: Array, d_rows: Array) -> Array:
    zeros = jnp.zeros(shape, jnp.float32)
    return zeros.at[codes.astype(jnp.uint32)].add(d_rows.astype(jnp.float32), mode="drop")
