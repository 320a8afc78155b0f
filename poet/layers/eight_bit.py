"""Products of layers in 8 bits, by qwix (the extra `poet[quant]`).

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


def eight_bit_product(
    matmuls: str, x: Float[Array, "R I"], kernel: Float[Array, "I O"]
) -> Float[Array, "R O"]:
    """x @ kernel in 8 bits, in the type of both; only within a flax module, which qwix asks for.

    Args:
      matmuls: "int8" or "fp8".
      x: Inputs.
      kernel: Of the same type.

    Raises:
      ValueError: qwix is not installed.
    """
    # In front an axis of 1: qwix takes an array that has a parameter's shape for that parameter.
    return _provider(matmuls).dot_general(x[None], kernel, (((2,), (0,)), ((), ())))[0]


@functools.cache
def _provider(matmuls: str) -> Any:
    try:
        import qwix
    except ImportError as error:
        raise ValueError(
            f"matmuls = {matmuls!r} needs qwix, which is not installed; `pip install"
            " \"poet[quant]\"`, or set matmuls = 'plain'."
        ) from error
    kind, gradient_kind = _TYPES[matmuls]
    rule = qwix.QtRule(
        weight_qtype=kind,
        act_qtype=kind,
        bwd_qtype=gradient_kind,
        additional_qt_config={"drhs_grad_qtype": None},  # the kernel's gradient
    )
    return qwix.QtProvider([rule])
