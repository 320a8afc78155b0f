"""Frechet distance between two sets of features, each taken as one normal distribution.

|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances with N - 1 (arXiv 1706.08500); with I3D
features this is FVD (arXiv 1812.01717), with VGGish ones FAD (arXiv 1812.08466). The distance
itself is reported, not its root. That of small sets is biased upwards by about
(2 D + D (D + 1) / 2) / N times the variance: only sets of one size compare.

Features may come in batches and on several hosts: `Moments` of parts merge to those of the whole.

Axes: N and M examples, D features (E: D, unless refused), Y rows, X columns.
"""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from poet.evals.toy_features import random_projection
from poet.typing import Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
    """Count, mean and centred second moment of a set of features, in float64.

    Attributes:
      count: N, the examples seen.
      mean: [D].
      scatter: [D, D], the sum over examples of (x - mean) (x - mean)^T. Kept about the mean, since
        raw moments of features far from 0 cancel.
    """

    count: int
    mean: Float[np.ndarray, "D"]
    scatter: Float[np.ndarray, "D D"]

    @property
    def covariance(self) -> Float[np.ndarray, "D D"]:
        """Sample covariance, divided by N - 1.

        Raises:
          ValueError: Fewer than two examples.
        """
        if self.count < 2:
            raise ValueError(f"A covariance needs at least 2 examples, got {self.count}.")
        return self.scatter / (self.count - 1)

    def save(self, file: Any) -> None:
        """Writes count, mean and scatter as .npz to a path (taken as it is) or an open file."""
        if isinstance(file, str | os.PathLike):
            # Given a path, numpy would append .npz to other names.
            with open(file, "wb") as opened:
                return self.save(opened)
        np.savez(file, count=self.count, mean=self.mean, scatter=self.scatter)


def load_moments(file: Any) -> Moments:
    """Moments that `Moments.save` wrote, from a path or an open file.

    Raises:
      ValueError: The file holds something else.
    """
    with np.load(file, allow_pickle=False) as arrays:
        missing = {"count", "mean", "scatter"} - set(arrays)
        if missing:
            raise ValueError(f"Expected moments, {file} lacks {sorted(missing)}; save them again.")
        return Moments(count=int(arrays["count"]), mean=arrays["mean"], scatter=arrays["scatter"])


def moments_of(features: Float[np.ndarray, "N D"]) -> Moments:
    """Moments of one batch of at least one example, in float64 whatever the batch's type.

    Raises:
      ValueError: No example, or values that are not finite.
    """
    if features.ndim != 2 or not len(features):
        raise ValueError(f"Expected features [at least 1 example, D], got {features.shape}.")
    wide = features.astype(np.float64)
    if not np.isfinite(wide).all():
        bad = np.flatnonzero(~np.isfinite(wide).all(axis=1))
        raise ValueError(
            f"Expected finite features, {len(bad)} of {len(wide)} examples (first: {bad[0]}) are"
            " not; look at the clips or the extractor's number type."
        )
    mean = wide.mean(axis=0)
    centred = wide - mean
    return Moments(count=len(wide), mean=mean, scatter=centred.T @ centred)


def merge_moments(parts: Iterable[Moments]) -> Moments:
    """Moments of all examples from those of disjoint parts, such as batches or hosts.

    Chan, Golub, LeVeque 1979: the parts' scatters plus that of their means. Sizes and order of the
    parts change the result by rounding only. Parts of no example are allowed.

    Raises:
      ValueError: No part, or parts of different widths.
    """
    whole = None
    for part in parts:
        whole = part if whole is None else _merge_two(whole, part)
    if whole is None:
        raise ValueError("Expected at least one batch of features, got none; give some clips.")
    return whole


def _merge_two(left: Moments, right: Moments) -> Moments:
    _check_widths(left.mean, right.mean)
    count = left.count + right.count
    if not count:
        return left
    step = right.mean - left.mean
    share = right.count / count
    between = np.outer(step, step) * (left.count * share)
    return Moments(
        count=count,
        mean=left.mean + step * share,
        scatter=left.scatter + right.scatter + between,
    )


def moments_of_batches(batches: Iterable[Float[np.ndarray, "N D"]]) -> Moments:
    """Moments of features that come in batches; memory holds one batch and [D, D]."""
    return merge_moments(moments_of(batch) for batch in batches)


def distance_between(left: Moments, right: Moments) -> float:
    """Frechet distance of two sets, given as moments of at least two examples each.

    Raises:
      ValueError: Fewer than two examples, or features of two kinds.
    """
    _check_widths(left.mean, right.mean)
    if min(left.count, right.count) < 2:
        raise ValueError(
            f"Expected two sets of at least 2 examples, got {left.count} and {right.count}; give"
            " more clips."
        )
    return distance_of_moments(left.mean, left.covariance, right.mean, right.covariance)


def frechet_distance(left: Float[np.ndarray, "N D"], right: Float[np.ndarray, "M E"]) -> float:
    """Distance of two sets of features; 0 for equal ones.

    Raises:
      ValueError: Fewer than two examples, features of two kinds, or values that are not finite.
    """
    for features in (left, right):
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != left.shape[1]:
            raise ValueError(
                f"Expected two sets [at least 2 examples, features] with the same features, got"
                f" {left.shape} and {right.shape}; give more clips or one extractor for both."
            )
    return distance_between(moments_of(left), moments_of(right))


def distance_of_moments(mean_1, covariance_1, mean_2, covariance_2) -> float:
    """The same from means [D] and covariances [D, D]."""
    # With S = L L^T the root of S1 S2 has the trace of the singular values of L1^T L2. No root is
    # taken of the rounding errors of zero eigenvalues, so fewer examples than D lose no digits.
    left, right = _symmetric_factor(covariance_1), _symmetric_factor(covariance_2)
    cross = np.linalg.svd(left.T @ right, compute_uv=False).sum()
    shift = ((np.asarray(mean_1) - np.asarray(mean_2)) ** 2).sum()
    trace = np.trace(covariance_1) + np.trace(covariance_2)
    return float(max(0.0, shift + trace - 2.0 * cross))


def _symmetric_factor(covariance):
    """[D, rank], covariance = factor factor^T; negative eigenvalues and noise are left out."""
    values, vectors = np.linalg.eigh(covariance)
    floor = max(0.0, values[-1]) * len(values) * np.finfo(np.float64).eps
    is_real = values > floor
    if not is_real.any():
        return np.zeros((len(values), 1))
    return vectors[:, is_real] * np.sqrt(values[is_real])


def _check_widths(left, right) -> None:
    if left.shape != right.shape:
        raise ValueError(
            f"Expected features of one width, got {left.shape[0]} and {right.shape[0]}; use one"
            " extractor for both."
        )


def toy_features(
    pictures: Float[np.ndarray, "N Y X 3"], num_features: int = 64, seed: int = 0
) -> Float[np.ndarray, "N D"]:
    """A fixed random projection of the pixels: no weights, only comparable with itself.

    Args:
      pictures: In [0, 1].
      num_features: D.
      seed: Of the projection.
    """
    return random_projection(pictures.reshape(len(pictures), -1), num_features, seed)
