"""What the instructions of a compiled program cost a chip: products, bytes, collectives.

All counts are of one chip, and of a whole run of the program: bodies of loops count as often as
they run.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from poet.plan.hlo import Computation, Instruction, Module

# Move nothing, or what they move is counted where it is used.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "iota", "copy-done", "async-start",
    "async-done", "async-update", "optimization-barrier", "add-dependency", "domain",
}  # fmt: skip
_COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast", "ragged-all-to-all",
)  # fmt: skip
# Custom calls of TPU programs that only say something to the compiler.
_FREE_CALLS = ("AllocateBuffer", "AssumeGather", "Sharding", "GatherScatterIndices")
# Kernels whose products the text does not show: attention's.
_KERNELS = ("tpu_custom_call", "$fmha", "gpu.triton")


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product [rows, inner] x [inner, columns], `batch` of them.

    Attributes:
      rows: Of the first factor.
      inner: What is summed over.
      columns: Of the second factor.
      batch: How many at once.
      times: How often.
    """

    rows: float
    inner: float
    columns: float
    batch: float = 1.0
    times: float = 1.0

    @property
    def flops(self) -> float:
        """Of all of them; a multiplication and an addition are two."""
        return 2.0 * self.rows * self.inner * self.columns * self.batch * self.times


@dataclasses.dataclass(frozen=True)
class Op:
    """Something that a chip does at one time.

    Attributes:
      products: Matrix products in it.
      hbm_bytes: Read and written, of one time.
      times: How often.
      what: Name for people.
    """

    products: tuple[Product, ...]
    hbm_bytes: float
    times: float = 1.0
    what: str = ""

    @property
    def flops(self) -> float:
        """Of the products, all times."""
        return self.times * sum(product.flops for product in self.products)


@dataclasses.dataclass(frozen=True)
class Collective:
    """Devices that exchange something.

    Attributes:
      kind: "all-gather", "all-reduce", "reduce-scatter", "all-to-all" or "collective-permute".
      num_bytes: Of the whole array that a device has before or after, the larger one; of one time.
      group_size: Devices that take part.
      num_slices: Slices that they lie in.
      times: How often.
      what: Name for people.
    """

    kind: str
    num_bytes: float
    group_size: int
    num_slices: int = 1
    times: float = 1.0
    what: str = ""

    @property
    def total_bytes(self) -> float:
        """All times."""
        return self.num_bytes * self.times


@dataclasses.dataclass(frozen=True)
class Costs:
    """Everything that a program does on one chip."""

    ops: tuple[Op, ...]
    collectives: tuple[Collective, ...]
    kernels: tuple[str, ...] = ()

    @property
    def flops(self) -> float:
        """Of the matrix products, recomputation included."""
        return sum(op.flops for op in self.ops)

    @property
    def hbm_bytes(self) -> float:
        """Read and written."""
        return sum(op.hbm_bytes * op.times for op in self.ops)

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(
            self.ops + other.ops,
            self.collectives + other.collectives,
            self.kernels + other.kernels,
        )


def count(module: Module, num_devices: int = 1, num_slices: int = 1) -> Costs:
    """The costs of a program.

    Args:
      module: From `hlo.parse`.
      num_devices: Devices it was compiled for.
      num_slices: Equal slices that they lie in, in order.
    """
    ops, collectives, kernels = [], [], []
    for computation, times in module.runs():
        for instruction in computation.instructions.values():
            found = _collective(module, computation, instruction)
            if found is not None:
                kind, num_bytes = found
                groups = device_groups(instruction, computation, module, num_devices)
                collectives.append(
                    Collective(
                        kind=kind,
                        num_bytes=num_bytes,
                        group_size=len(groups),
                        num_slices=slices_of(groups, num_devices, num_slices),
                        times=times,
                        what=source_of(instruction),
                    )
                )
                continue
            if any(word in instruction.attributes for word in _KERNELS):
                kernels.append(source_of(instruction))
            op = _op(module, computation, instruction, times)
            if op is not None:
                ops.append(op)
    return Costs(tuple(ops), tuple(collectives), tuple(kernels))


