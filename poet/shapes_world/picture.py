"""Measures one shape in frames: colour, centre, size and outline, or why there is not one shape.

Axes: T frames, Y rows, X columns. "Strength" is how far a pixel is from the background along the
nearest of the six colours, 1.0 for the pure colour.
"""

import dataclasses

import numpy as np

from poet.shapes_world import render, world
from poet.typing import Float, UInt8

# The written criterion; docs/shapes_world.md gives the reasons.
MIN_STRENGTH = 0.35
MIN_COLOUR_STRENGTH = 0.5
MIN_COLOUR_COSINE = 0.95
MAX_OTHER_COLOUR = 0.2
MAX_STRAY = 0.15
HALF_EXTENT_RANGE = (0.09, 0.31)
MIN_FRAME_OVERLAP = 0.55
MIN_MEAN_OVERLAP = 0.75
# Drawings are compared sharp and blurred: a soft edge is a fault of the codec, not of the outline.
BLURS_W = (0.0, 0.02, 0.03, 0.04)

# Larger pictures are averaged down by a whole factor, to no less than this.
_WORKING_SIZE_PX = 32
# Area of each shape over the area of its box, and how far its centroid lies below the box centre
# over the half extent.
_AREA = {"circle": np.pi / 4, "square": 1.0, "triangle": 0.5, "cross": 5 / 9}
_CENTROID_DOWN = {"circle": 0.0, "square": 0.0, "triangle": 1 / 3, "cross": 0.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Track:
    """What the frames show.

    Attributes:
      shape, colour: words, or "none".
      reason: why the picture does not show exactly one shape in every frame; "" if it does.
      centres: float64 [T, 2] (x, y) in W; NaN in frames without exactly one shape.
      half_extents: float64 [T] in W, NaN as above.
      overlap: mean soft intersection over union with the best shape; 0 without one.
    """

    shape: str = world.NONE
    colour: str = world.NONE
    reason: str = ""
    centres: np.ndarray
    half_extents: np.ndarray
    overlap: float = 0.0


def track(frames: UInt8[np.ndarray, "T Y X 3"]) -> Track:
    """Measures the one shape in `frames` (square, at least 32 px)."""
    offset = _shrink(frames)
    strength = (offset @ _directions().T).max(axis=-1)
    mask = strength > MIN_STRENGTH
    blob = _main_blob(mask, strength)
    mean_offset = _mean_offset(offset, strength, blob)
    if mean_offset is None:
        return _nothing(len(frames), "no frame holds anything but background")
    region = _grow(_grow(blob))
    alpha = np.where(region, offset @ mean_offset / (mean_offset @ mean_offset), 0.0)
    shape, centres, half_extents, overlaps = _fit_shape(alpha)
    stray = (mask & ~region).sum(axis=(1, 2)) / np.maximum(1, blob.sum(axis=(1, 2)))
    problems = (
        (~blob.any(axis=(1, 2)), "no shape"),
        (stray > MAX_STRAY, "more than one shape"),
        (
            (half_extents < HALF_EXTENT_RANGE[0]) | (half_extents > HALF_EXTENT_RANGE[1]),
            "a shape of impossible size",
        ),
        (overlaps < MIN_FRAME_OVERLAP, "an outline like none of the shapes"),
        (_other_colour(offset, strength, blob, mean_offset) > MAX_OTHER_COLOUR, "mixed colours"),
    )
    is_bad = np.any([bad for bad, _ in problems], axis=0)
    reason = next(
        (f"frame {int(np.argmax(bad))} holds {words}" for bad, words in problems if bad.any()), ""
    )
    mean_overlap = float(overlaps.mean())
    if not reason and mean_overlap < MIN_MEAN_OVERLAP:
        reason = "the clip holds an outline like none of the shapes"
    return Track(
        shape=world.NONE if reason else shape,
        colour=world.NONE if reason else _name_colour(mean_offset),
        reason=reason,
        centres=np.where(is_bad[:, None], np.nan, centres),
        half_extents=np.where(is_bad, np.nan, half_extents),
        overlap=mean_overlap,
    )


def _shrink(frames) -> Float[np.ndarray, "T Y X 3"]:
    """Offset from the background over the step from low to high level, at the working size."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(
            f"The checker expects uint8 frames [T, Y, X, 3] with at least one frame, got "
            f"{frames.dtype} {list(frames.shape)}; read the file with poet.media.video."
        )
    size = frames.shape[1]
    if frames.shape[2] != size or size < render.MIN_SIZE_PX:
        raise ValueError(
            f"The checker expects square frames of at least {render.MIN_SIZE_PX} px, got "
            f"{size} x {frames.shape[2]}; scale or crop them first."
        )
    factors = [f for f in range(1, size + 1) if size % f == 0 and size // f >= _WORKING_SIZE_PX]
    factor = max(factors, default=1)
    small = size // factor
    pixels = frames.reshape(len(frames), small, factor, small, factor, 3).astype(np.float32)
    offset = pixels.mean(axis=(2, 4)) - world.LOW_LEVEL
    return offset / (world.HIGH_LEVEL - world.LOW_LEVEL)


def _directions() -> np.ndarray:
    """[6, 3]: rows turn an offset into its strength along each colour."""
    bits = np.array([world.COLOUR_BITS[colour] for colour in world.COLOURS], np.float32)
    return bits / (bits**2).sum(axis=1, keepdims=True)


def _main_blob(mask, strength) -> np.ndarray:
    """Bool [T, Y, X]: the 4-connected part of `mask` around its densest spot, per frame."""
    padded = np.pad(np.where(mask, strength, 0.0), ((0, 0), (2, 2), (2, 2)))
    size = mask.shape[1]
    dense = (
        sum(padded[:, dy : dy + size, dx : dx + size] for dy in range(5) for dx in range(5)) * mask
    )
    seeds = dense.reshape(len(mask), -1).argmax(axis=1)
    blob = np.zeros_like(mask)
    blob.reshape(len(mask), -1)[np.arange(len(mask)), seeds] = True
    blob &= mask
    num_before = -1
    while blob.sum() != num_before:
        num_before = blob.sum()
        blob = _grow(blob) & mask
    return blob


def _grow(mask) -> np.ndarray:
    """`mask` and the four neighbours of each of its pixels."""
    grown = mask.copy()
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    grown[:, :, 1:] |= mask[:, :, :-1]
    grown[:, :, :-1] |= mask[:, :, 1:]
    return grown


def _mean_offset(offset, strength, blob) -> np.ndarray | None:
    """Mean offset [3] of the blob's inner pixels (its edges are mixed with background)."""
    if not blob.any():
        return None
    inner = blob & (strength > 0.7 * np.percentile(strength[blob], 90))
    return offset[inner].mean(axis=0)


def _nearest(offset):
    """Index of the colour nearest in direction to offsets [..., 3], and the cosine to it."""
    bits = np.array([world.COLOUR_BITS[colour] for colour in world.COLOURS], np.float32)
    units = bits / np.linalg.norm(bits, axis=1, keepdims=True)
    cosines = offset @ units.T / np.maximum(1e-6, np.linalg.norm(offset, axis=-1, keepdims=True))
    return cosines.argmax(axis=-1), cosines.max(axis=-1)


def _name_colour(mean_offset) -> str:
    index, cosine = _nearest(mean_offset)
    is_strong = (_directions() @ mean_offset).max() >= MIN_COLOUR_STRENGTH
    return world.COLOURS[index] if is_strong and cosine >= MIN_COLOUR_COSINE else world.NONE


def _other_colour(offset, strength, blob, mean_offset) -> np.ndarray:
    """[T]: part of the blob's strong pixels whose nearest colour is not the clip's."""
    inner = blob & (strength > MIN_COLOUR_STRENGTH)
    differs = _nearest(offset)[0] != _nearest(mean_offset)[0]
    return (inner & differs).sum(axis=(1, 2)) / np.maximum(1, inner.sum(axis=(1, 2)))


def _fit_shape(alpha):
    """Best shape over all frames: (word, centres [T, 2], half extents [T], overlaps [T]).

    Each shape's box follows from the area and the centroid of `alpha`, which blur does not change;
    the shape and the blur with the least squared difference between `alpha` and the drawing win.
    """
    size = alpha.shape[1]
    area = np.maximum(alpha.sum(axis=(1, 2)), 1.0)
    pixel_centres = (np.arange(size) + 0.5) / size
    x = np.clip((alpha.sum(axis=1) @ pixel_centres) / area, 0.0, 1.0)
    y = np.clip((alpha.sum(axis=2) @ pixel_centres) / area, 0.0, 1.0)
    opaque = np.clip(alpha, 0.0, 1.0)
    blurs = [_blur_matrix(size, sigma) for sigma in BLURS_W]
    candidates = []
    for shape in world.SHAPES:
        half = np.sqrt(area / _AREA[shape]) / 2 / size
        centre_y = y - _CENTROID_DOWN[shape] * half
        sharp = render.coverage(shape, x, centre_y, np.minimum(half, 0.5), size)
        for blur in blurs:
            drawn = blur @ sharp @ blur.T
            error = ((opaque - drawn) ** 2).sum()
            candidates.append((error, shape, np.stack([x, centre_y], axis=1), half, drawn))
    _, shape, centres, half, drawn = min(candidates, key=lambda candidate: candidate[0])
    union = np.maximum(opaque, drawn).sum(axis=(1, 2))
    overlaps = np.minimum(opaque, drawn).sum(axis=(1, 2)) / np.maximum(union, 1e-6)
    return shape, centres, half, overlaps


def _blur_matrix(size: int, sigma_w: float) -> np.ndarray:
    """[size, size]: Gaussian blur of one axis, every row adding up to 1."""
    if not sigma_w:
        return np.eye(size, dtype=np.float32)
    distance = (np.arange(size)[:, None] - np.arange(size)) / (sigma_w * size)
    weights = np.exp(-0.5 * distance**2).astype(np.float32)
    return weights / weights.sum(axis=1, keepdims=True)


def _nothing(num_frames: int, reason: str) -> Track:
    return Track(
        reason=reason,
        centres=np.full((num_frames, 2), np.nan),
        half_extents=np.full(num_frames, np.nan),
    )
