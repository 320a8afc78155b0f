"""Trained parameters laid out for decoding: one tree a layer, few large products.

Axes: B rows, D model width, K key/value heads, G query heads a key/value head, H head width,
F hidden width, V codes of a segment.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from poet.models.config import PrefixLMConfig
from poet.models.tables import head_rows, segment_rows
from poet.typing import Array

WEIGHT_DTYPES = ("model", "bfloat16", "int8")

# A kernel is {"kernel": [in, out]} or {"int8": [in, out], "scale": float32 [out]}.
Kernel = dict[str, Any]


def prepare_for_sampling(
    params: Any, config: PrefixLMConfig, weight_dtype: str = "model"
) -> dict[str, Any]:
    """Lays trained parameters out for `decode.generate`; run it once, it is compiled inside.

    Queries, keys and values are one product, and so are the two widening ones of the MLP: a step
    has few rows, and a matrix read as one piece is read faster.

    Args:
      params: The model's, boxed or not, on any mesh.
      config: The model's.
      weight_dtype: Of the matrices: "model" is the type of its products, "bfloat16", or "int8" with
        one scale a column (its largest weight becomes 127), which halves what a step reads.

    Returns:
      ``layers``, a tuple with one tree a layer; ``heads`` and ``tables``, the real rows of each
      segment, heads turned to [D, V]; and ``base``, everything else, for `sampling_config`.
    """
    if weight_dtype not in WEIGHT_DTYPES:
        raise ValueError(
            f"weight_dtype={weight_dtype!r} is unknown; choose one of {', '.join(WEIGHT_DTYPES)}."
        )
    return _prepare(nn.meta.unbox(params), config, weight_dtype)


def sampling_config(config: PrefixLMConfig) -> PrefixLMConfig:
    """The config that fits ``base``: tables have their real rows, with shared bits added."""
    return dataclasses.replace(
        config, row_multiple=1, share_visual_bits=False, remat_policy="none", matmuls="plain"
    )


@functools.partial(jax.jit, static_argnums=(1, 2))
def _prepare(params: Any, config: PrefixLMConfig, weight_dtype: str) -> dict[str, Any]:
    stacked = params["layers"]["block"]
    tables = {
        segment.name: segment_rows(params["embed"], segment).astype(config.dtype)
        for segment in config.vocabulary.segments
    }
    rest = {k: v for k, v in params.items() if k not in ("layers", "head", "embed")}
    return {
        "base": rest | {"embed": tables},
        "layers": tuple(
            _layer(jax.tree.map(lambda x, i=index: x[i], stacked), config, weight_dtype)
            for index in range(config.num_layers)
        ),
        "heads": {
            segment.name: _kernel(head_rows(params, segment).T, config, weight_dtype)
            for segment in config.vocabulary.segments
        },
    }


def _layer(block: Any, config: PrefixLMConfig, weight_dtype: str) -> dict[str, Any]:
    kv_heads = config.block.num_kv_heads
    query, key, value = (block[name]["kernel"] for name in ("query", "key", "value"))
    # A key/value head stays beside its query heads, so that heads can be split over devices.
    query = query.reshape(config.d_model, kv_heads, -1, config.head_dim)
    qkv = jnp.concatenate([query, key[:, :, None], value[:, :, None]], axis=2)
    mlp = block["mlp"]
    gate_up = jnp.stack([mlp["gate"]["kernel"], mlp["up"]["kernel"]], axis=-1)

    def kernel(weights: Array, num_in: int = 1) -> Kernel:
        return _kernel(weights.reshape(math.prod(weights.shape[:num_in]), -1), config, weight_dtype)

    return {
        **{
            name: block[name]["scale"]
            for name in ("attention_norm", "query_norm", "key_norm", "mlp_norm")
        },
        "qkv": kernel(qkv),
        "out": kernel(block["out"]["kernel"], 2),
        "gate_up": kernel(gate_up),
        "down": kernel(mlp["down"]["kernel"]),
    }


def _kernel(weights: Array, config: PrefixLMConfig, weight_dtype: str) -> Kernel:
    if weight_dtype == "int8":
        # Per column, so that the scale leaves the product.
        weights = weights.astype(jnp.float32)
        scale = jnp.max(jnp.abs(weights), axis=0) / 127
        scaled = weights / jnp.where(scale > 0, scale, 1.0)[None, :]
        return {"int8": jnp.round(scaled).astype(jnp.int8), "scale": scale}
    dtype = config.dtype if weight_dtype == "model" else jnp.bfloat16
    return {"kernel": weights.astype(dtype)}


def multiply(x: Array, kernel: Kernel, out_dtype: Any = None) -> Array:
    """x [..., in] times a kernel: [..., out], float32 inside; in x's type unless told otherwise."""
    rows = x.reshape(-1, x.shape[-1])
    if "int8" in kernel:
        weights = kernel["int8"].astype(x.dtype)
        out = jnp.matmul(rows, weights, preferred_element_type=jnp.float32)
        out = out * kernel["scale"][None, :]
    else:
        weights = kernel["kernel"]
        # Narrow weights are read narrow; on devices that multiply them so, rows follow them.
        rows = rows.astype(weights.dtype) if jax.default_backend() != "cpu" else rows
        out = jnp.matmul(rows, weights.astype(rows.dtype), preferred_element_type=jnp.float32)
    return out.astype(out_dtype or x.dtype).reshape(*x.shape[:-1], -1)
