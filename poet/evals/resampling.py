"""Groups of clips, resampled groups, and intervals: all that is random in an evaluation.

Axes: N resampled values.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from poet.evals.metric import SUMMARIES, Metric
from poet.evals.rows import Rows
from poet.typing import Float

# Distances cost milliseconds to seconds each.
NUM_RESAMPLES = {"mean": 1000, "frechet": 300, "kernel": 300}
_FEW_RESAMPLES = 100
_PERCENT = (2.5, 97.5)

# (places of the real clips, places of the generated ones) of each group.
Groups = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
    """How rows are summed up.

    Attributes:
      repeats: Groups of generated clips.
      seed: Of the groups and of the resampling.
      is_in_order: Whether the groups are equal parts of the clips by name, one after the other;
        else they are drawn.
    """

    repeats: int = 1
    seed: int = 0
    is_in_order: bool = False

    def __post_init__(self):
        if self.repeats < 1 or self.seed < 0:
            raise ValueError(
                f"Expected at least 1 repeat and a seed of 0 or more, got {self.repeats} and"
                f" {self.seed}."
            )


def check_counts(
    metrics: Sequence[Metric], num_real: int, num_generated: int, statistics: Statistics
) -> None:
    """Refuses sets whose sizes make a distance mean nothing.

    Raises:
      ValueError: Fewer clips than repeats, or unequal counts for a distance.
    """
    size = num_generated // statistics.repeats
    if not size:
        raise ValueError(
            f"Expected at least one clip a repeat, got {num_generated} clips for"
            f" {statistics.repeats} repeats; ask for fewer."
        )
    for metric in metrics:
        is_distance = "real" in metric.source.sides
        if is_distance and num_real not in (num_generated, size):
            raise ValueError(
                f"{metric.name} compares as many real as generated clips, got {num_real} and"
                f" {num_generated}: the distance of small sets is biased. Take"
                f" {min(num_real, num_generated)} of each (num_clips), or as many real ones as"
                " there are in each of several repeats."
            )


def groups_of(num_real: int, num_generated: int, statistics: Statistics) -> Groups:
    """Places of the clips of each repeat: all in order, or equal parts, mostly of a random order.

    Real clips are cut alike if there are as many, so that pairs stay together; else each group has
    all of them.
    """
    repeats, size = statistics.repeats, num_generated // statistics.repeats
    if repeats == 1:
        return [(np.arange(num_real), np.arange(num_generated))]
    order = np.arange(num_generated)
    if not statistics.is_in_order:
        order = _draws(statistics.seed, 0).permutation(num_generated)
    parts = [order[at * size : (at + 1) * size] for at in range(repeats)]
    every = np.arange(num_real)
    return [(part if num_real == num_generated else every, part) for part in parts]


def _draws(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))


def resamples(groups: Groups, seed: int, *, is_paired: bool, stream: int = 0) -> Iterator[Groups]:
    """Endless groups of as many clips, drawn with replacement from those of each group.

    Args:
      groups: Of places.
      seed: The same seed and stream give the same draws; real clips know the seed only, so that
        two results with the same real clips draw them alike.
      is_paired: Whether a real clip comes with the generated one of its name.
      stream: Of the generated clips.
    """
    for_real, for_generated = _draws(seed, 1), _draws(seed, 2 + stream)
    while True:
        drawn = []
        for real, generated in groups:
            places = for_generated.integers(len(generated), size=len(generated))
            real_places = for_real.integers(len(real), size=len(real)) if len(real) else real
            if is_paired:
                real_places = places
            drawn.append((real[real_places] if len(real) else real, generated[places]))
        yield drawn


def values_of(summary: str, real: Rows | None, generated: Rows, groups: Groups) -> list[float]:
    """The value of each group."""
    summarize = SUMMARIES[summary]
    return [
        summarize(None if real is None else real.take(places), generated.take(chosen))
        for places, chosen in groups
    ]


def num_resamples(summary: str) -> int:
    """How often a summary is resampled."""
    return NUM_RESAMPLES.get(summary, _FEW_RESAMPLES)


def interval_around(
    value: float, resampled: Float[np.ndarray, "N"], summary: str
) -> tuple[float, float]:
    """The middle 95 % of resampled values.

    Those of distances are moved until their mean is the value: a clip that comes twice moves every
    distance upwards.
    """
    known = resampled[np.isfinite(resampled)]
    if not len(known) or not np.isfinite(value):
        return float("nan"), float("nan")
    move = 0.0 if summary == "mean" else value - known.mean()
    low, high = np.percentile(known, _PERCENT) + move
    return float(low), float(high)
