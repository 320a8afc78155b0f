"""Products of layers in 8 bits, by qwix (the extra `quant`).

Of a kernel's three products, the forward one and the gradient of its inputs multiply 8-bit
numbers; the gradient of the kernel, which adds up over all tokens of a batch, multiplies those of
the layer's own type. Each row of the inputs, each column of the kernel and each row of the
gradients has a scale of its own, so that its largest number becomes the largest of the 8-bit type.
Gradients pass through the rounding as if it were not there ("straight-through", Bengio et al.,
arXiv 1308.3432).

Axes: R rows (tokens), I inputs, O outputs.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from poet.typing import Array, Float

# Name -> types of inputs and kernel, and of the gradients that meet the kernel. Those of fp8 are
# the usual ones (Micikevicius et al., arXiv 2209.05433): gradients need range more than steps.
_TYPES = {
    "int8": (jnp.int8, jnp.int8),
    "fp8": (jnp.float8_e4m3fn, jnp.float8_e5m2),
}
# "plain": in the layer's own type.
MATMULS = ("plain", *_TYPES)


def check_matmuls(matmuls: str) -> None:
    """Raises ValueError unless products of this name, one of ``MATMULS``, can be formed here."""
    if matmuls != "plain":
        _provider(matmuls)


class EightBitProduct(nn.Module):
    """x @ kernel in 8 bits, in the type of both.

    A module without parameters: qwix looks for its operands among those of the module that calls
    it, by shape too, and would mistake inputs of a kernel's shape for a kernel.

    Attributes:
      matmuls: "int8" or "fp8".
    """

    matmuls: str

    def __call__(self, x: Float[Array, "R I"], kernel: Float[Array, "I O"]) -> Float[Array, "R O"]:
        """ValueError if qwix is not installed."""
        return _provider(self.matmuls).dot_general(x, kernel, (((1,), (0,)), ((), ())))


@functools.cache
def _provider(matmuls: str) -> Any:
    try:
        import qwix
    except ImportError as error:
        raise ValueError(
            f"matmuls = {matmuls!r} needs qwix, which is not installed: `make setup"
            " EXTRAS=quant`, or set matmuls = 'plain'."
        ) from error
    kind, gradient_kind = _TYPES[matmuls]
    rule = qwix.QtRule(
        weight_qtype=kind,
        act_qtype=kind,
        bwd_qtype=gradient_kind,
        additional_qt_config={"drhs_grad_qtype": None},  # the kernel's gradient
    )
    return qwix.QtProvider([rule])
