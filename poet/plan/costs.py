"""What the instructions of a compiled program cost a chip: products, bytes, collectives.

All counts are of one chip, and of a whole run of the program: bodies of loops count as often as
they run.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from poet.plan.exchanges import Collective, device_groups, kind_and_bytes, slices_of
from poet.plan.hlo import Computation, Instruction, Module
from poet.plan.products import Product, of_instruction

# Move nothing, or what they move is counted where it is used.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "iota", "copy-done", "async-start",
    "async-done", "async-update", "optimization-barrier", "add-dependency", "domain",
    "send-done", "recv", "recv-done",
}  # fmt: skip
# Custom calls of TPU programs that only say something to the compiler.
_FREE_CALLS = ("AllocateBuffer", "AssumeGather", "Sharding", "GatherScatterIndices")
# Kernels, whose products the text does not show.
_KERNELS = ("tpu_custom_call", "$fmha", "gpu.triton")


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
class Costs:
    """Everything that a program does on one chip.

    Attributes:
      ops: One after the other.
      collectives: Exchanges.
      unknown: Kernels whose products are not known and not counted, each once.
    """

    ops: tuple[Op, ...]
    collectives: tuple[Collective, ...]
    unknown: tuple[str, ...] = ()

    @property
    def flops(self) -> float:
        """Of the matrix products, recomputation included."""
        return sum(op.flops for op in self.ops)

    @property
    def eight_bit_flops(self) -> float:
        """Of the products of numbers of 8 bits alone."""
        return sum(
            op.times * product.flops
            for op in self.ops
            for product in op.products
            if product.is_eight_bit
        )

    @property
    def hbm_bytes(self) -> float:
        """Read and written."""
        return sum(op.hbm_bytes * op.times for op in self.ops)

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(
            self.ops + other.ops,
            self.collectives + other.collectives,
            tuple(dict.fromkeys(self.unknown + other.unknown)),
        )


def count(
    module: Module,
    num_devices: int = 1,
    num_slices: int = 1,
    kernels: Mapping[str, Op] = {},  # noqa: B006 (never written)
) -> Costs:
    """The costs of a program.

    Args:
      module: From `hlo.parse`.
      num_devices: Devices it was compiled for.
      num_slices: Equal slices that they lie in, in order.
      kernels: Word in a kernel's name -> its products, and bytes beyond one reading of its
        operands and one writing of its results, of one run.
    """
    ops, collectives, unknown = [], [], {}
    for computation, times in module.runs():
        for instruction in computation.instructions.values():
            found = kind_and_bytes(module, computation, instruction)
            if found is not None:
                kind, num_bytes = found
                groups = device_groups(instruction, module, num_devices, num_slices)
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
                # A fusion may multiply what it has just been sent.
                op = _op(module, computation, instruction, times)
                if op is not None and op.products:
                    ops.append(dataclasses.replace(op, hbm_bytes=0.0))
                continue
            op = _op(module, computation, instruction, times)
            if any(word in instruction.attributes for word in _KERNELS):
                name = source_of(instruction)
                known = next((kernels[word] for word in kernels if word in name), None)
                if known is None:
                    unknown[name] = None
                else:
                    op = _with_kernel(op, known, times)
            if op is not None:
                ops.append(op)
    return Costs(tuple(ops), tuple(collectives), tuple(unknown))


def _with_kernel(op: Op | None, kernel: Op, times: float) -> Op:
    moved = kernel.hbm_bytes + (op.hbm_bytes if op else 0.0)
    return Op(kernel.products, moved, times, kernel.what)


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
        products = tuple(of_instruction(computation, instruction))
    if not moved and not products:
        return None
    return Op(products, moved, times, source_of(instruction))


def _products(module: Module, computation: Computation) -> list[Product]:
    """Of a fused computation and those fused into it."""
    found = []
    for instruction in computation.instructions.values():
        found += of_instruction(computation, instruction)
        if instruction.opcode == "fusion":
            inner = module.called(instruction, "calls")
            found += _products(module, inner) if inner else []
    return found


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
