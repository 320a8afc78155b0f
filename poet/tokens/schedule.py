"""In which order the tokens of a slot are written, and how many in one pass.

Raster writes one token a pass: frame by frame, row by row, each fed with the token before it.

Diagonal writes a token of several rows a pass (as published for autoregressive video: diagonal
decoding, arXiv 2503.14070). A row begins as soon as the row above it, the last row of the frame
before included, has ``slope`` of its columns; so frames overlap. What a pass is fed and sees:

- inside a row, the token to the left, as in raster;
- at a row start, where raster feeds the end of the row above, the nearest token above that is
  written: the last one so far of that row. Once the true end is written it is fed in the same
  place of the cache, and seen there from that pass on;
- keys of positions that come earlier in raster order and were fed in earlier passes, and its own.

Positions, their vectors and the cache are those of raster, whatever the order. With slope 1 a row
waits for the whole row above: one token a pass, and the same program as raster.
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from poet.tokens.layout import Slot
from poet.tokens.sequence import SequencePlan

# Row of a lane that has nothing to do in a pass: beyond every cache, so that it is dropped.
IDLE = 2**30


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How visual tokens follow each other; sound is always written one token a pass.

    Attributes:
      name: "raster" or "diagonal".
      slope: Share of a row, in (0, 1], that is written before the next row begins; at least one
        column. Only for "diagonal".
    """

    name: str = "raster"
    slope: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ("raster", "diagonal"):
            raise ValueError(f"Schedule {self.name!r} is unknown; choose raster or diagonal.")
        if not 0 <= self.slope <= 1:
            raise ValueError(
                f"slope={self.slope} must be between 0 (a row waits for one token of the row above)"
                " and 1 (for all of it, as in raster)."
            )

    def row_delay(self, width: int) -> int:
        """Columns of the row above that a row waits for."""
        return width if self.name == "raster" else max(1, math.ceil(self.slope * width))


RASTER = Schedule()


@dataclasses.dataclass(frozen=True, eq=False)
class Passes:
    """The passes that write one slot. N passes of at most W lanes.

    Attributes:
      rows: int32 [N, W], position that is fed, and its place in the cache; IDLE where a lane rests.
      sources: int32 [N, W], position of the token that is fed there.
      targets: int32 [N, W], position that is written; IDLE for lanes that write nothing.
      order: int32 [L], pass in which a position is first fed; -1 before this slot.
    """

    rows: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    order: np.ndarray

    @property
    def width(self) -> int:
        """W."""
        return self.rows.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def needed(self) -> np.ndarray:
        """int [N]: capacity of the cache that the passes up to each one need."""
        last = np.where(self.rows == IDLE, -1, self.rows).max(axis=1)
        return np.maximum.accumulate(last) + 1


@functools.lru_cache(maxsize=256)
def passes_of(plan: SequencePlan, slot: Slot, schedule: Schedule = RASTER) -> Passes:
    """The passes of one output slot of a plan."""
    num_tokens = slot.stop - slot.start
    width = plan.clip.grid[2] if slot.kind == "visual" else num_tokens
    delay = schedule.row_delay(width) if slot.kind == "visual" else width
    lanes: list[list[tuple[int, int, int]]] = []

    def add(number: int, row: int, source: int, target: int) -> None:
        while len(lanes) <= number:
            lanes.append([])
        lanes[number].append((row, source, target))

    for token in range(num_tokens):
        line, column = divmod(token, width)
        position, number = slot.start + token, line * delay + column
        source = position - 1
        if column == 0 and line:
            source = slot.start + (line - 1) * width + delay - 1
        add(number, position - 1, source, position)
        is_row_end = column == width - 1 and token + 1 < num_tokens
        if is_row_end and delay < width:
            add(number + 1, position, position, IDLE)
    return _table(plan, lanes)


def _table(plan: SequencePlan, lanes: list[list[tuple[int, int, int]]]) -> Passes:
    width = max(len(lane) for lane in lanes)
    filled = [lane + [(IDLE, 0, IDLE)] * (width - len(lane)) for lane in lanes]
    table = np.array(filled, np.int32)
    table.setflags(write=False)
    order = np.full(plan.length, -1, np.int32)
    for number in range(len(lanes) - 1, -1, -1):
        for row, _, _ in lanes[number]:
            order[row] = number
    return Passes(table[..., 0], table[..., 1], table[..., 2], order)


def whole_frames(plan: SequencePlan, slot: Slot, passes: Passes, stop: int) -> int:
    """Latent frames of a visual slot that are whole after ``stop`` of its passes."""
    left = passes.targets[stop:]
    first_left = int(left.min()) if left.size else slot.stop
    per_frame = plan.clip.grid[1] * plan.clip.grid[2]
    return (min(first_left, slot.stop) - slot.start) // per_frame


def runs_of(
    plan: SequencePlan, slot: Slot, passes: Passes, block: int, every_frame: bool = False
) -> list[tuple[int, int]]:
    """Runs [first, stop) of passes that one capacity of the caches serves.

    Args:
      plan: The task's plan.
      slot: One of its outputs.
      passes: Of that slot.
      block: Positions by which caches grow.
      every_frame: Whether runs also end where a frame of a visual slot is whole.
    """
    cuts = set((np.flatnonzero(np.diff(-(-passes.needed // block))) + 1).tolist())
    if every_frame and slot.kind == "visual":
        whole = [whole_frames(plan, slot, passes, stop) for stop in range(len(passes) + 1)]
        cuts |= set((np.flatnonzero(np.diff(whole)) + 1).tolist())
    bounds = sorted(cuts | {0, len(passes)})
    return list(zip(bounds, bounds[1:], strict=False))


def describe(plan: SequencePlan, schedule: Schedule) -> dict[str, Any]:
    """Passes and tokens of all output slots, for reports."""
    slots = [slot for slot in plan.slots if slot.is_output]
    return {
        "schedule": schedule.name,
        "passes": sum(len(passes_of(plan, slot, schedule)) for slot in slots),
        "tokens": sum(slot.stop - slot.start for slot in slots),
    }
