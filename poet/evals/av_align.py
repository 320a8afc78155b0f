"""AV-Align (TempoTokens, arXiv 2309.16429): do peaks of motion and onsets of sound coincide?

Peaks of sound are onsets (`poet.evals.onsets`), peaks of motion local maxima of the mean magnitude
of Farneback's optical flow. Two peaks match when they are less than a frame apart.

Axes: T frames, Y rows, X columns, S samples, N onsets, M peaks of motion.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from poet.evals import farneback, onsets
from poet.typing import Float, UInt8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alignment:
    """The score of one clip. With no peak at all it is 0 and both counts say so."""

    score: float
    num_sound_peaks: int
    num_motion_peaks: int


def align_clip(
    frames: UInt8[np.ndarray, "T Y X 3"],
    samples: Float[np.ndarray, "S"],
    frames_per_second: float,
    *,
    form: Literal["bounded", "published"] = "bounded",
) -> Alignment:
    """AV-Align of a clip.

    Args:
      frames: RGB; frame 0 is at 0 s.
      samples: Mono at 22,050 Hz in [-1, 1]; sample 0 is at 0 s.
      frames_per_second: Of the frames; also the tolerance.
      form: See `alignment`.

    Raises:
      ValueError: Fewer than two frames.
    """
    _check_length(frames)
    motion_s = motion_peaks_s(farneback.flow(frames[:-1], frames[1:]), frames_per_second)
    sound_s = onsets.onset_times_s(samples)
    return alignment(sound_s, motion_s, frames_per_second, form=form)


def alignment(
    sound_s: Sequence[float] | Float[np.ndarray, "N"],
    motion_s: Sequence[float] | Float[np.ndarray, "M"],
    frames_per_second: float,
    *,
    form: Literal["bounded", "published"] = "bounded",
) -> Alignment:
    """AV-Align from times of peaks in seconds.

    Args:
      sound_s: N onsets.
      motion_s: M peaks of motion.
      frames_per_second: Peaks match within less than 1 / frames_per_second.
      form: "bounded": P R / (P + R - P R), P the share of onsets that have a match and R that of
        motion peaks: at most 1. "published": h / (N + M - h) with h the onsets that have a match,
        as TempoTokens computes it; several onsets at one motion peak can take it above 1.

    Raises:
      ValueError: A frame rate of 0 or less.
    """
    if not frames_per_second > 0:
        raise ValueError(f"Expected a frame rate above 0, got {frames_per_second}.")
    sound, motion = np.asarray(sound_s, np.float64), np.asarray(motion_s, np.float64)
    is_near = np.abs(sound[:, None] - motion) < 1.0 / frames_per_second
    num_sound, num_motion = len(sound), len(motion)
    num_hits, num_motion_hits = is_near.any(axis=1).sum(), is_near.any(axis=0).sum()
    if not num_hits:
        score = 0.0
    elif form == "published":
        score = num_hits / (num_sound + num_motion - num_hits)
    else:
        precision, recall = num_hits / num_sound, num_motion_hits / num_motion
        score = precision * recall / (precision + recall - precision * recall)
    return Alignment(score=float(score), num_sound_peaks=num_sound, num_motion_peaks=num_motion)


def motion_peaks_s(
    flow: Float[np.ndarray, "pairs Y X 2"], frames_per_second: float
) -> Float[np.ndarray, "M"]:
    """When motion peaks, in seconds: local maxima of the mean length of the flow.

    Args:
      flow: From each frame to the next, in pixels.
      frames_per_second: Of the frames.
    """
    return _local_maxima(_lengths_px(flow)) / frames_per_second


def flow_magnitude_px(frames: UInt8[np.ndarray, "T Y X 3"]) -> Float[np.ndarray, "T"]:
    """Mean length of `farneback.flow` into each frame from the one before, in pixels.

    The first value stands twice, so that there is one a frame.

    Raises:
      ValueError: Fewer than two frames.
    """
    _check_length(frames)
    return _lengths_px(farneback.flow(frames[:-1], frames[1:]))


def _check_length(frames) -> None:
    if len(frames) < 2:
        raise ValueError(f"Motion needs at least 2 frames, got {len(frames)}.")


def _lengths_px(flow):
    """One a frame; the first stands twice."""
    lengths = [np.linalg.norm(pair.astype(np.float64), axis=-1).mean() for pair in flow]
    return np.array([lengths[0], *lengths])


def _local_maxima(values):
    """Indices of values larger than both neighbours; the ends have only one and never count."""
    is_peak = (values[1:-1] > values[:-2]) & (values[1:-1] > values[2:])
    return 1.0 + np.flatnonzero(is_peak)
