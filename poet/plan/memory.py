"""Memory of a chip during a step, and what would make a step fit that does not."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from poet.plan.chips import Topology
from poet.plan.hlo import Module
from poet.train.chips import GIB

# Rematerialisation policies from the one that keeps most to the one that keeps least, with the
# share of "none"'s activations that each keeps. Rough: the shares order the proposals, compiling
# one decides.
KEPT = {
    "none": 1.0, "dots": 0.7, "dots_no_batch": 0.5, "dots_except_widening": 0.25, "attention": 0.17,
    "full": 0.12,
}  # fmt: skip
_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one chip in one program.

    Attributes:
      resident: State that stays on the chip all the time, whether this program reads it or not.
      arguments: Other arguments: the batch, or gradients.
      outputs: Results that do not take an argument's place.
      temporaries: Everything in between.
      code: The program itself.
    """

    resident: float
    arguments: float
    outputs: float
    temporaries: float
    code: float = 0.0

    @property
    def total(self) -> float:
        """All together."""
        return self.resident + self.arguments + self.outputs + self.temporaries + self.code


def of_program(compiled: Any, state_bytes: float, argument_bytes: float) -> Memory:
    """What a compiled program needs besides the state.

    Args:
      compiled: From `lowered.compile()`.
      state_bytes: Of a chip's part of the state, which is on the chip whether the program reads it
        or not: what a program does not read is not among its own arguments.
      argument_bytes: Of all other arguments.
    """
    found = compiled.memory_analysis()
    return Memory(
        resident=state_bytes,
        arguments=argument_bytes,
        outputs=max(0.0, found.output_size_in_bytes - found.alias_size_in_bytes),
        temporaries=found.temp_size_in_bytes,
        code=found.generated_code_size_in_bytes,
    )


def bytes_on_chip(tree: Any) -> float:
    """Bytes of one device's part of a tree of shapes with shardings, without padding."""
    total = 0.0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


def replicated_bytes(tree: Any, min_bytes: float = 2**20) -> dict[str, float]:
    """Path -> bytes of the leaves above a size of which every device holds a whole copy."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        whole = math.prod(leaf.shape) * leaf.dtype.itemsize
        if whole >= min_bytes and leaf.sharding.shard_shape(leaf.shape) == tuple(leaf.shape):
            found[jax.tree_util.keystr(path)] = float(whole)
    return found


def largest_buffers(module: Module, count: int = 5) -> list[tuple[float, str]]:
    """(bytes, what) of the largest results of a program's instructions, each shape once."""
    found: dict[tuple[str, tuple[int, ...]], tuple[float, str]] = {}
    for computation, _ in module.runs():
        for instruction in computation.instructions.values():
            if instruction.opcode in ("tuple", "while", "call", "conditional", "parameter"):
                continue
            for shape in instruction.shapes:
                key = (shape.dtype, shape.dims)
                if key not in found:
                    dims = ",".join(map(str, shape.dims))
                    source = re.search(r'op_name="([^"]*)"', instruction.attributes)
                    where = source.group(1).split("/")[-3:] if source else [instruction.name]
                    found[key] = (shape.num_bytes, f"{shape.dtype}[{dims}] {'/'.join(where)}")
    return sorted(found.values(), reverse=True)[:count]


