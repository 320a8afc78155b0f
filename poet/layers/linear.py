"""A bias-free linear map whose kernel is born in its full shape, with or without an adapter."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from poet.layers.eight_bit import EightBitProduct
from poet.layers.sharding import platform
from poet.typing import Array, Float

# The collection of variables in which a caller of `apply` may give some of the maps an adapter.
ADAPTERS = "adapters"


class Linear(nn.Module):
    """Maps the last axes of its input to new last axes; no bias.

    flax's DenseGeneral initialises a flattened kernel, to which the logical axes of the full
    kernel do not fit once a mesh is active (flax issue 3676, flax 0.12.8). Here the kernel keeps
    its full shape in the parameters and is flattened for the product only.

    With "a" [*in_shape, rank] and "b" [rank, *out_shape] of its own in the collection ``ADAPTERS``,
    the map adds (x a) b (Hu et al., "LoRA", arXiv 2106.09685), formed beside the kernel's product:
    no array of the kernel's size is made for an adapter, nor for its gradient.

    Attributes:
      in_shape: Trailing axes of the input that are contracted.
      out_shape: Axes that take their place.
      axes: Logical axis names of the kernel, one for each axis of in_shape + out_shape.
      scale: Variance of the outputs at initialisation, for inputs of variance 1.
      dtype: Type of the product; parameters stay float32.
      matmuls: A name of ``eight_bit.MATMULS``: how the product is formed.
    """

    in_shape: Sequence[int]
    out_shape: Sequence[int]
    axes: Sequence[str | None]
    scale: float = 1.0
    dtype: DTypeLike = jnp.float32
    matmuls: str = "plain"

    @nn.compact
    def __call__(self, x: Float[Array, "... _"]) -> Float[Array, "..."]:
        in_shape, out_shape = tuple(self.in_shape), tuple(self.out_shape)
        in_axes = tuple(range(len(in_shape)))
        out_axes = tuple(range(len(in_shape), len(in_shape) + len(out_shape)))
        init = nn.initializers.variance_scaling(
            self.scale, "fan_in", "truncated_normal", in_axis=in_axes, out_axis=out_axes
        )
        kernel = self.param(
            "kernel", nn.with_logical_partitioning(init, tuple(self.axes)), in_shape + out_shape
        )
        product: Callable[..., Any] = operator.matmul
        if self.matmuls != "plain" and not self.is_initializing():
            product = EightBitProduct(self.matmuls)
        y = apply_linear(x, kernel.astype(self.dtype), len(in_shape), product)
        if self.has_variable(ADAPTERS, "a"):
            a, b = (self.get_variable(ADAPTERS, part).astype(self.dtype) for part in ("a", "b"))
            y = y + apply_linear(apply_linear(x, a, len(in_shape)), b, 1)
        return y


def apply_linear(
    x: Any, kernel: Any, num_in_axes: int, product: Callable[..., Any] = operator.matmul
) -> Any:
    """Contracts the last ``num_in_axes`` axes of x with the first ones of the kernel.

    All other axes of x become one: XLA on CPU forms weight gradients about 3.5 times faster from
    [B x L, D] than from [B, L, D]. Not on TPU, whose memory holds lengths in eights: joining
    sequences whose length is no multiple of eight copies them.
    """
    if product is operator.matmul and platform() == "tpu":
        axes = tuple(range(x.ndim - num_in_axes, x.ndim)), tuple(range(num_in_axes))
        return jax.lax.dot_general(x.astype(kernel.dtype), kernel, (axes, ((), ())))
    lead, out_shape = x.shape[: x.ndim - num_in_axes], kernel.shape[num_in_axes:]
    fan_in = math.prod(kernel.shape[:num_in_axes])
    flat = product(x.astype(kernel.dtype).reshape(-1, fan_in), kernel.reshape(fan_in, -1))
    return flat.reshape(*lead, *out_shape)
