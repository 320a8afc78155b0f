"""Features of clips, pictures and sounds without weights, for tests of whole evaluations.

Each is a fixed random projection: a value says nothing beyond other values of the same toy, size of
clip and seed. Matrices are [T Y X 3, D] in float64, so these are for small clips.

Axes: B clips, T frames, Y rows, X columns, D features, N examples.
"""

import dataclasses
import functools

import numpy as np

from poet.typing import Float, UInt8


def random_projection(
    flat: Float[np.ndarray, "N F"], num_features: int, seed: int = 0
) -> Float[np.ndarray, "N D"]:
    """Rows times a fixed matrix of normal draws of variance 1 / F, in float64.

    Args:
      flat: Values of any unit; for independent ones of variance v the features' is about v.
      num_features: D.
      seed: Of the matrix, with which F and D it is fixed.
    """
    return flat.astype(np.float64) @ _matrix(flat.shape[1], num_features, seed)


@functools.lru_cache(maxsize=4)
def _matrix(num_inputs: int, num_features: int, seed: int):
    draws = np.random.Generator(np.random.Philox(key=seed))
    return draws.standard_normal((num_inputs, num_features)) / np.sqrt(num_inputs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelProjection:
    """Projects all pixels of a clip: sees everything that changes, content and order alike."""

    num_features: int = 16
    seed: int = 0

    def features(self, clips: UInt8[np.ndarray, "B T Y X 3"]) -> Float[np.ndarray, "B D"]:
        """Projections of the clips' pixels in [0, 1]."""
        return _project(clips / 255.0, self.num_features, self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameMeanProjection:
    """Projects the mean frame of a clip: blind to the order of the frames."""

    num_features: int = 16
    seed: int = 0

    def features(self, clips: UInt8[np.ndarray, "B T Y X 3"]) -> Float[np.ndarray, "B D"]:
        """Projections of the mean frames, pixels in [0, 1]."""
        # The sum of integers is exact, so that the order of frames cannot show in the last digit.
        means = clips.sum(axis=1, dtype=np.int64) / (255.0 * clips.shape[1])
        return _project(means, self.num_features, self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChangeProjection:
    """Projects the mean absolute change from frame to frame: sees their order, and motion."""

    num_features: int = 16
    seed: int = 0

    def features(self, clips: UInt8[np.ndarray, "B T Y X 3"]) -> Float[np.ndarray, "B D"]:
        """Projections of the mean changes, pixels in [0, 1].

        Raises:
          ValueError: Clips of one frame, which have no change.
        """
        if clips.shape[1] < 2:
            raise ValueError("Changes need clips of at least 2 frames, got 1; give longer clips.")
        changes = np.abs(np.diff(clips.astype(np.int16), axis=1))
        return _project(changes.mean(axis=1) / 255.0, self.num_features, self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundProjection:
    """Projects the log-mel examples of `poet.evals.frechet_audio`."""

    num_features: int = 16
    seed: int = 0

    def features(self, examples: Float[np.ndarray, "N 96 64"]) -> Float[np.ndarray, "N D"]:
        """Projections of the examples."""
        return _project(examples, self.num_features, self.seed)


def _project(values, num_features, seed):
    return random_projection(values.reshape(len(values), -1), num_features, seed)
