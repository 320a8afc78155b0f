"""Short-time spectra and mel filters for the scores of sound.

Axes: S samples, frames of the spectrum, bins from 0 Hz to half the sample rate, mels.
"""

import functools

import numpy as np

from poet.typing import Float


def spectrum(
    samples: Float[np.ndarray, "*N S"], *, window_length: int, hop: int, fft_length: int
) -> Float[np.ndarray, "*N frames bins"]:
    """Magnitudes of the frames that fit wholly, under a periodic Hann window, in float64.

    Args:
      samples: At least one window of them; fewer give no frame.
      window_length: Samples of a frame; it is filled up with zeros to `fft_length`.
      hop: Samples from one frame to the next.
      fft_length: Twice the number of bins, less 2.
    """
    if samples.shape[-1] < window_length:
        return np.zeros((*samples.shape[:-1], 0, fft_length // 2 + 1))
    windows = np.lib.stride_tricks.sliding_window_view(samples, window_length, axis=-1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window_length) / window_length)
    return np.abs(np.fft.rfft(windows[..., ::hop, :] * hann, n=fft_length))


@functools.lru_cache(maxsize=8)  # They are the same for every clip, and cost as much as its sound.
def mel_filters(
    *, num_bins: int, sample_rate_hz: int, num_mels: int, low_hz: float, high_hz: float
) -> Float[np.ndarray, "{num_bins} {num_mels}"]:
    """Triangles of height 1 that are straight in mel, 1127 ln(1 + f / 700 Hz); 0 Hz is left out.

    num_mels + 2 points lie evenly in mel from low_hz to high_hz; a filter rises from one to the
    next and falls to the third. A filter narrower than a bin may be empty. Not to be written to.
    """
    at_bin = _mel(np.linspace(0.0, sample_rate_hz / 2, num_bins))[:, None]
    points = np.linspace(_mel(low_hz), _mel(high_hz), num_mels + 2)
    low, middle, high = points[:-2], points[1:-1], points[2:]
    rising, falling = (at_bin - low) / (middle - low), (high - at_bin) / (high - middle)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    filters[0] = 0.0
    filters.flags.writeable = False
    return filters


def _mel(hz):
    return 1127.0 * np.log1p(np.asarray(hz) / 700.0)