def needed_bytes(message: str) -> float | None:
    """Bytes that the compiler says a program that does not fit would need; None if it does not."""
    used = re.search(r"Used ([\d.]+)([BKMGT])\w* of", message) or re.search(
        r"HLO temporaries \(([\d.]+)([BKMGT])\)", message
    )
    if used is None:
        used = re.search(
            r"(?:allocat|Attempting to reserve|requested)\D*([\d.]+)([BKMGT])", message
        )
    return float(used.group(1)) * _UNITS[used.group(2)] if used else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What can be changed to make a step fit.

    Attributes:
      batch_tokens: Tokens of a step.
      remat_policy: A name of `models.config.REMAT_POLICIES`.
      tensor: Devices that share a layer.
      topology: Chips.
      replica: Copies of the state.
      head_by_tiles: Whether embedding and head are gathered tile by tile.
      whole_head_bytes: What a chip holds of them and their gradients where they are not.
    """

    batch_tokens: int
    remat_policy: str
    tensor: int
    topology: Topology
    replica: int = 1
    head_by_tiles: bool = False
    whole_head_bytes: float = 0.0

    def all_words(self) -> str:
        """Everything but the chips."""
        return (
            f"BATCH_TOKENS = {self.batch_tokens:,}, remat_policy = '{self.remat_policy}', mesh"
            f" replica = {self.replica}, tensor = {self.tensor}"
            + (", gin/models/head_by_tiles.gin" if self.head_by_tiles else "")
        )

    def words(self, before: "Setting") -> str:
        """What is different from another setting."""
        changes = []
        if self.head_by_tiles != before.head_by_tiles:
            changes.append("--gin_file gin/models/head_by_tiles.gin")
        if self.batch_tokens != before.batch_tokens:
            changes.append(f"BATCH_TOKENS = {self.batch_tokens:,} (was {before.batch_tokens:,})")
        if self.remat_policy != before.remat_policy:
            changes.append(f"remat_policy = '{self.remat_policy}' (was '{before.remat_policy}')")
        if self.tensor != before.tensor:
            changes.append(f"mesh tensor = {self.tensor} (was {before.tensor})")
        if self.replica != before.replica:
            changes.append(f"mesh replica = {self.replica} (was {before.replica})")
        if self.topology != before.topology:
            changes.append(f"{self.topology.name} ({self.topology.num_chips} chips)")
        return ", ".join(changes) or "no change"


def proposals(setting: Setting, memory: Memory, num_heads: int, smallest: int) -> list[Setting]:
    """Settings that should fit where this one does not, the nearest first.

    The head goes by tiles first, if it does not yet. Then one thing is changed at a time, then
    rematerialisation and batch together. The estimate takes temporaries but the whole head as
    proportional to the tokens of a chip and to the share that the policy keeps; state and gradients
    as proportional to one over the chips.

    Args:
      setting: What does not fit.
      memory: What it needs.
      num_heads: Which `tensor` must divide.
      smallest: Tokens below which no batch of one row a chip can be made.
    """
    found = _changes(setting, num_heads, smallest)
    if setting.whole_head_bytes and not setting.head_by_tiles:
        # It costs little beside all else, and all else is proposed with it.
        tiled = dataclasses.replace(setting, head_by_tiles=True)
        found = [tiled, *_changes(tiled, num_heads, smallest)]
    room = setting.topology.chip.hbm_bytes
    return [each for each in found if estimate(each, setting, memory) <= room]


def _changes(setting: Setting, num_heads: int, smallest: int) -> list[Setting]:
    weaker = list(KEPT)[list(KEPT).index(setting.remat_policy) + 1 :]
    found = [dataclasses.replace(setting, remat_policy=name) for name in reversed(weaker)]
    batches = _smaller_batches(setting, smallest)
    tensors = [
        dataclasses.replace(setting, tensor=setting.tensor * ways)
        for ways in (2, 4)
        if num_heads % (setting.tensor * ways) == 0
    ]
    least = setting.topology.num_slices
    copies = [
        dataclasses.replace(setting, replica=count)
        for count in dict.fromkeys((setting.replica // 2, least))
        if least <= count < setting.replica and count % least == 0
    ]
    # The first policy keeps least: where that does not fit after all, the others do not either.
    found[1:1] = [*copies, *batches[:1], *tensors]
    found += batches[1:]
    if weaker:
        full = dataclasses.replace(setting, remat_policy="full")
        found += _smaller_batches(full, smallest)
    larger = None if setting.topology.is_here else setting.topology.larger()
    for _ in range(4):
        if larger is None:
            break
        found.append(dataclasses.replace(setting, topology=larger))
        found.append(dataclasses.replace(setting, topology=larger, remat_policy="full"))
        larger = larger.larger()
    return found


def _smaller_batches(setting: Setting, smallest: int) -> list[Setting]:
    counts = [setting.batch_tokens // 2**k for k in range(1, 6)]
    return [dataclasses.replace(setting, batch_tokens=n) for n in counts if n >= smallest]


def estimate(setting: Setting, before: Setting, memory: Memory) -> float:
    """Bytes of a chip in another setting, from what one setting needs."""
    chips = setting.topology.num_chips / before.topology.num_chips
    tokens = setting.batch_tokens / before.batch_tokens / chips
    kept = KEPT[setting.remat_policy] / KEPT[before.remat_policy]
    # `tensor` splits the widest activations, but not the residual stream of the rows, of which a
    # device then has more: with the head, which it splits too, 0.56 to 0.97 was seen for four ways.
    kept *= 0.9 ** math.log2(setting.tensor / before.tensor)
    # -1 stands for what the other axes leave.
    is_known = min(setting.replica, before.replica) > 0
    copies = setting.replica / before.replica if is_known else 1.0
    state = (memory.resident + memory.outputs) * copies
    # Whatever the tokens and the policy; on many chips most of what there is.
    whole = 0.0 if before.head_by_tiles else before.whole_head_bytes
    others = max(memory.temporaries - whole, 0.1 * memory.temporaries)
    head = 0.0
    if not setting.head_by_tiles:
        head = (memory.temporaries - others) * before.tensor / setting.tensor
    fixed = state / chips + memory.code + head
    return fixed + (memory.arguments + others * kept) * tokens


def refusal(
    topology: Topology,
    needed: float | None,
    settings: Sequence[str] | None,
    nearest: str = "",
) -> str:
    """The sentences for a step that does not fit.

    Args:
      topology: Where it does not.
      needed: Bytes of a chip, if they are known.
      settings: Words for settings that do fit; None where none were looked for.
      nearest: A sentence on the one that nearly fits, where none does.
    """
    room = topology.chip.hbm_bytes / GIB
    needs = f"{needed / GIB:.1f} GiB a chip" if needed else "more memory than that"
    said = f"The step does not fit: it needs {needs}, {topology.name} has {room:.1f} GiB a chip."
    if settings is None:
        return said
    if not settings:
        return (
            f"{said} No smaller batch, stronger rematerialisation or mesh that was tried fits;"
            f" {nearest}take a larger slice or a smaller model."
        )
    return f"{said} It fits with {'; or with '.join(settings)}."


def largest(memories: Mapping[str, Memory]) -> tuple[str, Memory]:
    """(name, memory) of the program that needs most."""
    name = max(memories, key=lambda name: memories[name].total)
    return name, memories[name]
