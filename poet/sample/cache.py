"""Keys and values of what has been written, one cache a layer, in the model's type or in int8.

A cache is {"key", "value"}, each [R, K, M, H], for int8 with {"key_scale", "value_scale"}, each
[R, K, M]: one scale a position and head. M, the capacity, grows by blocks between loops, so that a
step reads filled blocks only and a loop neither copies nor cuts a cache.

Axes: R rows, K key/value heads, G query heads a key/value head, M capacity, W positions of a pass,
H head width.
"""

from typing import Any

import jax
import jax.numpy as jnp

from poet.typing import Array, Bool, Float, Int

CACHE_DTYPES = ("model", "bfloat16", "int8")

Cache = dict[str, Any]

# Far below any score, yet finite: a row that sees nothing gives a mean, not NaN.
_MASKED = -1e30


def from_prefix(
    keys: Float[Array, "R P K H"],
    values: Float[Array, "R P K H"],
    capacity: int,
    cache_dtype: str = "model",
) -> Cache:
    """The cache that holds a prefix at positions 0 to P - 1.

    Raises:
      ValueError: An unknown type, or a prefix longer than the capacity.
    """
    if cache_dtype not in CACHE_DTYPES:
        raise ValueError(
            f"cache_dtype={cache_dtype!r} is unknown; choose one of {', '.join(CACHE_DTYPES)}."
        )
    if keys.shape[1] > capacity:
        raise ValueError(f"A prefix of {keys.shape[1]} does not fit a cache of {capacity}.")
    cache: Cache = {}
    for name, rows in (("key", keys), ("value", values)):
        cache |= _stored(name, rows.swapaxes(1, 2), cache_dtype)
    return grow(cache, capacity)


def grow(cache: Cache, capacity: int) -> Cache:
    """The cache with room for ``capacity`` positions."""
    more = capacity - cache["key"].shape[2]
    return {
        name: jnp.pad(rows, ((0, 0), (0, 0), (0, more)) + ((0, 0),) * (rows.ndim - 3))
        for name, rows in cache.items()
    }


def write(
    cache: Cache,
    keys: Float[Array, "R W K H"],
    values: Float[Array, "R W K H"],
    positions: Int[Array, " W"],
) -> Cache:
    """The cache with rows at these positions; those beyond the capacity are dropped if W > 1."""
    after = dict(cache)
    for name, rows in (("key", keys), ("value", values)):
        stored = _stored(name, rows.swapaxes(1, 2), _dtype_of(cache))
        for field, values_now in stored.items():
            after[field] = _place(cache[field], values_now, positions)
    return after


def attend(
    q: Float[Array, "R W N H"], cache: Cache, visible: Bool[Array, "W M"]
) -> Float[Array, "R W N H"]:
    """Rows of queries over the cached positions that they may see; softmax in float32.

    Heads come first in a cache, so that neither product has to turn it around.
    """
    num_rows, width, num_heads, head_dim = q.shape
    keys, values = cache["key"], cache["value"]
    kv_heads = keys.shape[1]
    q = (q * head_dim**-0.5).reshape(num_rows, width, kv_heads, -1, head_dim)
    # Positions and query heads become rows of one product a key/value head.
    q = q.transpose(0, 2, 1, 3, 4).reshape(num_rows, kv_heads, -1, head_dim)
    scores = jnp.einsum(
        "RKAH,RKMH->RKAM", q, keys.astype(q.dtype), preferred_element_type=jnp.float32
    )
    if "key_scale" in cache:
        scores = scores * cache["key_scale"][:, :, None, :]
    groups = num_heads // kv_heads
    seen = visible if groups == 1 else jnp.repeat(visible, groups, axis=0)
    weights = jax.nn.softmax(jnp.where(seen[None, None], scores, _MASKED), axis=-1)
    if "value_scale" in cache:
        weights = weights * cache["value_scale"][:, :, None, :]
    out = jnp.einsum("RKAM,RKMH->RKAH", weights.astype(q.dtype), values.astype(q.dtype))
    out = out.reshape(num_rows, kv_heads, width, groups, head_dim).transpose(0, 2, 1, 3, 4)
    return out.reshape(num_rows, width, num_heads, head_dim)


def _dtype_of(cache: Cache) -> str:
    if "key_scale" in cache:
        return "int8"
    return "bfloat16" if cache["key"].dtype == jnp.bfloat16 else "model"


def _stored(name: str, rows: Array, cache_dtype: str) -> Cache:
    """Rows [..., H] as a cache keeps them."""
    if cache_dtype == "int8":
        rows = rows.astype(jnp.float32)
        scale = jnp.max(jnp.abs(rows), axis=-1) / 127
        scaled = rows / jnp.where(scale > 0, scale, 1.0)[..., None]
        return {name: jnp.round(scaled).astype(jnp.int8), f"{name}_scale": scale}
    return {name: rows.astype(jnp.bfloat16) if cache_dtype == "bfloat16" else rows}


def _place(held: Array, rows: Array, positions: Array) -> Array:
    """``held`` [R, K, M, ...] with ``rows`` [R, K, W, ...] at the positions of axis 2."""
    rows = rows.astype(held.dtype)
    if rows.shape[2] == 1:
        return jax.lax.dynamic_update_slice_in_dim(held, rows, positions[0], axis=2)
    return held.at[:, :, positions].set(rows, mode="drop")
