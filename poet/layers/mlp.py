"""Two-layer perceptrons, gated and plain."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from poet.layers.linear import Linear
from poet.typing import Array, Float


class GatedMLP(nn.Module):
    """(activation(x gate) * (x up)) down, three bias-free kernels (T5 v1.1 and later).

    Attributes:
      hidden_dim: F.
      activation: Of the gate.
      out_scale: Variance of the result at initialisation, relative to its input.
      dtype: Type of the products.
      matmuls: A name of ``eight_bit.MATMULS``: how they are formed.
    """

    hidden_dim: int
    activation: Callable[[Array], Array] = jax.nn.silu
    out_scale: float = 1.0
    dtype: DTypeLike = jnp.float32
    matmuls: str = "plain"

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        dim, hidden = x.shape[-1], self.hidden_dim
        how = {"dtype": self.dtype, "matmuls": self.matmuls}

        def widen(name: str) -> Linear:
            return Linear((dim,), (hidden,), ("embed", "mlp"), name=name, **how)

        x = self.activation(widen("gate")(x)) * widen("up")(x)
        down = Linear((hidden,), (dim,), ("mlp", "embed"), self.out_scale, name="down", **how)
        return down(x)


class PlainMLP(nn.Module):
    """activation(x up) down, two bias-free kernels (the first T5).

    Attributes:
      hidden_dim: F.
      activation: Between the kernels.
      dtype: Type of the products.
    """

    hidden_dim: int
    activation: Callable[[Array], Array] = jax.nn.relu
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        dim, hidden = x.shape[-1], self.hidden_dim
        up = Linear((dim,), (hidden,), ("embed", "mlp"), dtype=self.dtype, name="up")
        down = Linear((hidden,), (dim,), ("mlp", "embed"), dtype=self.dtype, name="down")
        return down(self.activation(up(x)))
