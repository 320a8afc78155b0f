"""The exact checker: what a decoded clip shows and sounds like, by the written criterion.

It knows the laws but not the prompt. docs/shapes_world.md states every threshold.
"""

import dataclasses

import numpy as np

from poet.shapes_world import hearing, motion, picture, world
from poet.typing import Float, UInt8

# How far from its law's place a continued shape's centre may be.
CONTINUATION_BOUND_W = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What one clip shows and sounds like; every word may be "none".

    Attributes:
      shape, colour, motion, speed: words of the world.
      reason: why the picture does not hold exactly one shape in every frame; "" if it does.
      centres: float64 [T, 2] (x, y) in W, NaN where a frame does not hold exactly one shape.
      half_extents: float64 [T] in W, NaN as above.
      overlap: mean soft intersection over union with the best shape, 0 to 1.
      rms_w: distance of the track from the fitted law.
      speed_w_per_s: fitted speed.
      hit_times_s: wall hits of the fitted law; empty if there is none.
      pitch_hz: the clear tone, or None.
      colour_heard: the colour of that pitch.
      click_times_s: beginnings of the clicks heard.
    """

    shape: str
    colour: str
    motion: str
    speed: str
    reason: str
    centres: np.ndarray
    half_extents: np.ndarray
    overlap: float
    rms_w: float
    speed_w_per_s: float
    hit_times_s: tuple[float, ...]
    pitch_hz: float | None
    colour_heard: str
    click_times_s: tuple[float, ...]


def check(
    frames: UInt8[np.ndarray, "T Y X 3"],
    sound: Float[np.ndarray, "S"] | None = None,
    sample_rate_hz: int = world.SAMPLE_RATE_HZ,
) -> Finding:
    """Measures a decoded clip.

    Args:
      frames: uint8, square, at least 32 px, at 8 frames a second from time 0.
      sound: mono in [-1, 1] from time 0, or None.
      sample_rate_hz: rate of `sound`, at least 12 kHz to hold the click band.

    Raises:
      ValueError: frames of another type or form.
    """
    seen = picture.track(frames)
    law = motion.MotionFit() if seen.reason else motion.fit(seen.centres, seen.half_extents)
    clicks = () if sound is None else hearing.hear_clicks(sound, sample_rate_hz)
    pitch_hz = None if sound is None else hearing.hear_pitch(sound, clicks, sample_rate_hz)
    return Finding(
        shape=seen.shape,
        colour=seen.colour,
        motion=law.motion,
        speed=law.speed,
        reason=seen.reason,
        centres=seen.centres,
        half_extents=seen.half_extents,
        overlap=seen.overlap,
        rms_w=law.rms_w,
        speed_w_per_s=law.speed_w_per_s,
        hit_times_s=law.hit_times_s,
        pitch_hz=pitch_hz,
        colour_heard=hearing.name_pitch(pitch_hz),
        click_times_s=clicks,
    )


def picture_agrees(finding: Finding, spec: world.ClipSpec) -> bool:
    """True if shape, colour, motion and speed are all the clip's own."""
    return all(
        getattr(finding, name) == getattr(spec, name)
        for name in ("shape", "colour", "motion", "speed")
    )


def sound_agrees(finding: Finding, spec: world.ClipSpec, within_s: float = 0.06) -> bool:
    """True if the pitch is the colour's and the clicks are the law's wall hits, one for one."""
    hits = world.hit_times_s(spec)
    return (
        finding.colour_heard == spec.colour
        and len(hits) == len(finding.click_times_s)
        and all(abs(a - b) <= within_s for a, b in zip(hits, finding.click_times_s, strict=True))
    )


def continuation_in_bounds(finding: Finding, spec: world.ClipSpec, from_frame: int = 9) -> bool:
    """True if in every frame from `from_frame` on the centre is within 5 % of W of its law.

    A frame without exactly one shape is out of bounds. `spec` is the law of the clip whose first
    `from_frame` frames were given.
    """
    if not 0 <= from_frame < len(finding.centres):
        raise ValueError(
            f"from_frame must be a frame of the clip, 0 to {len(finding.centres) - 1}, got "
            f"{from_frame}; check the whole clip, given frames included."
        )
    times_s = world.frame_times_s(len(finding.centres))[from_frame:]
    law = np.stack(world.centre_at(spec, times_s), axis=1)
    distance = np.linalg.norm(finding.centres[from_frame:] - law, axis=1)
    # NaN compares false.
    return bool((distance <= CONTINUATION_BOUND_W).all())
