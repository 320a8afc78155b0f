"""What an extractor of features is, and how clips are fed to one: in batches of one size.

Axes: B clips of a batch, N clips, T frames, Y rows, X columns, D features.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from poet.typing import Float, Shaped, UInt8


@runtime_checkable
class FeatureExtractor(Protocol):
    """A network (or a toy) that describes each clip of a batch by one row of numbers.

    A row may depend on its own clip only. Resizing to the network's size and scaling of pixels
    belong to the extractor, since the published scores depend on both.
    """

    def features(self, clips: UInt8[np.ndarray, "B T Y X 3"]) -> Float[np.ndarray, "B D"]:
        """Features of RGB clips in 0..255."""
        ...


def feature_batches(
    extractor: FeatureExtractor,
    clips: Iterable[UInt8[np.ndarray, "T Y X 3"]],
    batch_size: int,
) -> Iterator[Float[np.ndarray, "B D"]]:
    """Yields the clips' features in order, a batch at a time; the last may be shorter.

    The extractor always sees `batch_size` clips, so that a compiled one compiles once: the last
    batch is filled with its own last clip, whose extra rows are dropped.

    Raises:
      ValueError: Clips of different sizes, an empty batch size, or an extractor that returns
        another number of rows than it got clips.
    """
    if batch_size < 1:
        raise ValueError(f"Expected a batch of at least 1 clip, got batch_size={batch_size}.")
    waiting: list[np.ndarray] = []
    shape = None
    for clip in clips:
        shape = shape or clip.shape
        if clip.shape != shape:
            raise ValueError(
                f"Expected clips of one size, got {shape} and then {clip.shape};"
                " resize or cut them before."
            )
        waiting.append(clip)
        if len(waiting) == batch_size:
            yield _features(extractor, waiting, batch_size)
            waiting = []
    if waiting:
        yield _features(extractor, waiting, batch_size)


def _features(extractor, clips, batch_size):
    filled = np.stack(clips + [clips[-1]] * (batch_size - len(clips)))
    found = np.asarray(extractor.features(filled))
    if found.ndim != 2 or len(found) != batch_size:
        raise ValueError(
            f"Expected features [{batch_size}, D] for {batch_size} clips, got {found.shape};"
            " an extractor returns one row a clip."
        )
    return found[: len(clips)]


def all_features(
    extractor: FeatureExtractor,
    clips: Iterable[UInt8[np.ndarray, "T Y X 3"]],
    batch_size: int,
) -> Float[np.ndarray, "N D"]:
    """The features of all clips at once, for scores that need every row (KVD, Inception Score).

    Raises:
      ValueError: As `feature_batches`; or there is no clip.
    """
    batches = list(feature_batches(extractor, clips, batch_size))
    if not batches:
        raise ValueError("Expected at least one clip, got none; check the folder or the split.")
    return np.concatenate(batches)


def filled(rows: Shaped[np.ndarray, "N ..."], most: int) -> Shaped[np.ndarray, "_ ..."]:
    """Rows and copies of the last one, up to a power of two or `most`: few sizes to compile for.

    Args:
      rows: At least one, at most `most`.
      most: The largest batch.
    """
    missing = min(most, 1 << (len(rows) - 1).bit_length()) - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
