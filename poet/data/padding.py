"""How much of what is computed is padding: groups, plain padding and packing on one mixture.

The paper claims near zero for its groups, less than packing (section on training; spec 4.5). Here
all three are counted on the same draw of examples.
"""

import dataclasses
import math

import numpy as np

from poet.data.batches import AgdBatches

_PACKED = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Padding:
    """Shares of the positions that hold nothing, from 0 to 1.

    Attributes:
      groups: of AGD's batches: a prefix and an output of one length each.
      alignment: what is added on the device to fill up the kernels' blocks.
      padded: every example filled up to the longest of its batch's tasks.
      packed: examples laid first-fit into rows as long as the longest task.
      lengths: task name -> tokens.
    """

    groups: float
    alignment: float
    padded: float
    packed: float
    lengths: dict[str, int]


def measure(agd: AgdBatches, num_steps: int = 1000, block: int = 128) -> Padding:
    """Counts over the first steps of a run.

    Args:
      agd: the run's batches.
      num_steps: how many.
      block: multiple that the kernels want; on the device a sequence is filled up to it.
    """
    lengths, filled, capacity, aligned = [], 0, 0, 0
    num_filled = {name: _num_filled(group.plan) for name, group in agd.groups.items()}
    for step in range(num_steps):
        group = agd.groups[agd.group_at(step)]
        length = group.plan.length
        lengths += [length] * group.batch_size
        filled += num_filled[group.name] * group.batch_size
        capacity += length * group.batch_size
        aligned += math.ceil(length / block) * block * group.batch_size
    longest = max(lengths)
    # Which row has room is looked up among all, so that packing is tried on a sample.
    sample = np.random.default_rng(0).permutation(lengths)[:_PACKED]
    rows = _first_fit(sample, longest)
    return Padding(
        groups=1 - filled / capacity,
        alignment=1 - capacity / aligned,
        padded=1 - capacity / (longest * len(lengths)),
        packed=1 - int(sample.sum()) / (longest * rows),
        lengths={name: group.plan.length for name, group in agd.groups.items()},
    )


def lines(padding: Padding) -> list[str]:
    """The shares as lines to print."""
    return [
        f"padding inside groups   {padding.groups:8.2%}",
        f"  to the kernels' blocks {padding.alignment:7.2%}  (causal tail, without loss)",
        f"padded to the longest   {padding.padded:8.2%}",
        f"packed, first fit       {padding.packed:8.2%}",
    ]


def _num_filled(plan) -> int:
    """Positions that hold a special token or stand in a slot; the rest would be padding."""
    is_filled = plan.template != 0
    for slot in plan.slots:
        is_filled = is_filled | (
            (np.arange(plan.length) >= slot.start) & (np.arange(plan.length) < slot.stop)
        )
    return int(is_filled.sum())


def _first_fit(lengths, size: int) -> int:
    """Rows of a size that hold sequences put into the first row with room, in their order."""
    room = np.zeros(0, np.int64)
    for length in lengths:
        at = np.flatnonzero(room >= length)
        if at.size:
            room[at[0]] -= length
        else:
            room = np.append(room, size - length)
    return len(room)
