"""One layer of the prefix LM, over whole sequences; `poet.sample.layers` has its cached form.

Axes: B batch, L positions, N query heads, K key/value heads, H head width, D model width.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from poet.layers.attention import masked_attention, prefix_attention
from poet.layers.attention_choice import chosen
from poet.layers.cudnn import cudnn_attention
from poet.layers.dropout import ChannelDropout
from poet.layers.linear import Linear
from poet.layers.mlp import GatedMLP
from poet.layers.norm import RMSNorm
from poet.layers.position import rotate
from poet.layers.sharding import heads_apart, positions_apart
from poet.layers.splash import SplashBlocks, splash_attention
from poet.typing import Array, Bool, Float

# What rematerialisation may keep by name: products whose results are as wide as the stream, or
# narrower. Those of the MLP's wide side, 2.7 x D twice, are most of what a layer would keep.
KEPT_NAME = "narrow_product"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Sizes of one layer.

    Attributes:
      d_model: D.
      num_heads: N.
      num_kv_heads: K; divides N.
      head_dim: H.
      mlp_dim: Hidden width of the gated MLP.
      residual_scale: Variance of what each half adds to the residual stream at initialisation.
      dropout_rate: Share of channels, drawn for each example, in which a half adds nothing to the
        residual stream. Only where apply gets a "dropout" key, as training does.
      dtype: Type of the products.
      matmuls: A name of ``eight_bit.MATMULS``: how products with a kernel are formed.
      attention: A name from `attention_choice.ATTENTIONS`.
      attention_blocks: Of TPU's kernel.
    """

    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    residual_scale: float = 1.0
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32
    matmuls: str = "plain"
    attention: str = "plain"
    attention_blocks: SplashBlocks = SplashBlocks()


class Block(nn.Module):
    """Pre-norm attention with normalised queries and keys, then a gated MLP; both added.

    Attributes:
      config: Sizes.
    """

    config: BlockConfig

    def setup(self) -> None:
        config = self.config
        dtype, axes = config.dtype, ("embed", "heads", "kv")
        how = {"dtype": dtype, "matmuls": config.matmuls}
        heads, kv_heads = (
            (count, config.head_dim) for count in (config.num_heads, config.num_kv_heads)
        )
        self.attention_norm = RMSNorm(dtype=dtype)
        self.query = Linear((config.d_model,), heads, axes, **how)
        self.key = Linear((config.d_model,), kv_heads, axes, **how)
        self.value = Linear((config.d_model,), kv_heads, axes, **how)
        self.query_norm = RMSNorm(axis="kv", dtype=dtype)
        self.key_norm = RMSNorm(axis="kv", dtype=dtype)
        self.out = Linear(
            heads, (config.d_model,), ("heads", "kv", "embed"), config.residual_scale, **how
        )
        self.mlp_norm = RMSNorm(dtype=dtype)
        self.mlp = GatedMLP(config.mlp_dim, out_scale=config.residual_scale, **how)
        self.dropout = ChannelDropout(config.dropout_rate)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        rotation: Any,
        prefix_length: int,
        visible: Bool[Array, "L L"] | None = None,
    ) -> Float[Array, "B L D"]:
        """Whole sequences: full inside the prefix, causal after it.

        Args:
          x: Residual stream.
          rotation: Rows of ``rotation_table`` for the L positions.
          prefix_length: Static P.
          visible: Which rows each row sees, instead; the weights of all pairs are then held.

        Raises:
          ValueError: The configuration wants a kernel that the devices, or `visible`, do not allow.
        """
        x = nn.with_logical_constraint(x, ("batch", "length", "embed"))
        q, k, v = heads_apart(*self._project(x, rotation))
        if visible is not None:
            attended = self._attend_visible(q, k, v, visible)
        else:
            attended = self._attend(q, k, v, prefix_length)
        return self._finish(x, positions_apart(attended))

    def _attend(self, q: Array, k: Array, v: Array, prefix_length: int) -> Array:
        # Parameters do not depend on it, and are made from one row, which no mesh divides.
        name = "plain" if self.is_initializing() else chosen(self.config.attention)
        if name == "plain":
            return prefix_attention(q, k, v, prefix_length)
        if name == "cudnn":
            return cudnn_attention(q, k, v, prefix_length)
        blocks, is_interpreted = self.config.attention_blocks, name == "splash_interpreted"
        return splash_attention(q, k, v, prefix_length, blocks, is_interpreted)

    def _attend_visible(self, q: Array, k: Array, v: Array, visible: Array) -> Array:
        name = self.config.attention
        if name not in ("auto", "plain"):
            raise ValueError(
                f"attention={name!r} knows the order of raster only, and this schedule has a mask"
                " of its own; use attention = 'auto', which then attends without the kernel."
            )
        return masked_attention(q, k, v, visible)

    def _project(self, x: Array, rotation: Any) -> tuple[Array, Array, Array]:
        y = self.attention_norm(x)
        q = rotate(self.query_norm(checkpoint_name(self.query(y), KEPT_NAME)), rotation)
        k = rotate(self.key_norm(checkpoint_name(self.key(y), KEPT_NAME)), rotation)
        return q, k, checkpoint_name(self.value(y), KEPT_NAME)

    def _finish(self, x: Array, attended: Array) -> Array:
        x = x + self.dropout(checkpoint_name(self.out(attended), KEPT_NAME)).astype(x.dtype)
        return x + self.dropout(self.mlp(self.mlp_norm(x))).astype(x.dtype)
