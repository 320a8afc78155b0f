"""The laws of the shapes world as constants and pure functions (docs/shapes_world.md says them).

Lengths are in W, the width of the square picture; x grows to the right, y grows downwards, both
from the top left corner. Times are seconds after the first frame. This file has no pixels and no
samples in it: the renderer draws these laws and the checker fits them.
"""

import dataclasses

import numpy as np

NUM_FRAMES = 17
FRAMES_PER_SECOND = 8.0
LAST_FRAME_S = (NUM_FRAMES - 1) / FRAMES_PER_SECOND
SAMPLE_RATE_HZ = 16_000
NUM_SAMPLES = 34_000

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan")
MOTIONS = ("left", "right", "up", "down", "still", "growing")
SPEEDS = ("slow", "fast")
NONE = "none"

# Every channel of every colour is one of these two levels; the background is three low ones.
LOW_LEVEL, HIGH_LEVEL = 24, 232
BACKGROUND_RGB = (LOW_LEVEL,) * 3
COLOUR_BITS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "magenta": (1, 0, 1),
    "cyan": (0, 1, 1),
}
PITCH_HZ = {
    "red": 300.0,
    "green": 400.0,
    "blue": 550.0,
    "yellow": 700.0,
    "magenta": 900.0,
    "cyan": 1150.0,
}
SPEED_W_PER_S = {"slow": 0.25, "fast": 0.5}
# Unit vectors (x, y) of the four directions.
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

HALF_EXTENT = 0.1875
GROWING_HALF_EXTENTS = (0.125, 0.25)
CROSS_ARM = 1.0 / 3.0

# A sampled clip keeps its first direction for at least this long ...
FIRST_HIT_S = 0.5
# ... and has no wall hit this near to its last frame, where one could not say if it belongs to it.
END_MARGIN_S = 1.0 / 16.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """Everything that decides one clip.

    Attributes:
      clip_id: name of the clip, also of its file without the suffix.
      split: "train", "validation" or "held_out".
      caption: the sentence that describes it.
      shape, colour, motion: words of SHAPES, COLOURS, MOTIONS.
      speed: a word of SPEEDS if the shape moves, else "none".
      start_x, start_y: centre of the bounding box in the first frame, in W.
    """

    clip_id: str = ""
    split: str = ""
    caption: str = ""
    shape: str
    colour: str
    motion: str
    speed: str = NONE
    start_x: float
    start_y: float

    def __post_init__(self):
        moves = self.motion in DIRECTIONS
        for name, words in (
            ("shape", SHAPES),
            ("colour", COLOURS),
            ("motion", MOTIONS),
            ("speed", SPEEDS if moves else (NONE,)),
        ):
            if getattr(self, name) not in words:
                raise ValueError(
                    f"{name} of a {self.motion!r} clip must be one of {', '.join(words)}, got "
                    f"{getattr(self, name)!r}; use one of those words."
                )
        half = GROWING_HALF_EXTENTS[1] if self.motion == "growing" else HALF_EXTENT
        if not (half <= self.start_x <= 1 - half and half <= self.start_y <= 1 - half):
            raise ValueError(
                f"A {self.motion} shape must start with its centre in [{half}, {1 - half}] W, got "
                f"({self.start_x}, {self.start_y}); move it away from the wall."
            )


def is_held_out(shape: str, colour: str, motion: str) -> bool:
    """True for the 24 of 144 combinations that training never sees.

    Each shape with each colour misses exactly one motion, so every pair of attribute values still
    occurs in training.
    """
    pattern = SHAPES.index(shape) + COLOURS.index(colour)
    return MOTIONS.index(motion) == pattern % len(MOTIONS)


def combinations(held_out: bool) -> tuple[tuple[str, str, str], ...]:
    """(shape, colour, motion) of all held-out (24) or all training (120) combinations."""
    return tuple(
        (shape, colour, motion)
        for shape in SHAPES
        for colour in COLOURS
        for motion in MOTIONS
        if is_held_out(shape, colour, motion) == held_out
    )


def colour_rgb(colour: str) -> tuple[int, int, int]:
    """The flat colour of a shape as RGB bytes."""
    return tuple(HIGH_LEVEL if bit else LOW_LEVEL for bit in COLOUR_BITS[colour])


def frame_times_s(num_frames: int = NUM_FRAMES) -> np.ndarray:
    """Time of each frame, float64 [T]."""
    return np.arange(num_frames) / FRAMES_PER_SECOND


def bounce(start, velocity, time_s, half_extent: float = HALF_EXTENT):
    """Coordinate at `time_s` of a centre that turns back whenever its box reaches a picture edge.

    `start` (W), `velocity` (W/s) and `time_s` broadcast; exact in continuous time.
    """
    free = 1.0 - 2.0 * half_extent
    unfolded = np.mod(start + velocity * time_s - half_extent, 2.0 * free)
    return half_extent + free - np.abs(unfolded - free)


def bounce_times_s(
    start: float, velocity: float, end_s: float = LAST_FRAME_S, half_extent: float = HALF_EXTENT
) -> tuple[float, ...]:
    """Times of all wall hits in [0, end_s] of a centre that moves by `bounce`."""
    if velocity == 0:
        return ()
    to_wall = start - half_extent if velocity < 0 else 1.0 - half_extent - start
    free = 1.0 - 2.0 * half_extent
    times, time_s = [], to_wall / abs(velocity)
    while time_s <= end_s:
        times.append(float(time_s))
        time_s += free / abs(velocity)
    return tuple(times)


def velocity(spec: ClipSpec) -> tuple[float, float]:
    """(x, y) velocity in the first frame, in W/s."""
    direction = DIRECTIONS.get(spec.motion, (0, 0))
    speed = SPEED_W_PER_S.get(spec.speed, 0.0)
    return direction[0] * speed, direction[1] * speed


def centre_at(spec: ClipSpec, time_s):
    """(x, y) of the centre in W at `time_s`, a number or an array of times."""
    time_s = np.asarray(time_s, np.float64)
    if spec.motion not in DIRECTIONS:
        return spec.start_x + 0.0 * time_s, spec.start_y + 0.0 * time_s
    speed_x, speed_y = velocity(spec)
    return bounce(spec.start_x, speed_x, time_s), bounce(spec.start_y, speed_y, time_s)


def growing_half_extent_at(time_s):
    """Half extent in W of a growing shape: linear over the clip, then constant."""
    small, large = GROWING_HALF_EXTENTS
    return small + (large - small) * np.clip(np.asarray(time_s) / LAST_FRAME_S, 0.0, 1.0)


def half_extent_at(spec: ClipSpec, time_s):
    """Half the side of the square box around the shape, in W."""
    time_s = np.asarray(time_s, np.float64)
    if spec.motion == "growing":
        return growing_half_extent_at(time_s)
    return HALF_EXTENT + 0.0 * time_s


def hit_times_s(spec: ClipSpec) -> tuple[float, ...]:
    """Times of the wall hits up to the last frame; each of them clicks."""
    speed_x, speed_y = velocity(spec)
    times = bounce_times_s(spec.start_x, speed_x) + bounce_times_s(spec.start_y, speed_y)
    return tuple(sorted(times))


def hits_wall_after(spec: ClipSpec, last_given_frame: int = 8) -> bool:
    """True if a wall hit falls between the last given frame and the last frame of the clip."""
    return any(hit_s > last_given_frame / FRAMES_PER_SECOND for hit_s in hit_times_s(spec))
