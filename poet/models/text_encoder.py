"""The encoder half of T5 v1.1, at any size (spec/tokenizers.md section d), and of the first T5.

Pre-norm blocks, RMS norms, no biases, gated tanh-GELU (a plain ReLU in the first T5),
relative-position bias held once and used by every block, attention scores without scaling.

Axes: B batch, L text slots, D width, N heads, H head width.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from poet.layers.attention import masked_attention
from poet.layers.linear import Linear
from poet.layers.mlp import GatedMLP, PlainMLP
from poet.layers.norm import RMSNorm
from poet.typing import Array, Float, Int, NumpyArray

PAD_ID = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Sizes of the encoder. The defaults are T5 v1.1 XL, as the paper uses.

    Attributes:
      num_ids: Rows of the embedding; at least the text tokenizer's ids.
      num_layers: Blocks.
      d_model: D.
      num_heads: N.
      head_dim: H; N x H need not be D.
      mlp_dim: Hidden width of the gated MLP.
      num_buckets: Relative positions that are told apart.
      max_distance: From here on, one bucket a direction.
      is_gated: Gated tanh-GELU, as in T5 v1.1; otherwise the plain ReLU of the first T5.
    """

    num_ids: int = 32_128
    num_layers: int = 24
    d_model: int = 2048
    num_heads: int = 32
    head_dim: int = 64
    mlp_dim: int = 5120
    num_buckets: int = 32
    max_distance: int = 128
    is_gated: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name != "is_gated" and getattr(self, field.name) < 1:
                raise ValueError(
                    f"TextEncoderConfig {field.name}={getattr(self, field.name)} must be at least"
                    " 1; T5 v1.1 sizes are in spec/tokenizers.md."
                )


class T5Encoder(nn.Module):
    """Text ids -> vectors, one a slot.

    Attributes:
      config: Sizes.
      dtype: Type of the products; norms, softmax and the residual stream stay float32.
    """

    config: TextEncoderConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, text_ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Slots after the text (id 0) are not looked at; their own vectors mean nothing."""
        config = self.config
        embed_init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "embed"))
        table = self.param("embedding", embed_init, (config.num_ids, config.d_model))
        table = nn.with_logical_constraint(table, ("vocab", None))
        x = jnp.take(table, text_ids.astype(jnp.uint32), axis=0)

        bias_init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "heads"))
        bias_table = self.param("relative_bias", bias_init, (config.num_buckets, config.num_heads))
        buckets = relative_buckets(text_ids.shape[1], config.num_buckets, config.max_distance)
        bias_NLM = jnp.transpose(bias_table[buckets], (2, 0, 1))

        is_text = text_ids != PAD_ID
        mask = jnp.broadcast_to(is_text[:, None, :], (*text_ids.shape, text_ids.shape[1]))
        for index in range(config.num_layers):
            x = T5Block(config, self.dtype, name=f"block_{index}")(x, bias_NLM, mask)
        return RMSNorm(name="final_norm")(x)


class T5Block(nn.Module):
    """Self-attention and a gated MLP, each added to its input.

    Attributes:
      config: Sizes.
      dtype: Type of the products.
    """

    config: TextEncoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        bias: Float[Array, "N L L"],
        mask: Array,
    ) -> Float[Array, "B L D"]:
        config, heads = self.config, (self.config.num_heads, self.config.head_dim)

        def project(name: str, scale: float) -> Linear:
            axes = ("embed", "heads", "kv")
            return Linear((config.d_model,), heads, axes, scale, dtype=self.dtype, name=name)

        y = RMSNorm(dtype=self.dtype, name="attention_norm")(x)
        # Scores are not scaled, so the queries start smaller by the root of the head width.
        q = project("query", 1 / config.head_dim)(y)
        k, v = project("key", 1.0)(y), project("value", 1.0)(y)
        y = masked_attention(q, k, v, mask, bias, scale=1.0)
        out = Linear(
            heads, (config.d_model,), ("heads", "kv", "embed"), dtype=self.dtype, name="out"
        )
        x = x + out(y).astype(jnp.float32)

        y = RMSNorm(dtype=self.dtype, name="mlp_norm")(x)
        if config.is_gated:
            gelu = functools.partial(jax.nn.gelu, approximate=True)
            y = GatedMLP(config.mlp_dim, gelu, dtype=self.dtype, name="mlp")(y)
        else:
            y = PlainMLP(config.mlp_dim, dtype=self.dtype, name="mlp")(y)
        return x + y.astype(jnp.float32)


def relative_buckets(length: int, num_buckets: int, max_distance: int) -> Int[NumpyArray, "L L"]:
    """Bucket of each (query row, key column): half of them for keys on the right.

    Distances up to a quarter of the buckets have one each, larger ones share buckets that grow
    logarithmically up to ``max_distance``.
    """
    positions = np.arange(length)
    offset = positions[None, :] - positions[:, None]
    half, exact = num_buckets // 2, num_buckets // 4
    distance = np.abs(offset)
    # float32, as the published encoder computes it: rounding decides a few buckets.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact)
    ratio = ratio / np.float32(np.log(max_distance / exact))
    far = exact + (ratio * (half - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(far, half - 1))
    return (bucket + half * (offset > 0)).astype(np.int32)