def source_of(instruction: Instruction) -> str:
    """Where in the model's code an instruction is from, shortened."""
    match = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return "/".join(match.group(1).split("/")[-4:]) if match else instruction.name


def _op(module, computation, instruction, times) -> Op | None:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return None
    if opcode == "custom-call" and any(word in instruction.attributes for word in _FREE_CALLS):
        return None
    if opcode == "fusion":
        inner = module.called(instruction, "calls")
        moved = _fusion_bytes(module, computation, instruction, inner)
        products = tuple(_products(module, inner))
    else:
        moved = _plain_bytes(computation, instruction)
        products = tuple(_product_of(computation, instruction))
    if not moved and not products:
        return None
    return Op(products, moved, times, source_of(instruction))


def _products(module: Module, computation: Computation) -> list[Product]:
    """Of a fused computation and those fused into it."""
    found = []
    for instruction in computation.instructions.values():
        found += _product_of(computation, instruction)
        if instruction.opcode == "fusion":
            inner = module.called(instruction, "calls")
            found += _products(module, inner) if inner else []
    return found


def _product_of(computation: Computation, instruction: Instruction) -> list[Product]:
    if instruction.opcode == "dot":
        return [_dot(computation, instruction)]
    if instruction.opcode == "convolution":
        return [_convolution(computation, instruction)]
    if instruction.opcode == "custom-call" and "$gemm" in instruction.attributes:
        return [_gemm(computation, instruction)]
    return []


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


def _plain_bytes(computation: Computation, instruction: Instruction) -> float:
    if instruction.opcode in ("dynamic-slice", "gather", "slice"):
        return 2 * _off_chip(instruction.shapes)
    if instruction.opcode == "dynamic-update-slice":
        update = computation.instructions[instruction.operands[1]]
        return 2 * _off_chip(update.shapes)
    if instruction.opcode == "copy-start":
        # The shapes are (target, source, context).
        return _off_chip(instruction.shapes[:2])
    reads = [
        _off_chip(computation.instructions[name].shapes)
        for name in instruction.operands
        if name in computation.instructions
    ]
    return sum(reads) + _off_chip(instruction.shapes)


def _off_chip(shapes: Sequence) -> float:
    return sum(shape.num_bytes for shape in shapes if not shape.is_on_chip)


def _fusion_bytes(module, computation, instruction, inner) -> float:
    """What a fusion reads and writes: of arrays that it only slices or updates, the slices."""
    total = 0.0
    for name, parameter in zip(instruction.operands, inner.parameters, strict=False):
        operand = computation.instructions[name]
        if _off_chip(operand.shapes):
            total += min(_off_chip(operand.shapes), _read_bytes(module, inner, parameter))
    return total + _written_bytes(module, inner, instruction)


def _read_bytes(module: Module, computation: Computation, name: str) -> float:
    whole = computation.instructions[name].num_bytes
    total = 0.0
    for user in computation.users(name):
        if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
            total += user.num_bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            continue  # stays where it is
        elif user.opcode in ("bitcast", "get-tuple-element"):
            total += _read_bytes(module, computation, user.name)
        elif user.opcode == "fusion":
            inner = module.called(user, "calls")
            for operand, parameter in zip(user.operands, inner.parameters, strict=False):
                if operand == name:
                    total += _read_bytes(module, inner, parameter)
        else:
            return whole
    return min(whole, total)


def _written_bytes(module: Module, inner: Computation, instruction: Instruction) -> float:
    roots = [inner.root]
    if inner.root.opcode == "tuple":
        roots = [inner.instructions[name] for name in inner.root.operands]
    total = 0.0
    for root, shape in zip(roots, instruction.shapes, strict=False):
        if shape.is_on_chip:
            continue
        while root.opcode == "bitcast" and root.operands[0] in inner.instructions:
            root = inner.instructions[root.operands[0]]
        if root.opcode == "dynamic-update-slice":
            total += inner.instructions[root.operands[1]].num_bytes
        elif root.opcode == "fusion" and module.called(root, "calls") is not None:
            total += _written_bytes(module, module.called(root, "calls"), root)
        else:
            total += shape.num_bytes
    return total


