"""Compiles the programs of a step and reads from each what it needs; one row a group of batches."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from poet.plan import costs as costing
from poet.plan import hlo, memory, roofline
from poet.plan.chips import Topology
from poet.plan.costs import Costs, Op
from poet.plan.memory import Memory
from poet.plan.roofline import Factors, Prediction
from poet.train.chips import GIB


class DoesNotFitError(ValueError):
    """The compiler could not place a program in the chip's memory.

    Attributes:
      needed: Bytes that it says it needs, None if it does not say.
      held: Bytes of what stays on the chip between programs, 0 where that is not known.
    """

    def __init__(self, message: str, held: float = 0.0):
        super().__init__(message)
        self.needed, self.held = memory.needed_bytes(message), held


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """What a step that does not fit needs of a chip.

    Attributes:
      total: Bytes; None where the compiler did not say.
      held: Bytes of what stays between programs: state, or parameters.
    """

    total: float | None
    held: float

    def scaled(self, held: float, rest: float) -> float | None:
        """Bytes where the held ones and the others are multiplied by these."""
        if self.total is None:
            return None
        return self.held * held + max(0.0, self.total - self.held) * rest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """Something to compile.

    Attributes:
      name: Equal names are compiled once.
      compile: Gives the compiled program.
      state_bytes: Of the state on a chip while it runs, whether it reads it or not.
      argument_bytes: Of its other arguments on a chip.
      times: How often a step runs it.
      kernels: What its kernels do, for `costs.count`.
    """

    name: str
    compile: Callable[[], Any]
    state_bytes: float
    argument_bytes: float
    times: float = 1.0
    kernels: Mapping[str, Op] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A group of batches: what one of its steps does.

    Attributes:
      name: Of the group.
      share: Of the steps.
      batch_size: Global rows.
      tokens: Of the global batch.
      model_flops: Of a step on all chips; None where nothing is counted analytically.
      programs: What runs in a step.
    """

    name: str
    share: float
    batch_size: int
    tokens: int
    model_flops: float | None
    programs: tuple[Program, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What a group needs.

    Attributes:
      part: The group.
      memory: Of the program that needs most.
      memory_of: That program's name.
      costs: Of a step on one chip; None where the group was not compiled.
      prediction: Seconds.
      largest: (bytes, what) of the largest arrays on a chip.
      compile_s: Time it took.
    """

    part: Part
    memory: Memory | None
    memory_of: str
    costs: Costs | None
    prediction: Prediction
    largest: tuple[tuple[float, str], ...] = ()
    compile_s: float = 0.0

    def mfu(self, topology: Topology, seconds: float) -> float | None:
        """Model FLOPs a second over the peak of all chips."""
        if self.part.model_flops is None or not seconds:
            return None
        return self.part.model_flops / seconds / topology.num_chips / topology.chip.bf16_flops


class Compiler:
    """Compiles programs once each, and says what it does."""

    def __init__(self, topology: Topology, say: Callable[[str], None] = lambda text: None):
        self._topology, self._say = topology, say
        self._known: dict[str, tuple[Memory, Costs, Any, float]] = {}

    def measure(self, part: Part, factors: Factors) -> Row:
        """The row of a group.

        Raises:
          DoesNotFitError: when the compiler refuses a program for want of memory.
        """
        memories, costs, arrays, seconds = {}, Costs((), ()), [], 0.0
        for program in part.programs:
            needed, found, largest, spent = self._program(program)
            memories[program.name] = needed
            costs = costs + _times(found, program.times)
            arrays += largest
            seconds += spent
        name, most = memory.largest(memories)
        count = sum(round(program.times) for program in part.programs)
        return Row(
            part=part,
            memory=most,
            memory_of=name,
            costs=costs,
            prediction=roofline.predict(costs, self._topology, factors, count),
            largest=tuple(sorted(set(arrays), reverse=True)[:5]),
            compile_s=seconds,
        )

    def _program(self, program: Program) -> tuple[Memory, Costs, Any, float]:
        if program.name in self._known:
            return (*self._known[program.name][:3], 0.0)
        self._say(f"compiling {program.name} for {self._topology.name} ...")
        start = time.monotonic()
        compiled = refusing(program.compile, program.state_bytes)
        # A program with some arguments bound is wrapped.
        compiled = getattr(compiled, "func", compiled)
        found = memory.of_program(compiled, program.state_bytes, program.argument_bytes)
        module = hlo.parse(compiled.as_text())
        topology = self._topology
        counted = costing.count(module, topology.num_chips, topology.num_slices, program.kernels)
        seconds = time.monotonic() - start
        self._say(f"compiled {program.name} in {seconds:.0f} s: {found.total / GIB:.2f} GiB a chip")
        self._known[program.name] = (found, counted, memory.largest_buffers(module), seconds)
        return self._known[program.name]


def refusing(compile: Callable[[], Any], held: float = 0.0) -> Any:
    """What `compile` gives; DoesNotFitError, with `held`, where memory is too small for it."""
    try:
        return compile()
    except Exception as error:  # XLA's error type is not public
        if "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower():
            raise DoesNotFitError(str(error), held) from error
        raise


def _times(costs: Costs, times: float) -> Costs:
    if times == 1.0:
        return costs
    ops = tuple(dataclasses.replace(op, times=op.times * times) for op in costs.ops)
    moved = tuple(dataclasses.replace(c, times=c.times * times) for c in costs.collectives)
    return Costs(ops, moved, costs.unknown)


def scaled(part: Part, rows: Sequence[Row]) -> Row:
    """The row of a group that was not compiled: the nearest compiled one in time a model FLOP.

    Its memory is not known.
    """
    near = min(rows, key=lambda row: abs(row.part.tokens / row.part.batch_size
                                         - part.tokens / part.batch_size))  # fmt: skip
    ratio = part.model_flops / near.part.model_flops
    seconds = {
        name: getattr(near.prediction, name) * ratio
        for name in (
            "optimistic_s", "calibrated_s", "products_s", "memory_s", "links_s", "dcn_s",
        )
    }  # fmt: skip
    prediction = dataclasses.replace(near.prediction, **seconds)
    return Row(part=part, memory=None, memory_of="", costs=None, prediction=prediction)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """A step on one topology.

    Attributes:
      topology: Where.
      facts: What stands beside every number: batch, optimizer, rematerialisation, mesh.
      rows: One a group.
      replicated: Path -> bytes of large arrays of which every chip holds a whole copy.
      notes: Sentences about what was taken to be.
    """

    topology: Topology
    facts: Mapping[str, Any]
    rows: tuple[Row, ...]
    replicated: Mapping[str, float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def memory(self) -> Memory:
        """Of the group that needs most."""
        known = [row.memory for row in self.rows if row.memory is not None]
        return max(known, key=lambda memory: memory.total)

    @property
    def fits(self) -> bool:
        """Whether every compiled group fits the chip."""
        return self.memory.total <= self.topology.chip.hbm_bytes

    def average(self) -> dict[str, float]:
        """Of the mixture: seconds a step, MFU (FLOPs over time, not a mean of ratios), tokens/s."""
        whole = sum(row.part.share for row in self.rows)
        mean = {"optimistic_s": 0.0, "calibrated_s": 0.0, "flops": 0.0, "tokens": 0.0}
        for row in self.rows:
            share = row.part.share / whole
            mean["optimistic_s"] += share * row.prediction.optimistic_s
            mean["calibrated_s"] += share * row.prediction.calibrated_s
            mean["flops"] += share * (row.part.model_flops or 0.0)
            mean["tokens"] += share * row.part.tokens
        peak = self.topology.num_chips * self.topology.chip.bf16_flops
        for kind in ("optimistic", "calibrated"):
            mean[f"{kind}_mfu"] = mean["flops"] / mean[f"{kind}_s"] / peak
        mean["tokens_per_s"] = mean["tokens"] / mean["calibrated_s"]
        return mean
