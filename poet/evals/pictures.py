"""PSNR and SSIM of pictures, as MAGVIT measures them.

Axes: N pictures, W clips, T frames, Y rows, X columns.
"""

import numpy as np

from poet.typing import Float

_GREY = np.array([0.2125, 0.7154, 0.0721])
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def psnr_db(
    left: Float[np.ndarray, "*N Y X 3"], right: Float[np.ndarray, "*N Y X 3"]
) -> Float[np.ndarray, "*N"]:
    """Peak signal-to-noise ratio of every picture, pixels in [0, 1]; at most 100 dB."""
    error = ((left.astype(np.float64) - right) ** 2).mean(axis=(-3, -2, -1))
    return np.asarray(-10.0 * np.log10(np.maximum(error, 1e-10)))


def ssim(
    left: Float[np.ndarray, "*N Y X 3"], right: Float[np.ndarray, "*N Y X 3"]
) -> Float[np.ndarray, "*N"]:
    """Structural similarity of every picture in grey, pixels in [0, 1].

    Gaussian windows of 11 x 11 pixels (sigma 1.5) that fit into the picture, biased variances.

    Raises:
      ValueError: Pictures are smaller than a window.
    """
    if min(left.shape[-3:-1]) < _WINDOW:
        raise ValueError(
            f"SSIM needs pictures of at least {_WINDOW} x {_WINDOW} pixels, got"
            f" {left.shape[-3]} x {left.shape[-2]}; enlarge them or leave it out."
        )
    a, b = left.astype(np.float64) @ _GREY, right.astype(np.float64) @ _GREY
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    likeness = likeness * (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    return np.asarray(likeness.mean(axis=(-2, -1)))


def compare(
    originals: Float[np.ndarray, "W T Y X 3"], restored: Float[np.ndarray, "W T Y X 3"]
) -> dict[str, float]:
    """Scores of clips, first frames and later ones apart: a causal model begins with a picture.

    PSNR is of the mean error of all pixels; SSIM is left out where pictures are too small.
    """
    error = ((originals.astype(np.float64) - restored) ** 2).mean(axis=(-3, -2, -1))
    scores = {"psnr_db": _decibels(error), "psnr_db_first": _decibels(error[:, 0])}
    if error.shape[1] > 1:
        scores["psnr_db_later"] = _decibels(error[:, 1:])
    if min(originals.shape[-3:-1]) >= _WINDOW:
        likeness = ssim(originals, restored)
        scores["ssim_first"] = float(likeness[:, 0].mean())
        if error.shape[1] > 1:
            scores["ssim_later"] = float(likeness[:, 1:].mean())
    return scores


def _decibels(error) -> float:
    return float(-10.0 * np.log10(max(1e-10, error.mean())))


def _blur(grey):
    """[..., Y, X] -> [..., Y - 10, X - 10]."""
    taps = np.exp(-0.5 * ((np.arange(_WINDOW) - _WINDOW // 2) / _SIGMA) ** 2)
    taps = taps / taps.sum()
    for axis in (-2, -1):
        windows = np.lib.stride_tricks.sliding_window_view(grey, _WINDOW, axis=axis)
        grey = windows @ taps
    return grey