def _collective(module, computation, instruction) -> tuple[str, float] | None:
    """(kind, bytes of the larger side) of an instruction that exchanges something, else None."""
    opcode = instruction.opcode
    if opcode == "fusion":
        inner = module.called(instruction, "calls")
        exchange = _exchange_in(inner) if inner else None
        if exchange is None:
            return None
        kind = exchange.opcode.removesuffix("-start")
        if kind == "all-reduce" and "all-reduce-scatter" in inner.name:
            kind = "reduce-scatter"
        return kind, exchange.num_bytes
    kind = opcode.removesuffix("-start")
    if kind not in _COLLECTIVES or opcode.endswith("-done"):
        return None
    given = sum(
        computation.instructions[name].num_bytes
        for name in instruction.operands
        if name in computation.instructions
    )
    made = instruction.num_bytes
    if opcode.endswith("-start") and kind != "all-reduce":
        # The shapes are (what is given, what is made, context).
        made = max((shape.num_bytes for shape in instruction.shapes), default=0.0)
    return kind, max(given, made)


def _exchange_in(computation: Computation) -> Instruction | None:
    for instruction in computation.instructions.values():
        if instruction.opcode.removesuffix("-start") in _COLLECTIVES:
            return instruction
    return None


def device_groups(
    instruction: Instruction, computation: Computation, module: Module, num_devices: int
) -> list[int]:
    """The devices of the first group of a collective."""
    if instruction.opcode == "fusion":
        instruction = _exchange_in(module.called(instruction, "calls"))
    return first_group(instruction.attributes, num_devices)


def first_group(attributes: str, num_devices: int) -> list[int]:
    """The devices of the first group that a collective's attributes name.

    Four forms: lists {{0,2},{1,3}}, counts [2,2]<=[2,2]T(1,0), axes of a mesh
    mesh['a'=2,'b'=2] {'a'}, and pairs source_target_pairs={{0,1},{1,0}}.
    """
    pairs = re.search(r"source_target_pairs=\{(\{\d+,\d+\}(?:,\{\d+,\d+\})*)\}", attributes)
    if pairs:
        found = [tuple(map(int, p.split(","))) for p in re.findall(r"\d+,\d+", pairs.group(1))]
        return list(next((pair for pair in found if pair[0] != pair[1]), found[0]))
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        return [int(word) for word in listed.group(1).split(",")]
    counted = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if counted:
        groups, dims, order = (
            [int(word) for word in text.split(",")] if text else [] for text in counted.groups()
        )
        devices = np.arange(math.prod(dims)).reshape(dims)
        devices = devices.transpose(order) if order else devices
        return devices.reshape(groups)[0].tolist()
    axes = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes)
    if axes:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes.group(1))}
        chosen = set(re.findall(r"'([^']+)'", axes.group(2)))
        devices = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        at = tuple(slice(None) if name in chosen else 0 for name in sizes)
        return devices[at].reshape(-1).tolist()
    return list(range(num_devices))


def slices_of(group: Sequence[int], num_devices: int, num_slices: int) -> int:
    """In how many slices the devices of a group lie."""
    per_slice = max(1, num_devices // num_slices)
    return len({device // per_slice for device in group})


def by_kind(collectives: Sequence[Collective]) -> dict[str, dict[str, float]]:
    """kind -> count and bytes, all times, largest first."""
    found: dict[str, dict[str, float]] = {}
    for one in collectives:
        row = found.setdefault(one.kind, {"count": 0.0, "bytes": 0.0})
        row["count"] += one.times
        row["bytes"] += one.total_bytes
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))
