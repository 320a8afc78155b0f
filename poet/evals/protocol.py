"""A protocol: what is asked of a model, how the answers are read, and which numbers are made.

Papers score the same benchmark in different ways, so that everything that changes a number is a
field here. Files of gin/protocols bind those of the VideoPoet paper (arXiv 2312.14125, sections 5,
A.4 and A.5; which reads as in docs/evaluation.md).
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

SOURCES = ("captions", "classes", "clips")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """Some metrics over some of a protocol's clips.

    Attributes:
      name: Of its result; a folder.
      metrics: Names of `poet.evals.metrics`.
      num_generated: The first so many of the clips; 0 takes all.
      num_real: Real clips, drawn by the seed from the benchmark's; None takes those that the
        requests were about, 0 none.
      repeats: Groups of the generated clips, for a mean and its spread.
    """

    name: str
    metrics: Sequence[str]
    num_generated: int = 0
    num_real: int | None = 0
    repeats: int = 1

    def __post_init__(self):
        _check_name("Measure", self.name)
        _as_names(self, "metrics")
        if not self.metrics:
            raise ValueError(f"Measure {self.name!r} has no metrics; give at least one.")
        if self.num_generated < 0 or (self.num_real or 0) < 0 or self.repeats < 1:
            raise ValueError(
                f"Measure {self.name!r} needs counts of 0 or more and at least 1 repeat, got"
                f" num_generated={self.num_generated}, num_real={self.num_real},"
                f" repeats={self.repeats}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is asked of a model and how the answers are scored.

    Attributes:
      name: Of its results; a folder.
      task: What is asked for, a task or a word of `poet.sample.names`.
      then: Tasks that follow on what was made, such as "video_to_audio".
      folder: The benchmark's files, laid out as `poet.evals.protocol_files` says.
      source: Where requests come from: "captions", "classes", or "clips" that are given to the
        task (with their captions, where `uses_captions`).
      split: Rows of the clips' manifest; "" takes all.
      uses_captions: Whether clips come with their words.
      num_requests: Exactly so many, the first ones; 0 takes all there are.
      num_samples: Clips for each request. More than one are the repeats of every measure.
      mask: What painting hides: a region's name or a picture; "" is the task's own.
      depth_model: Folder of a depth model of `transformers`, for stylization; "" gives none.
      num_frames: The first so many of each clip are scored. The paper makes 17 and drops the last.
      size_px: Side at which clips are scored; generated ones are read at the model's side and
        enlarged bicubically, real ones cut out and resized at once. 0 is the model's side.
      real_frames_per_second: At which real clips are read; None is each file's own. Generated ones
        have the model's.
      real_is_central: Whether real frames are the middle of the file instead of its first.
      real_may_repeat: Whether real clips may come twice where there are too few.
      measures: What is measured.
    """

    name: str
    task: str
    then: Sequence[str] = ()
    folder: str
    source: str = "clips"
    split: str = ""
    uses_captions: bool = True
    num_requests: int = 0
    num_samples: int = 1
    mask: str = ""
    depth_model: str = ""
    num_frames: int = 16
    size_px: int = 256
    real_frames_per_second: float | None = 8.0
    real_is_central: bool = False
    real_may_repeat: bool = False
    measures: Sequence[Measure]

    def __post_init__(self):
        _check_name("Protocol", self.name)
        _as_names(self, "then")
        object.__setattr__(self, "measures", tuple(self.measures))
        if self.source not in SOURCES:
            raise ValueError(
                f"Protocol {self.name!r} takes requests from {', '.join(SOURCES)}, got"
                f" {self.source!r}."
            )
        counts = (self.num_requests, self.num_samples - 1, self.num_frames - 1, self.size_px)
        if min(counts) < 0:
            raise ValueError(
                f"Protocol {self.name!r} needs at least 1 sample and 1 frame, got num_requests="
                f"{self.num_requests}, num_samples={self.num_samples}, num_frames="
                f"{self.num_frames}, size_px={self.size_px}."
            )
        names = [measure.name for measure in self.measures]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"Protocol {self.name!r} needs measures of different names, got {names}."
            )
        for measure in self.measures:
            self._check_measure(measure)

    def _check_measure(self, measure: Measure) -> None:
        where = f"Measure {measure.name!r} of protocol {self.name!r}"
        if measure.num_real is None and self.source != "clips":
            raise ValueError(
                f"{where} compares with the clips that were asked about, but requests come from"
                f" {self.source}; give num_real."
            )
        if self.num_samples > 1 and measure.repeats != self.num_samples:
            raise ValueError(
                f"{where} has {measure.repeats} repeats of {self.num_samples} samples; each sample"
                " of all requests is a repeat, give both the same number."
            )
        most = self.num_requests * self.num_samples
        if most and measure.num_generated > most:
            raise ValueError(
                f"{where} takes {measure.num_generated:,} clips, but only {most:,} are asked for."
            )
        if self.num_samples > 1 and measure.num_generated not in (0, most):
            raise ValueError(f"{where} takes all samples; leave num_generated out.")

    @property
    def facts(self) -> dict[str, Any]:
        """All but the measures and where the files lie, for results."""
        skipped = ("measures", "folder")
        fields = {field.name for field in dataclasses.fields(self)} - {*skipped}
        return {name: value for name, value in vars(self).items() if name in fields}


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name.startswith("."):
        raise ValueError(
            f"{kind} needs a name of letters, digits, dots and dashes, since it is a folder, got"
            f" {name!r}."
        )


def _as_names(self: Any, name: str) -> None:
    value = getattr(self, name)
    if isinstance(value, str):
        raise ValueError(f"{name} is a list of names, got {value!r}; write it as ('{value}',).")
    object.__setattr__(self, name, tuple(value))
