"""Matrix products in the text of a compiled program, however it writes them."""

import dataclasses
import math
import re

import numpy as np

from poet.plan.hlo import Computation, Instruction


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product [rows, inner] x [inner, columns], `batch` of them.

    Attributes:
      rows: Of the first factor.
      inner: What is summed over.
      columns: Of the second factor.
      batch: How many at once.
      times: How often.
      is_eight_bit: Whether both factors are of 8 bits.
    """

    rows: float
    inner: float
    columns: float
    batch: float = 1.0
    times: float = 1.0
    is_eight_bit: bool = False

    @property
    def flops(self) -> float:
        """Of all of them; a multiplication and an addition are two."""
        return 2.0 * self.rows * self.inner * self.columns * self.batch * self.times


def of_instruction(computation: Computation, instruction: Instruction) -> list[Product]:
    """The product that an instruction is, if it is one; fusions are not entered."""
    if instruction.opcode == "dot":
        found = _dot(computation, instruction)
    elif instruction.opcode == "convolution":
        found = _convolution(computation, instruction)
    elif instruction.opcode == "custom-call" and "$gemm" in instruction.attributes:
        found = _gemm(computation, instruction)
    else:
        return []
    factors = (computation.shape_of(name) for name in instruction.operands[:2])
    is_eight_bit = all(re.match(r"[su]8$|f8", factor.dtype) for factor in factors)
    return [dataclasses.replace(found, is_eight_bit=is_eight_bit)]


def _dot(computation: Computation, instruction: Instruction) -> Product:
    left, right = (computation.shape_of(name).dims for name in instruction.operands[:2])
    inner = math.prod(left[d] for d in instruction.numbers("lhs_contracting_dims"))
    batch = math.prod(left[d] for d in instruction.numbers("lhs_batch_dims"))
    each = max(1, inner * batch)
    return Product(math.prod(left) / each, inner, math.prod(right) / each, batch)


def _gemm(computation: Computation, instruction: Instruction) -> Product:
    """A product that a GPU program hands to its library."""

    def dims(name: str) -> list[int]:
        match = re.search(rf'"{name}":\[([^\]]*)\]', instruction.attributes)
        return [int(word) for word in re.findall(r"\d+", match.group(1))] if match else []

    left, right = (computation.shape_of(name).dims for name in instruction.operands[:2])
    inner = math.prod(left[d] for d in dims("lhs_contracting_dimensions"))
    batch = math.prod(left[d] for d in dims("lhs_batch_dimensions"))
    each = max(1, inner * batch)
    return Product(math.prod(left) / each, inner, math.prod(right) / each, batch)


def _convolution(computation: Computation, instruction: Instruction) -> Product:
    """TPU programs write every matrix product as a convolution, with batches as window sizes.

    Only positions where the window meets a value are multiplications: not those in the padding,
    nor those between dilated values.
    """
    left, right = (computation.shape_of(name).dims for name in instruction.operands[:2])
    out = instruction.shapes[0].dims
    labels = instruction.attribute("dim_labels")
    left_labels, _, rest = labels.partition("_")
    right_labels, _, out_labels = rest.partition("->")
    window = _window(instruction.attributes)
    met, places = 1, 1
    for dim, label in enumerate(sorted(c for c in out_labels if c.isdigit())):
        out_size = out[out_labels.index(label)]
        places *= out_size
        met *= _num_met(left[left_labels.index(label)], out_size, window[dim])
    groups = int(instruction.attribute("batch_group_count") or 1)
    rows = left[left_labels.index("b")] / groups * places
    inner = right[right_labels.index("i")] * met / max(1, places)
    return Product(rows, inner, out[out_labels.index("f")])


def _window(attributes: str) -> list[dict[str, int]]:
    """size, stride, pad, lhs_dilate and rhs_dilate of each spatial dimension."""
    match = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in match.group(1).split()) if match else {}
    num_dims = len(fields["size"].split("x")) if "size" in fields else 0

    def values(name: str, default: str) -> list[str]:
        return fields[name].split("x") if name in fields else [default] * num_dims

    rows = zip(
        values("size", "1"),
        values("stride", "1"),
        values("pad", "0_0"),
        values("lhs_dilate", "1"),
        values("rhs_dilate", "1"),
        strict=True,
    )
    return [
        {
            "size": int(size),
            "stride": int(stride),
            "pad": int(pad.split("_")[0]),
            "lhs_dilate": int(lhs),
            "rhs_dilate": int(rhs),
        }
        for size, stride, pad, lhs, rhs in rows
    ]


def _num_met(in_size: int, out_size: int, window: dict[str, int]) -> int:
    """Pairs (place of the result, place in the window) that meet a value of the input."""
    at = np.arange(out_size)[:, None] * window["stride"] - window["pad"]
    at = at + np.arange(window["size"])[None, :] * window["rhs_dilate"]
    inside = (at >= 0) & (at < (in_size - 1) * window["lhs_dilate"] + 1)
    return int((inside & (at % window["lhs_dilate"] == 0)).sum())
