"""Kernel video distance: unbiased squared MMD of two sets of features (KVD; KID for pictures).

k(x, y) = (x.y / D + 1)^3. The kernel and the pass over all examples are those of FVD's paper (arXiv
1812.01717) and of TATS's code, means over random subsets those of KID (arXiv 1801.01401). Unlike
the Frechet distance it has no bias in N; it can be negative and is not clamped.

Axes: N and M examples, D features (E: D, unless refused).
"""

import dataclasses

import numpy as np

from poet.typing import Float

_DEGREE, _OFFSET = 3, 1.0
_NUM_ROWS = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubsetDistance:
    """Mean and standard deviation (of all, not N - 1) of the distance over random subsets."""

    mean: float
    std: float
    num_subsets: int
    subset_size: int


def kernel_distance(left: Float[np.ndarray, "N D"], right: Float[np.ndarray, "M E"]) -> float:
    """Distance of all examples of two sets in one pass; about 0, of either sign, for one law.

    Raises:
      ValueError: Fewer than two examples, features of two kinds, or values that are not finite.
    """
    _check(left, right)
    left, right = left.astype(np.float64), right.astype(np.float64)
    num_left, num_right = len(left), len(right)
    within = _sum_of_pairs(left) / (num_left * (num_left - 1))
    within += _sum_of_pairs(right) / (num_right * (num_right - 1))
    between = sum(_kernel(rows, right).sum() for rows in _blocks(left))
    return float(within - 2.0 * between / (num_left * num_right))


def subset_kernel_distance(
    left: Float[np.ndarray, "N D"],
    right: Float[np.ndarray, "M E"],
    *,
    num_subsets: int = 100,
    subset_size: int = 1_000,
    seed: int = 0,
) -> SubsetDistance:
    """Distances of random subsets, drawn without replacement from each set anew each time.

    The usual 100 subsets of 1,000 are the defaults. A seed draws the same subsets always; other
    tools draw others.

    Raises:
      ValueError: As `kernel_distance`; or a set is smaller than a subset.
    """
    _check(left, right)
    if not 2 <= subset_size <= min(len(left), len(right)) or num_subsets < 1:
        raise ValueError(
            f"Expected at least 1 subset of 2 to {min(len(left), len(right))} examples (the"
            f" smaller set), got {num_subsets} of {subset_size}; choose a smaller subset_size."
        )
    draws = np.random.Generator(np.random.Philox(key=seed))
    found = [
        kernel_distance(
            *(side[draws.permutation(len(side))[:subset_size]] for side in (left, right))
        )
        for _ in range(num_subsets)
    ]
    return SubsetDistance(
        mean=float(np.mean(found)),
        std=float(np.std(found)),
        num_subsets=num_subsets,
        subset_size=subset_size,
    )


def _kernel(left, right):
    return (left @ right.T / left.shape[1] + _OFFSET) ** _DEGREE


def _sum_of_pairs(rows) -> float:
    """Sum of the kernel over ordered pairs of different examples."""
    everything = sum(_kernel(block, rows).sum() for block in _blocks(rows))
    itself = (((rows * rows).sum(axis=1) / rows.shape[1] + _OFFSET) ** _DEGREE).sum()
    return float(everything - itself)


def _blocks(rows):
    """Runs of rows: the kernel of 10,000 examples against as many would take 800 MB at once."""
    return (rows[start : start + _NUM_ROWS] for start in range(0, len(rows), _NUM_ROWS))


def _check(left, right) -> None:
    if min(len(left), len(right)) < 2 or left.shape[1] != right.shape[1]:
        raise ValueError(
            "Expected two sets [at least 2 examples, features] with the same features, got"
            f" {left.shape} and {right.shape}; give more clips or one extractor for both."
        )
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise ValueError("Expected finite features, got some that are not; look at the extractor.")
