"""Root-mean-square normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from poet.typing import Array, Float


class RMSNorm(nn.Module):
    """Divides by the root mean square of the last axis, then scales; no mean, no bias.

    Attributes:
      axis: Logical name of the last axis.
      epsilon: Added to the mean square.
      dtype: Type of the result; the mean square is always taken in float32.
    """

    axis: str = "embed"
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        init = nn.with_logical_partitioning(nn.initializers.ones_init(), (self.axis,))
        scale = self.param("scale", init, (x.shape[-1],))
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        scale = scale.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + scale.shape)
        return (x * jax.lax.rsqrt(mean_square + self.epsilon) * scale).astype(self.dtype)
