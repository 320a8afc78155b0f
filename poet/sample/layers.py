"""The model's layers on the weights of `poet.sample.weights`: the prefix at once, then passes.

The arithmetic is that of `poet.models.block`; tests compare the two.

Axes: R rows, P prefix, W positions of a pass, D model width, N query heads, K key/value heads,
H head width, M capacity of a cache.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from poet.layers.attention import prefix_attention
from poet.layers.norm import RMSNorm
from poet.layers.position import rotate
from poet.models.config import PrefixLMConfig
from poet.sample import cache as caching
from poet.sample.weights import multiply
from poet.typing import Array, Bool, Float, Int


def prefill(
    config: PrefixLMConfig,
    layers: Sequence[Any],
    x: Float[Array, "R P D"],
    rotation: Float[Array, "P H"],
    capacity: int,
    cache_dtype: str,
) -> list[caching.Cache]:
    """The caches of all layers with the prefix in them."""
    caches = []
    for layer in layers:
        q, k, v = _project(config, layer, x, rotation)
        x = _finish(config, layer, x, prefix_attention(q, k, v, x.shape[1]))
        caches.append(caching.from_prefix(k, v, capacity, cache_dtype))
    return caches


def one_pass(
    config: PrefixLMConfig,
    layers: Sequence[Any],
    x: Float[Array, "R W D"],
    rotation: Float[Array, "W H"],
    caches: Sequence[caching.Cache],
    positions: Int[Array, " W"],
    visible: Bool[Array, "W M"],
) -> tuple[Float[Array, "R W D"], list[caching.Cache]]:
    """Hidden states of the positions, and the caches with them written."""
    after = []
    for layer, cache in zip(layers, caches, strict=True):
        q, k, v = _project(config, layer, x, rotation)
        cache = caching.write(cache, k, v, positions)
        x = _finish(config, layer, x, caching.attend(q, cache, visible))
        after.append(cache)
    return x, after


def _project(
    config: PrefixLMConfig, layer: Any, x: Array, rotation: Array
) -> tuple[Array, Array, Array]:
    """Queries [R, W, N, H], keys and values [R, W, K, H]."""
    dtype, kv_heads = config.dtype, config.block.num_kv_heads
    groups = config.num_heads // kv_heads
    y = multiply(_norm(layer["attention_norm"], x, dtype), layer["qkv"])
    heads = y.reshape(*x.shape[:2], kv_heads, groups + 2, config.head_dim)
    q = heads[..., :groups, :].reshape(*x.shape[:2], -1, config.head_dim)
    k, v = heads[..., groups, :], heads[..., groups + 1, :]
    q = rotate(_norm(layer["query_norm"], q, dtype), rotation)
    k = rotate(_norm(layer["key_norm"], k, dtype), rotation)
    return q, k, v


def _finish(config: PrefixLMConfig, layer: Any, x: Array, attended: Array) -> Array:
    """The rest of a layer after its attention."""
    x = x + multiply(attended.reshape(*x.shape[:2], -1), layer["out"])
    y = multiply(_norm(layer["mlp_norm"], x, config.dtype), layer["gate_up"])
    y = y.reshape(*x.shape[:2], -1, 2)
    return x + multiply(jax.nn.silu(y[..., 0]) * y[..., 1], layer["down"])


def _norm(scale: Array, x: Array, dtype: Any) -> Array:
    return RMSNorm(dtype=dtype).apply({"params": {"scale": scale}}, jnp.asarray(x))
