"""What a metric is: rows of numbers kept of every clip, and one number from the rows of all.

A `Source` turns clips into rows and knows nothing of other clips, so that batches, hosts and the
order of files cannot change a result. A `Metric` makes one number of a source's rows; several may
share a source, as FVD and KVD do. Rows stay, so that any metric can be resampled later.

Of a score a row is [sum, weight]: the metric is the sum of sums over the sum of weights, whether it
is a mean (weight 1; 0 for a clip that does not count) or an F1 (hits and chances).

Axes: T frames, Y rows, X columns, S samples, N and M rows, D numbers of a row.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from poet.evals import farneback, frechet, inception_score, kernel_distance, onsets
from poet.shapes_world import checker, world
from poet.typing import Float, UInt8

Side = Literal["real", "generated"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip as it was read; what several metrics ask of it is worked out once.

    Attributes:
      name: Without folder and ending.
      frames: RGB.
      frames_per_second: Of the frames.
      sounds: Sample rate in Hz -> mono samples in [-1, 1] from the first frame on.
      spec: Its law, if the real folder is rendered clips of the shapes world.
    """

    name: str
    frames: UInt8[np.ndarray, "T Y X 3"]
    frames_per_second: float
    sounds: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)
    caption: str = ""
    spec: world.ClipSpec | None = None

    @property
    def law(self) -> world.ClipSpec:
        """Its law, for sources that need one."""
        assert self.spec is not None
        return self.spec

    @functools.cached_property
    def flow_forth(self) -> Float[np.ndarray, "pairs Y X 2"]:
        """Where each pixel of a frame goes to in the next, in pixels."""
        return farneback.flow(self.frames[:-1], self.frames[1:])

    @functools.cached_property
    def flow_back(self) -> Float[np.ndarray, "pairs Y X 2"]:
        """Where each pixel of a frame came from in the one before, in pixels."""
        return farneback.flow(self.frames[1:], self.frames[:-1])

    @functools.cached_property
    def onsets_s(self) -> Float[np.ndarray, "N"]:
        """When sounds begin, in seconds."""
        return onsets.onset_times_s(self.sounds[onsets.SAMPLE_RATE_HZ])

    @functools.cached_property
    def finding(self) -> checker.Finding:
        """What the checker of the shapes world sees, and hears if the clip has sound.

        Raises:
          ValueError: Frames of another rate than the world's, or not square.
        """
        if self.frames_per_second != world.FRAMES_PER_SECOND:
            raise ValueError(
                f"The shapes world's checker knows laws at {world.FRAMES_PER_SECOND:g} frames a"
                f" second, got {self.frames_per_second:g}; read the clips at that rate, or leave"
                " its metrics out."
            )
        return checker.check(self.frames, self.sounds.get(world.SAMPLE_RATE_HZ))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A clip to measure, and the real clip of the same name where there is one."""

    clip: Clip
    real: Clip | None = None

    @property
    def truth(self) -> Clip:
        """The real clip, for sources that need one."""
        assert self.real is not None
        return self.real


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """What has to be there before a source can measure.

    Attributes:
      has_pairs: A real clip of the same name.
      has_laws: A real folder of `poet render`, whose manifest says each name's law.
      has_captions: Words for each name, in either folder.
      sample_rates_hz: Of the sound; none if it is not heard.
      is_seen: Whether pictures count: size and rate then belong to the protocol.
      num_frames: Least and most frames of a clip.
    """

    has_pairs: bool = False
    has_laws: bool = False
    has_captions: bool = False
    sample_rates_hz: tuple[int, ...] = ()
    is_seen: bool = True
    num_frames: tuple[int, float] = (1, float("inf"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What is kept of every clip.

    Attributes:
      name: Distinct among sources.
      rows: Cases -> an array [rows of the clip, D] for each; mostly one row.
      sides: Which folders' clips it measures.
      needs: See `Needs`.
      about: What the results say of its network's weights; empty without a network.
    """

    name: str
    rows: Callable[[Sequence[Case]], Sequence[np.ndarray]]
    sides: tuple[Side, ...] = ("generated",)
    needs: Needs = Needs()
    about: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of a source's rows.

    Attributes:
      name: As `--metrics` takes it.
      protocol: All that changes the number, but for how clips are read and how many there are.
      source: Where its rows come from.
      summary: A name in `SUMMARIES`.
      better: Which values are better.
      is_share: Whether every row is [0 or 1, 0 or 1].
    """

    name: str
    protocol: str
    source: Source
    summary: str = "mean"
    better: Literal["higher", "lower"] = "higher"
    is_share: bool = False

    @property
    def depends_on_count(self) -> bool:
        """Whether the value of few clips is biased, so that the count belongs to the protocol."""
        return self.summary != "mean"


def score_rows(
    score: Callable[[Case], tuple[float, float]],
) -> Callable[[Sequence[Case]], Sequence[np.ndarray]]:
    """The `rows` of a source that gives each case (sum, weight)."""
    return lambda cases: [np.array([score(case)], np.float64) for case in cases]


def _mean(real, generated) -> float:
    del real
    total, weight = generated[:, :2].sum(axis=0)
    return float(total / weight) if weight else float("nan")


def _inception(num_splits: int):
    return lambda real, logits: inception_score.inception_score(logits, num_splits=num_splits).mean


# name -> (rows of the real clips [N, D] or None, those of the generated ones [M, D]) -> value
SUMMARIES: Mapping[str, Callable[..., float]] = {
    "mean": _mean,
    "frechet": frechet.frechet_distance,
    "kernel": kernel_distance.kernel_distance,
    "inception": _inception(1),
    "inception_10_splits": _inception(10),
}
