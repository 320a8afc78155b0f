"""Fits the laws of motion to a measured track by least squares."""

import dataclasses

import numpy as np

from poet.shapes_world import world

# The written criterion; docs/shapes_world.md gives the reasons.
MAX_RMS_W = 0.04
SPEED_TOLERANCE = 0.25
MIN_FITTED_SPEED, MAX_FITTED_SPEED = 0.1, 0.8
MIN_FIRST_HIT_S = 0.25
MIN_FRAMES = 5

_SPEED_STEP, _NUM_STARTS, _NUM_REFINEMENTS = 0.02, 61, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class MotionFit:
    """The law nearest to a track.

    Attributes:
      motion: word of MOTIONS, or "none" where no law comes within MAX_RMS_W.
      speed: word of SPEEDS; "none" if the shape does not move or its speed is near neither.
      speed_w_per_s: fitted speed; 0 if the shape does not move.
      rms_w: root of the mean squared distance to the law (x, y and half extent together), in W.
      hit_times_s: wall hits of the fitted law up to the last frame.
    """

    motion: str = world.NONE
    speed: str = world.NONE
    speed_w_per_s: float = 0.0
    rms_w: float = float("inf")
    hit_times_s: tuple[float, ...] = ()


def fit(centres: np.ndarray, half_extents: np.ndarray) -> MotionFit:
    """The best law for centres [T, 2] and half extents [T] in W, one per frame."""
    num_frames = len(centres)
    if num_frames < MIN_FRAMES or not np.isfinite(centres).all():
        return MotionFit()
    times_s = world.frame_times_s(num_frames)
    spread = ((centres - centres.mean(axis=0)) ** 2).sum(axis=0)
    fixed_size = ((half_extents - world.HALF_EXTENT) ** 2).sum()
    growing_size = ((half_extents - world.growing_half_extent_at(times_s)) ** 2).sum()
    fits = [
        (fixed_size + spread.sum(), "still", 0.0, ()),
        (growing_size + spread.sum(), "growing", 0.0, ()),
    ]
    for motion, direction in world.DIRECTIONS.items():
        axis = 0 if direction[0] else 1
        # Mirrored so that each direction is the one towards the near edge.
        along = centres[:, axis] if direction[axis] < 0 else 1.0 - centres[:, axis]
        error, speed, start = _fit_bounce(along, times_s)
        hits = world.bounce_times_s(start, -speed, float(times_s[-1]))
        fits.append((error + fixed_size + spread[1 - axis], motion, speed, hits))
    error, motion, speed, hits = min(fits, key=lambda candidate: candidate[0])
    rms_w = float(np.sqrt(error / num_frames))
    if rms_w > MAX_RMS_W:
        return MotionFit(rms_w=rms_w)
    return MotionFit(
        motion=motion,
        speed=_name_speed(speed),
        speed_w_per_s=float(speed),
        rms_w=rms_w,
        hit_times_s=hits,
    )


def _fit_bounce(along, times_s) -> tuple[float, float, float]:
    """(squared error, speed, start) of the best motion towards coordinate 0, by refined grids."""
    low, high = world.HALF_EXTENT, 1.0 - world.HALF_EXTENT
    speeds = np.arange(MIN_FITTED_SPEED, MAX_FITTED_SPEED + 1e-9, _SPEED_STEP)
    starts = np.linspace(low, high, _NUM_STARTS)
    speed_step, start_step = _SPEED_STEP, starts[1] - starts[0]
    for _ in range(1 + _NUM_REFINEMENTS):
        law = world.bounce(starts[:, None], -speeds[:, None, None], times_s)
        errors = ((law - along) ** 2).sum(axis=-1)
        # Without a stretch in the first direction left could not be told from right.
        errors[starts - low < MIN_FIRST_HIT_S * speeds[:, None] - 1e-9] = np.inf
        best_speed, best_start = np.unravel_index(errors.argmin(), errors.shape)
        error, speed, start = errors.min(), speeds[best_speed], starts[best_start]
        steps = np.linspace(-1.0, 1.0, 11)
        speeds = np.clip(speed + steps * speed_step, MIN_FITTED_SPEED, MAX_FITTED_SPEED)
        starts = np.clip(start + steps * start_step, low, high)
        speed_step, start_step = speed_step / 5, start_step / 5
    return float(error), float(speed), float(start)


def _name_speed(speed: float) -> str:
    for word, value in world.SPEED_W_PER_S.items():
        if abs(speed - value) <= SPEED_TOLERANCE * value:
            return word
    return world.NONE
