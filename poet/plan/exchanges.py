"""Exchanges between devices in the text of a compiled program: kind, bytes, who takes part."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from poet.plan.hlo import Computation, Instruction, Module

_COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast", "ragged-all-to-all",
)  # fmt: skip


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


def kind_and_bytes(
    module: Module, computation: Computation, instruction: Instruction
) -> tuple[str, float] | None:
    """(kind, bytes of the larger side) of an instruction that exchanges something, else None."""
    opcode = instruction.opcode
    between = between_slices(instruction)
    if between:
        sent = computation.instructions.get(instruction.operands[0])
        return between, sent.num_bytes if sent else 0.0
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


def between_slices(instruction: Instruction) -> str | None:
    """The kind of an exchange between slices, else None.

    TPU's compiler gives them to the hosts: a chip sends its part, and receives what the equal chips
    of all slices make of theirs.
    """
    if instruction.opcode != "send":
        return None
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
    return found.group(1).lower().replace("_", "-") if found else None


def _exchange_in(computation: Computation) -> Instruction | None:
    for instruction in computation.instructions.values():
        if instruction.opcode.removesuffix("-start") in _COLLECTIVES:
            return instruction
    return None


def device_groups(
    instruction: Instruction, module: Module, num_devices: int, num_slices: int
) -> list[int]:
    """The devices of the first group of a collective."""
    if between_slices(instruction):
        return list(range(0, num_devices, max(1, num_devices // num_slices)))
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
