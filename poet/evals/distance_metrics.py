"""Distances between sets of clips: Frechet and kernel distances of an extractor's features.

The toys stand in for I3D, so that whole evaluations run without weights: they see clips through the
same steps (squashed on TensorFlow 1's grid, batches of one size, float64 sums).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from poet.evals import resizing, toy_features
from poet.evals.features import FeatureExtractor, feature_batches
from poet.evals.metric import Case, Metric, Needs, Side, Source
from poet.typing import Float, UInt8

TOY_SIZE_PX = 64
# name -> (toy, least frames). The mean frame does not see motion, the changes see little else.
_TOYS = {
    "pixels": (toy_features.PixelProjection(), 1),
    "frames": (toy_features.FrameMeanProjection(), 1),
    "changes": (toy_features.ChangeProjection(), 2),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Squashed:
    """An extractor that sees its clips at one size, as networks do."""

    inner: FeatureExtractor
    size_px: int = TOY_SIZE_PX

    def features(self, clips: UInt8[np.ndarray, "B T Y X 3"]) -> Float[np.ndarray, "B D"]:
        """Features of the clips, squashed to a square on TensorFlow 1's grid."""
        if clips.shape[2:4] != (self.size_px, self.size_px):
            squashed = resizing.squash(clips, self.size_px, self.size_px, method="tf1")
            clips = resizing.to_uint8(squashed)
        return self.inner.features(clips)


def metrics(batch_size: int) -> list[Metric]:
    """Distances on toy features, whose extractors see so many clips at once."""
    found = []
    for name, (toy, least) in _TOYS.items():
        source = feature_source(
            f"toy_{name}", Squashed(inner=toy), batch_size, Needs(num_frames=(least, np.inf))
        )
        seen = f"toy-{name}{toy.num_features}-seed{toy.seed}/squash{TOY_SIZE_PX}-tf1"
        found.append(frechet_metric(f"frechet_toy_{name}", seen, source))
        found.append(kernel_metric(f"kvd_toy_{name}", seen, source))
    return found


def frechet_metric(name: str, seen: str, source: Source) -> Metric:
    """The Frechet distance of a source's features; `seen` says what made them."""
    return Metric(
        name=name, protocol=f"frechet/{seen}", source=source, summary="frechet", better="lower"
    )


def kernel_metric(name: str, seen: str, source: Source) -> Metric:
    """The kernel distance of all features in one pass; `seen` says what made them."""
    return Metric(
        name=name,
        protocol=f"kernel-cubic-one-pass/{seen}",
        source=source,
        summary="kernel",
        better="lower",
    )


def feature_source(
    name: str,
    extractor: FeatureExtractor,
    batch_size: int,
    needs: Needs,
    about: Mapping[str, str] | None = None,
    sides: tuple[Side, ...] = ("real", "generated"),
) -> Source:
    """A source of one row of features a clip.

    Args:
      name: Of the source.
      extractor: A network or a toy.
      batch_size: Clips that it sees at once.
      needs: Of the extractor.
      about: Of the network's weights.
      sides: Which folders' clips it sees.
    """

    def rows(cases: Sequence[Case]) -> list[np.ndarray]:
        clips = (case.clip.frames for case in cases)
        batches = feature_batches(extractor, clips, batch_size)
        return [row[None] for batch in batches for row in np.asarray(batch, np.float64)]

    return Source(name=name, rows=rows, sides=sides, needs=needs, about=about or {})
