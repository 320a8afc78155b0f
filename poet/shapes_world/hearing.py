"""Hears the pitch and the clicks in a clip's sound. Axes: S samples."""

import numpy as np

from poet.shapes_world import world
from poet.typing import Float

# The written criterion; docs/shapes_world.md gives the reasons.
PITCH_TOLERANCE = 0.05
MIN_TONE_SHARE = 0.5
MIN_TONE_RMS = 0.01
MIN_AGREEING_WINDOWS = 0.7
CLICK_BAND_HZ = (2_000.0, 5_000.0)
MIN_CLICK_LEVEL = 0.03
MIN_CLICK_OVER_MEDIAN = 3.5
MIN_CLICK_GAP_S = 0.1

_TONE_BAND_HZ = (150.0, 4_000.0)
_MAX_PITCH_HZ = 1_500.0
_TONE_HALF_WIDTH_HZ = 40.0
_WINDOW, _HOP = 2_048, 512
_SMOOTH_S = 0.004


def hear_pitch(
    sound: Float[np.ndarray, "S"], click_times_s: tuple[float, ...] = (), rate_hz: int = 16_000
) -> float | None:
    """Frequency in Hz of the one clear tone, or None.

    Windows that hold a click are left out as long as others remain.
    """
    starts = np.arange(0, len(sound) - _WINDOW + 1, _HOP)
    if not len(starts):
        return None
    clicks = np.array(click_times_s)[:, None] * rate_hz
    is_clear = ~((clicks > starts - 0.1 * rate_hz) & (clicks < starts + _WINDOW)).any(axis=0)
    starts = starts[is_clear] if is_clear.any() else starts
    windows = sound[starts[:, None] + np.arange(_WINDOW)].astype(np.float64)
    if np.sqrt((windows**2).mean()) < MIN_TONE_RMS:
        return None
    power = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW), axis=1)) ** 2
    hertz = np.fft.rfftfreq(_WINDOW, 1 / rate_hz)
    in_band = (hertz >= _TONE_BAND_HZ[0]) & (hertz <= _TONE_BAND_HZ[1])
    may_be_pitch = in_band & (hertz <= _MAX_PITCH_HZ)
    pitch_hz = _peak_hz(power.mean(axis=0), hertz, may_be_pitch)
    near = in_band & (np.abs(hertz - pitch_hz) <= _TONE_HALF_WIDTH_HZ)
    share = power[:, near].sum() / power[:, in_band].sum()
    peaks = hertz[np.where(may_be_pitch, power, 0.0).argmax(axis=1)]
    agreeing = np.mean(np.abs(peaks - pitch_hz) <= PITCH_TOLERANCE * pitch_hz)
    return pitch_hz if share >= MIN_TONE_SHARE and agreeing >= MIN_AGREEING_WINDOWS else None


def name_pitch(pitch_hz: float | None) -> str:
    """The colour whose pitch is within 5 %, or "none"."""
    if pitch_hz is None:
        return world.NONE
    for colour, hertz in world.PITCH_HZ.items():
        if abs(pitch_hz - hertz) <= PITCH_TOLERANCE * hertz:
            return colour
    return world.NONE


def hear_clicks(sound: Float[np.ndarray, "S"], rate_hz: int = 16_000) -> tuple[float, ...]:
    """Times in seconds at which bursts in the click band begin."""
    if not len(sound):
        return ()
    level = _click_band_level(sound.astype(np.float64), rate_hz)
    threshold = max(MIN_CLICK_LEVEL, MIN_CLICK_OVER_MEDIAN * float(np.median(level)))
    gap = round(MIN_CLICK_GAP_S * rate_hz)
    times = []
    loudness = level.copy()
    while loudness.max() >= threshold:
        peak = int(loudness.argmax())
        first = max(0, peak - gap)
        quiet = np.nonzero(level[first : peak + 1] < level[peak] / 2)[0]
        onset = first + quiet[-1] + 1 if len(quiet) else first
        times.append(onset / rate_hz)
        loudness[first : peak + gap + 1] = 0.0
    return tuple(sorted(times))


def _peak_hz(power, hertz, allowed) -> float:
    """Frequency of the largest allowed bin, refined by a parabola through the log of its sides."""
    bin_index = int(np.where(allowed, power, 0.0).argmax())
    below, peak, above = np.log(power[bin_index - 1 : bin_index + 2] + 1e-20)
    bend = below - 2 * peak + above
    shift = 0.5 * (below - above) / bend if bend else 0.0
    return float(hertz[bin_index] + np.clip(shift, -0.5, 0.5) * hertz[1])


def _click_band_level(sound, rate_hz: int) -> np.ndarray:
    """[S]: RMS of the click band over 4 ms around each sample."""
    hertz = np.fft.rfftfreq(2 * len(sound), 1 / rate_hz)
    spectrum = np.fft.rfft(sound, 2 * len(sound))
    spectrum[(hertz < CLICK_BAND_HZ[0]) | (hertz > CLICK_BAND_HZ[1])] = 0.0
    band = np.fft.irfft(spectrum)[: len(sound)]
    half = round(_SMOOTH_S * rate_hz / 2)
    total = np.concatenate([np.zeros(half + 1), np.cumsum(band**2)])
    total = np.concatenate([total, np.full(half, total[-1])])
    energy = total[2 * half + 1 :] - total[: -2 * half - 1]
    return np.sqrt(np.maximum(energy, 0.0) / (2 * half + 1))
