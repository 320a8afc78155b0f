"""Reads the text of a compiled XLA program: computations, loops, how often each part runs.

`cost_analysis` of XLA counts the body of a loop once, however often it runs, and gives sums only.
The text has everything: every instruction with its shapes, and every loop with its bound.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_DTYPE_BYTES = {
    "pred": 1.0, "s8": 1.0, "u8": 1.0, "s4": 0.5, "u4": 0.5, "s16": 2.0, "u16": 2.0,
    "bf16": 2.0, "f16": 2.0, "s32": 4.0, "u32": 4.0, "f32": 4.0, "s64": 8.0, "u64": 8.0,
    "f64": 8.0, "c64": 8.0, "c128": 16.0, "token": 0.0,
}  # fmt: skip
_SHAPE = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(")


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array's shape.

    Attributes:
      dtype: XLA's name.
      dims: Sizes.
      is_on_chip: Lies in the fast memory beside the compute units, not in the large one.
    """

    dtype: str
    dims: tuple[int, ...]
    is_on_chip: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def num_bytes(self) -> float:
        """Bytes without padding."""
        return self.size * _DTYPE_BYTES.get(self.dtype, 1.0 if self.dtype[:2] == "f8" else 4.0)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def num_bytes(self) -> float:
        """Of the result."""
        return sum(shape.num_bytes for shape in self.shapes)

    def attribute(self, name: str) -> str:
        """Text of NAME={...} or NAME=word, "" without it."""
        match = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^\s,]+)", self.attributes)
        return match.group(1).strip("{}") if match else ""

    def numbers(self, name: str) -> tuple[int, ...]:
        """Whole numbers of NAME={1,2}."""
        return tuple(int(word) for word in re.findall(r"\d+", self.attribute(name)))


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in order."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        """What it returns."""
        return next(i for i in self.instructions.values() if i.is_root)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of its parameters, by number."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return tuple(i.name for i in sorted(found, key=lambda i: int(i.operands[0])))

    def shape_of(self, name: str) -> Shape:
        """The first shape of a result."""
        return self.instructions[name].shapes[0]

    def users(self, name: str) -> list[Instruction]:
        """Instructions that read a result."""
        return [i for i in self.instructions.values() if name in i.operands]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program."""

    entry: str
    computations: dict[str, Computation]

    def called(self, instruction: Instruction, name: str) -> Computation | None:
        """The computation that an attribute names."""
        return self.computations.get(instruction.attribute(name).lstrip("%"))

    def runs(self) -> Iterator[tuple[Computation, float]]:
        """(computation, how often a run of the program runs it), entry, loops and calls.

        Of a conditional, the branch with most instructions counts. Fusions are not entered.
        """
        yield from self._runs(self.computations[self.entry], 1.0)

    def _runs(self, computation: Computation, times: float) -> Iterator[tuple[Computation, float]]:
        yield computation, times
        for instruction in computation.instructions.values():
            if instruction.opcode == "while":
                body = self.called(instruction, "body")
                if body is not None:
                    yield from self._runs(body, times * self.trip_count(instruction))
            elif instruction.opcode == "conditional":
                branches = self._branches(instruction)
                if branches:
                    yield from self._runs(max(branches, key=lambda c: len(c.instructions)), times)
            elif instruction.opcode in ("call", "async-start"):
                inner = self.called(instruction, "to_apply") or self.called(instruction, "calls")
                if inner is not None:
                    yield from self._runs(inner, times)

    def trip_count(self, loop: Instruction) -> int:
        """How often the body of a while loop runs; 1 where the text does not say it."""
        stated = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if stated:
            return int(stated.group(1))
        condition = self.called(loop, "condition")
        bounds = [] if condition is None else self._bounds(condition)
        return max(bounds, default=1)

    def _bounds(self, condition: Computation) -> list[int]:
        """Constants that the condition compares with."""
        root = condition.root
        names = [root] + [
            condition.instructions[name] for name in root.operands if name in condition.instructions
        ]
        return [
            int(i.operands[0])
            for i in names
            if i.opcode == "constant" and i.operands and re.fullmatch(r"\d+", i.operands[0])
        ]

    def _branches(self, instruction: Instruction) -> list[Computation]:
        names = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
        words = _NAME.findall(names.group(1)) if names else []
        for name in ("true_computation", "false_computation"):
            words += [instruction.attribute(name).lstrip("%")]
        return [self.computations[word] for word in words if word in self.computations]


def parse(text: str) -> Module:
    """The program of `compiled.as_text()`.

    Raises:
      ValueError: for text without an entry computation.
    """
    computations, entry, name, lines = {}, None, None, {}
    for line in _whole_lines(text):
        if name is None:
            match = _HEADER.match(line)
            if match and line.rstrip().endswith("{"):
                name, lines = match.group(2), {}
                entry = name if match.group(1) else entry
        elif line.startswith("}"):
            computations[name] = Computation(name, lines)
            name = None
        elif " = " in line:
            instruction = _instruction(line)
            lines[instruction.name] = instruction
    if entry is None:
        raise ValueError(
            "The text holds no ENTRY computation; expected what `compiled.as_text()` gives."
        )
    return Module(entry, computations)


def _whole_lines(text: str) -> Iterator[str]:
    """Lines, those of an instruction joined: a kernel's metadata has line breaks in it."""
    whole = ""
    for line in text.splitlines():
        if whole.startswith(" ") and line and line[0] != " " and line.split(",")[0] != "}":
            whole += line
            continue
        yield whole
        whole = line
    yield whole


def _instruction(line: str) -> Instruction:
    left, _, right = line.strip().partition(" = ")
    is_root = left.startswith("ROOT ")
    name = left.removeprefix("ROOT ").lstrip("%")
    kind, rest = _split_type(right)
    opcode, _, rest = rest.partition("(")
    inside, attributes = _split_paren(rest)
    if opcode in ("parameter", "constant"):
        operands = (inside,)
    else:
        operands = tuple(_NAME.findall(inside))
    return Instruction(name, opcode.strip(), _shapes(kind), operands, attributes, is_root)


def _split_type(text: str) -> tuple[str, str]:
    """(type, the rest) of "type opcode(...)"."""
    if text.startswith("("):
        inside, rest = _split_paren(text[1:])
        return inside, rest.lstrip()
    kind, _, rest = text.partition(" ")
    return kind, rest


def _split_paren(text: str) -> tuple[str, str]:
    """(what is before the parenthesis that closes an open one, what is after it)."""
    depth = 1
    for match in re.finditer(r"[()]", text):
        depth += 1 if match.group() == "(" else -1
        if not depth:
            return text[: match.start()], text[match.end() :]
    return text, ""


def _shapes(text: str) -> tuple[Shape, ...]:
    text = re.sub(r"/\*.*?\*/", "", text)
    return tuple(
        Shape(dtype, tuple(int(d) for d in dims.split(",") if d), "S(1)" in (layout or ""))
        for dtype, dims, layout in _SHAPE.findall(text)
    )
