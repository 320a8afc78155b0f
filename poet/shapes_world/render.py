"""Draws and sounds a clip: anti-aliased frames and 16 kHz sound from a ClipSpec.

Axes: T frames, Y rows, X columns, S samples.
"""

import numpy as np

from poet.shapes_world import world
from poet.typing import Bool, Float, UInt8

# Thin horizontal strips per pixel row; inside a strip the coverage of each pixel is exact.
STRIPS_PER_PX = 16
MIN_SIZE_PX = 32

PITCH_AMPLITUDE = 0.12
CLICK_AMPLITUDE = 0.75
# Whole periods in every 20 ms audio frame, as the pitches: one tokenizer frame looks like the next.
CLICK_HZ = 2_500.0
CLICK_DECAY_S = 0.03
CLICK_S = 0.1


def render_clip(
    spec: world.ClipSpec, size_px: int = 64
) -> tuple[UInt8[np.ndarray, "T Y X 3"], Float[np.ndarray, "S"]]:
    """Frames uint8 [17, size_px, size_px, 3] and sound float32 [34000] of one clip."""
    return render_frames(spec, size_px), render_sound(spec)


def render_frames(
    spec: world.ClipSpec, size_px: int = 64, num_frames: int = world.NUM_FRAMES
) -> UInt8[np.ndarray, "T Y X 3"]:
    """The picture: background and shape blended by the covered part of each pixel."""
    if size_px < MIN_SIZE_PX:
        raise ValueError(
            f"size_px must be at least {MIN_SIZE_PX}, got {size_px}; shapes get too small to tell."
        )
    times_s = world.frame_times_s(num_frames)
    x, y = world.centre_at(spec, times_s)
    covered = coverage(spec.shape, x, y, world.half_extent_at(spec, times_s), size_px)
    levels = np.round(covered * (world.HIGH_LEVEL - world.LOW_LEVEL)).astype(np.uint8)
    return levels[..., None] * np.uint8(world.COLOUR_BITS[spec.colour]) + np.uint8(world.LOW_LEVEL)


def coverage(shape: str, x, y, half_extent, size_px: int) -> Float[np.ndarray, "T Y X"]:
    """Part of each pixel that the shape covers, float32 in [0, 1].

    Args:
      shape: a word of SHAPES.
      x, y, half_extent: centre and half the side of the box per frame, [T], in W.
      size_px: rows and columns of the picture, whose width is W.
    """
    x, y, half = (np.asarray(value, np.float64)[:, None] * size_px for value in (x, y, half_extent))
    # Only the rows that some part of the box can touch; the same number in every frame.
    num_rows = int(np.ceil(2 * half.max())) + 2
    first_row = np.floor(y - half).astype(int)
    strips = (np.arange(num_rows * STRIPS_PER_PX) + 0.5) / STRIPS_PER_PX
    half_width = _half_width(shape, (first_row + strips - y) / half) * half
    columns = np.arange(size_px, dtype=np.float32)
    left = (x - half_width).astype(np.float32)[..., None] - columns
    right = (x + half_width).astype(np.float32)[..., None] - columns
    strip_cover = np.clip(right, 0, 1) - np.clip(left, 0, 1)
    row_cover = strip_cover.reshape(len(x), num_rows, STRIPS_PER_PX, size_px).mean(axis=2)
    rows = first_row + np.arange(num_rows)
    frame_index, row_index = np.nonzero((rows >= 0) & (rows < size_px))
    picture = np.zeros((len(x), size_px, size_px), np.float32)
    picture[frame_index, rows[frame_index, row_index]] = row_cover[frame_index, row_index]
    return picture


def box_mask(
    spec: world.ClipSpec, size_px: int, num_frames: int = world.NUM_FRAMES
) -> Bool[np.ndarray, "T Y X"]:
    """True for every pixel that the box around the shape touches."""
    times_s = world.frame_times_s(num_frames)
    x, y = world.centre_at(spec, times_s)
    half = world.half_extent_at(spec, times_s)
    edges = np.arange(size_px + 1) / size_px

    def touched(centre):
        low, high = (centre - half)[:, None], (centre + half)[:, None]
        return (edges[1:] > low) & (edges[:-1] < high)

    return touched(y)[:, :, None] & touched(x)[:, None, :]


def render_sound(spec: world.ClipSpec) -> Float[np.ndarray, "S"]:
    """The sound: a sine whose pitch tells the colour, and a click at each wall hit."""
    times_s = np.arange(world.NUM_SAMPLES) / world.SAMPLE_RATE_HZ
    sound = PITCH_AMPLITUDE * np.sin(2 * np.pi * world.PITCH_HZ[spec.colour] * times_s)
    for hit_s in world.hit_times_s(spec):
        start = int(np.ceil(hit_s * world.SAMPLE_RATE_HZ))
        stop = int(np.ceil((hit_s + CLICK_S) * world.SAMPLE_RATE_HZ))
        decay = np.exp((hit_s - times_s[start:stop]) / CLICK_DECAY_S)
        carrier = np.sin(2 * np.pi * CLICK_HZ * times_s[start:stop])
        sound[start:stop] += CLICK_AMPLITUDE * decay * carrier
    return sound.astype(np.float32)


def _half_width(shape: str, down):
    """Half the width of a shape at height `down` (-1 top, 0 centre, 1 bottom), over half extent."""
    inside = np.abs(down) <= 1
    if shape == "circle":
        width = np.sqrt(np.maximum(0.0, 1.0 - down**2))
    elif shape == "square":
        width = np.ones_like(down)
    elif shape == "triangle":
        width = (1.0 + down) / 2.0
    else:
        width = np.where(np.abs(down) <= world.CROSS_ARM, 1.0, world.CROSS_ARM)
    return np.where(inside, width, 0.0)
