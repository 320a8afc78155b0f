"""Frechet audio distance (FAD, arXiv 1812.08466): VGGish's front end, FAD's windows, the distance.

The network is given from outside as an extractor of examples; VGGish itself has 128 features a
second, without PCA and without a last ReLU. The steps before it, as in Google's code:

  16 kHz mono, divided by max(0.1, largest sample)   (the largest, not the largest magnitude)
  windows of 1 s every 0.5 s; what is left at the end and sounds under 1 s give none
  frames of 25 ms every 10 ms, periodic Hann, magnitudes of 512 points
  64 mel bins from 125 to 7,500 Hz, log(x + 0.01)
  the first 96 of a window's 98 frames are its example

Other tools differ (no normalisation, no overlap, a ReLU), and so do their numbers.

Axes: S samples, N examples, D features.
"""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np

from poet.evals import frechet, mel
from poet.typing import Float

SAMPLE_RATE_HZ = 16_000
FRAMES_PER_EXAMPLE, NUM_MELS = 96, 64
_WINDOW, _HOP, _FFT = 400, 160, 512
_LOW_HZ, _HIGH_HZ = 125.0, 7_500.0
_LOG_OFFSET = 0.01
_FAD_WINDOW, _FAD_HOP = SAMPLE_RATE_HZ, SAMPLE_RATE_HZ // 2
_LEAST_PEAK = 0.1


@runtime_checkable
class SoundExtractor(Protocol):
    """A network (or a toy) that describes each log-mel example by one row of numbers."""

    def features(self, examples: Float[np.ndarray, "N 96 64"]) -> Float[np.ndarray, "N D"]:
        """Features of float32 examples, each from its own example only."""
        ...


def log_mel(samples: Float[np.ndarray, "*N S"]) -> Float[np.ndarray, "*N frames 64"]:
    """VGGish's log-mel frames of 16 kHz sound in [-1, 1], 100 a second, in float64.

    1 + floor((S - 400) / 160) frames; silence is log 0.01 = -4.60517.
    """
    magnitudes = mel.spectrum(samples, window_length=_WINDOW, hop=_HOP, fft_length=_FFT)
    filters = mel.mel_filters(
        num_bins=_FFT // 2 + 1,
        sample_rate_hz=SAMPLE_RATE_HZ,
        num_mels=NUM_MELS,
        low_hz=_LOW_HZ,
        high_hz=_HIGH_HZ,
    )
    return np.log(magnitudes @ filters + _LOG_OFFSET)


def vggish_examples(samples: Float[np.ndarray, "S"]) -> Float[np.ndarray, "N 96 64"]:
    """VGGish's own examples of 16 kHz sound: runs of 0.96 s without overlap, float32.

    Frames that fill no whole example are left out. FAD cuts differently: see `fad_examples`.
    """
    frames = log_mel(samples)
    num_examples = len(frames) // FRAMES_PER_EXAMPLE
    whole = frames[: num_examples * FRAMES_PER_EXAMPLE]
    return whole.reshape(num_examples, FRAMES_PER_EXAMPLE, NUM_MELS).astype(np.float32)


def fad_windows(samples: Float[np.ndarray, "S"]) -> Float[np.ndarray, "N 16000"]:
    """Windows of 1 s every 0.5 s of 16 kHz sound, its level raised first where it is low.

    All samples are divided by max(0.1, largest sample): a quiet sound gains at most 20 dB.
    Sounds shorter than 1 s give no window.
    """
    if len(samples) < _FAD_WINDOW:
        return np.zeros((0, _FAD_WINDOW))
    level = samples.astype(np.float64) / max(_LEAST_PEAK, float(samples.max()))
    return np.lib.stride_tricks.sliding_window_view(level, _FAD_WINDOW)[::_FAD_HOP]


def fad_examples(samples: Float[np.ndarray, "S"]) -> Float[np.ndarray, "N 96 64"]:
    """One log-mel example of each of FAD's windows, float32.

    Raises:
      ValueError: Samples that are not finite.
    """
    if not np.isfinite(samples).all():
        raise ValueError("Expected finite samples, got some that are not; look at the sound file.")
    return log_mel(fad_windows(samples))[:, :FRAMES_PER_EXAMPLE].astype(np.float32)


def sound_moments(
    sounds: Iterable[np.ndarray], extractor: SoundExtractor
) -> tuple[frechet.Moments, int]:
    """Moments of the features of all windows of all sounds, and how many sounds had no window.

    Args:
      sounds: [S] each, 16 kHz mono in [-1, 1]; lengths may differ, one is held at a time.
      extractor: Sees the examples of one sound at a time.

    Raises:
      ValueError: No sound has a window.
    """
    parts, num_too_short = [], 0
    for samples in sounds:
        examples = fad_examples(samples)
        if len(examples):
            parts.append(frechet.moments_of(np.asarray(extractor.features(examples))))
            # Merged at once: a part is [D, D], too large to keep one for each file.
            parts = [frechet.merge_moments(parts)]
        else:
            num_too_short += 1
    if not parts:
        raise ValueError(
            f"FAD needs sounds of at least 1 s, got {num_too_short} that are shorter; generate"
            " longer clips."
        )
    return parts[0], num_too_short


def frechet_audio_distance(
    reference: Iterable[np.ndarray],
    generated: Iterable[np.ndarray],
    extractor: SoundExtractor,
) -> float:
    """Distance of two sets of 16 kHz mono sounds [S], which may differ in number and length.

    Raises:
      ValueError: Fewer than two windows on a side, or samples that are not finite.
    """
    sides = [sound_moments(sounds, extractor)[0] for sounds in (reference, generated)]
    return frechet.distance_between(*sides)
