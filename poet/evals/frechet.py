"""Frechet distance between two sets of features, each taken as one normal distribution.

|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances with N - 1 (arXiv 1706.08500). The
distance of small sets is biased upwards by about (2 D + D (D + 1) / 2) / N times the variance: only
sets of one size compare.

Axes: N examples, D features, Y rows, X columns.
"""

import numpy as np

from poet.typing import Float


def frechet_distance(left: Float[np.ndarray, "N D"], right: Float[np.ndarray, "M D"]) -> float:
    """Distance of two sets of features; 0 for equal ones.

    Raises:
      ValueError: Fewer than two examples, or features of two kinds.
    """
    for features in (left, right):
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != left.shape[1]:
            raise ValueError(
                f"Expected two sets [at least 2 examples, features] with the same features, got"
                f" {left.shape} and {right.shape}; give more clips or one extractor for both."
            )
    left, right = left.astype(np.float64), right.astype(np.float64)
    covariances = [np.atleast_2d(np.cov(features, rowvar=False)) for features in (left, right)]
    return distance_of_moments(
        left.mean(axis=0), covariances[0], right.mean(axis=0), covariances[1]
    )


def distance_of_moments(mean_1, covariance_1, mean_2, covariance_2) -> float:
    """The same from means [D] and covariances [D, D]."""
    values, vectors = np.linalg.eigh(covariance_1)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    # The trace of the root of S1 S2 is that of the symmetric sqrt(S1) S2 sqrt(S1).
    cross = np.linalg.eigvalsh(root @ covariance_2 @ root)
    shift = ((np.asarray(mean_1) - np.asarray(mean_2)) ** 2).sum()
    trace = np.trace(covariance_1) + np.trace(covariance_2)
    return float(max(0.0, shift + trace - 2.0 * np.sqrt(np.maximum(cross, 0.0)).sum()))


def toy_features(
    pictures: Float[np.ndarray, "N Y X 3"], num_features: int = 64, seed: int = 0
) -> Float[np.ndarray, "N D"]:
    """A fixed random projection of the pixels: no weights, only comparable with itself.

    Args:
      pictures: In [0, 1].
      num_features: D.
      seed: Of the projection.
    """
    flat = pictures.reshape(len(pictures), -1).astype(np.float64)
    draws = np.random.Generator(np.random.Philox(key=seed))
    projection = draws.standard_normal((flat.shape[1], num_features)) / np.sqrt(flat.shape[1])
    return flat @ projection
