"""When sounds begin: onset strength, its peaks, and how well onsets agree with given times.

The constants are librosa's defaults (22,050 Hz, frames of 2,048 samples every 512, 128 mel bins,
80 dB of range, its rules for peaks), so that AV-Align means the same thing. What differs from
librosa: mel bins are straight in 1127 ln(1 + f / 700) with triangles of height 1 instead of
Slaney's scale and unit areas, and the peak rule's windows are cut at the ends of the sound. The
resampling to 22,050 Hz is the caller's (FFmpeg's in `poet.media.sound`). Weak onsets may therefore
come or go; we have not run librosa beside it. As there, a time is the end of the frame whose level
rose most: 0 to about 35 ms late.

Axes: S samples, L frames of the strength, N onsets, M onsets expected.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from poet.evals import mel
from poet.typing import Float

SAMPLE_RATE_HZ = 22_050
HOP = 512
_FFT, _NUM_MELS = 2_048, 128
_FLOOR_POWER, _RANGE_DB = 1e-10, 80.0
# Peaks, in frames: 30 ms back for the maximum, 100 ms to both sides for the mean, 30 ms apart.
_BACK, _AROUND, _APART = 1, 4, 1
_ABOVE_MEAN = 0.07


def onset_strength(samples: Float[np.ndarray, "S"]) -> Float[np.ndarray, "L"]:
    """Mean rise over the mel bins from frame to frame, in dB; frame k lies at k 512 / 22,050 s.

    Spectral flux (Boeck and Widmer 2013): falls count as 0. The first three frames are 0.

    Args:
      samples: 22,050 Hz mono in [-1, 1].

    Raises:
      ValueError: Samples that are not finite.
    """
    if not np.isfinite(samples).all():
        raise ValueError("Expected finite samples, got some that are not; look at the sound file.")
    padded = np.pad(samples.astype(np.float64), _FFT // 2)
    power = mel.spectrum(padded, window_length=_FFT, hop=HOP, fft_length=_FFT) ** 2
    filters = mel.mel_filters(
        num_bins=_FFT // 2 + 1,
        sample_rate_hz=SAMPLE_RATE_HZ,
        num_mels=_NUM_MELS,
        low_hz=0.0,
        high_hz=SAMPLE_RATE_HZ / 2,
    )
    level_db = 10.0 * np.log10(np.maximum(_FLOOR_POWER, power @ filters))
    level_db = np.maximum(level_db, level_db.max() - _RANGE_DB)
    rise = np.maximum(0.0, np.diff(level_db, axis=0)).mean(axis=1)
    # A sound enters a frame up to half a frame before its middle: two hops, and one of the step.
    return np.pad(rise, (1 + _FFT // (2 * HOP), 0))[: len(level_db)]


def onset_times_s(samples: Float[np.ndarray, "S"]) -> Float[np.ndarray, "N"]:
    """Times of the onsets in seconds, rising; none in silence.

    The strength is scaled to [0, 1]. An onset is the largest of itself and the frame before, at
    least 0.07 above the mean from 4 frames before to 4 after, and 2 frames or more after the last.

    Args:
      samples: 22,050 Hz mono in [-1, 1].
    """
    strength = onset_strength(samples)
    strength = strength - strength.min()
    if not strength.any():
        return np.zeros(0)
    return _peaks(strength / strength.max()) * (HOP / SAMPLE_RATE_HZ)


def _peaks(strength):
    found = []
    for frame, value in enumerate(strength):
        nearest = strength[max(0, frame - _BACK) : frame + 1]
        around = strength[max(0, frame - _AROUND) : frame + _AROUND + 1]
        is_peak = value == nearest.max() and value >= around.mean() + _ABOVE_MEAN
        if is_peak and (not found or frame - found[-1] > _APART):
            found.append(frame)
    return np.array(found, np.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnsetAgreement:
    """How onsets that were found match those expected; each counts at most once.

    f1, precision and recall are 0 where there is nothing to divide by: look at the counts.
    """

    num_matched: int
    num_found: int
    num_expected: int

    @property
    def precision(self) -> float:
        """Share of the found that were expected."""
        return self.num_matched / max(1, self.num_found)

    @property
    def recall(self) -> float:
        """Share of the expected that were found."""
        return self.num_matched / max(1, self.num_expected)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.num_matched / max(1, self.num_found + self.num_expected)


def onset_agreement(
    found_s: Sequence[float] | Float[np.ndarray, "N"],
    expected_s: Sequence[float] | Float[np.ndarray, "M"],
    *,
    tolerance_s: float,
) -> OnsetAgreement:
    """Matches as many onsets as can be, one to one, no further apart than the tolerance.

    Args:
      found_s: Times in seconds, in any order.
      expected_s: The same.
      tolerance_s: 0.05 is usual in music.

    Raises:
      ValueError: A negative tolerance, or a time that is not finite.
    """
    if tolerance_s < 0 or not np.isfinite([*found_s, *expected_s]).all():
        raise ValueError(
            f"Expected finite times and a tolerance of 0 s or more, got {tolerance_s} s, times"
            f" {list(found_s)} and {list(expected_s)}."
        )
    found, expected = sorted(found_s), sorted(expected_s)
    num_matched = at_found = at_expected = 0
    # In order of time the earliest partner within reach is never a worse choice than a later one.
    while at_found < len(found) and at_expected < len(expected):
        gap_s = found[at_found] - expected[at_expected]
        num_matched += abs(gap_s) <= tolerance_s
        at_found += gap_s <= tolerance_s
        at_expected += gap_s >= -tolerance_s
    return OnsetAgreement(
        num_matched=int(num_matched), num_found=len(found), num_expected=len(expected)
    )
