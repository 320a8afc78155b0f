"""Inception Score from a classifier's logits; for videos the classifier is C3D on UCF-101.

exp(mean over videos of KL(p(y|x) || p(y))), arXiv 1606.03498, p(y) being the mean over the videos
of the same split. Between 1 and the number of classes. More splits, of fewer videos each, lower it:
papers on UCF-101 use one split a repeat (MAGVIT: 4 repeats of 10,000) or 10 splits of 2,048
(StyleGAN-V), so the number is always asked for.

Axes: N videos, V classes.
"""

import dataclasses

import numpy as np

from poet.typing import Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class InceptionScore:
    """Mean and standard deviation (of all, not N - 1; 0 for one split) over the splits."""

    mean: float
    std: float
    num_splits: int
    num_videos: int


def inception_score(
    logits: Float[np.ndarray, "N V"], *, num_splits: int, shuffle_seed: int | None = None
) -> InceptionScore:
    """Score of videos from logits before the softmax (log-probabilities serve as well).

    Args:
      logits: Of any float type; computed in float64.
      num_splits: Runs of consecutive videos, whose sizes differ by at most one.
      shuffle_seed: Orders the videos by numpy's `RandomState(seed)` first, the generator of
        StyleGAN-V's tool (there 42); None keeps the order.

    Raises:
      ValueError: Fewer videos than splits, or logits that are not finite.
    """
    num_videos = len(logits)
    if not 1 <= num_splits <= num_videos:
        raise ValueError(
            f"Expected 1 to {num_videos} splits of {num_videos} videos, got {num_splits}."
        )
    if not np.isfinite(logits).all():
        raise ValueError(
            "Expected finite logits, got some that are not; give logits before the softmax, not"
            " the logarithm of probabilities that may be 0."
        )
    rows = logits.astype(np.float64)
    if shuffle_seed is not None:
        rows = rows[np.random.RandomState(shuffle_seed).permutation(num_videos)]
    log_p = rows - _log_sum_exp(rows, axis=1)
    ends = [split * num_videos // num_splits for split in range(num_splits + 1)]
    scores = [_score(log_p[start:stop]) for start, stop in zip(ends[:-1], ends[1:], strict=True)]
    return InceptionScore(
        mean=float(np.mean(scores)),
        std=float(np.std(scores)),
        num_splits=num_splits,
        num_videos=num_videos,
    )


def _score(log_p) -> float:
    log_marginal = _log_sum_exp(log_p, axis=0) - np.log(len(log_p))
    divergence = (np.exp(log_p) * (log_p - log_marginal)).sum(axis=1)
    return float(np.exp(divergence.mean()))


def _log_sum_exp(values, axis):
    """Kept as an axis of 1. Logarithms throughout: a class of probability 0 stays finite."""
    largest = values.max(axis=axis, keepdims=True)
    return largest + np.log(np.exp(values - largest).sum(axis=axis, keepdims=True))
