"""Clips with a region hidden: what painting tasks are given.

The regions and fills are those of MAGVIT's multi-task training (Yu et al. 2023, section on COMMIT
and its appendix; spec/tokenizers.md b.4), drawn on pixels before tokenization: tokens of the true
clip would tell the model what is hidden, since the tokenizer sees across the region's border.
Boxes lie on whole quarters of the picture, a moving one steps once a latent frame.
"""

import numpy as np

from poet.data import order
from poet.typing import Bool, UInt8

# What is hidden, and what the hidden pixels show instead.
_FILLS = {
    "inpaint_central": "zero",
    "inpaint_dynamic": "zero",
    "interpolation": "blend",
    "outpaint_central": "edge",
    "outpaint_vertical": "edge",
    "outpaint_horizontal": "edge",
    "outpaint_dynamic": "zero",
    "frame_prediction": "repeat",
}
# Something between what is seen; and something around it, or after it.
INPAINTING = ("inpaint_central", "inpaint_dynamic", "interpolation")
OUTPAINTING = tuple(name for name in _FILLS if name not in INPAINTING)
REGIONS = tuple(_FILLS)


def draw_region(clip_id: str, regions: tuple[str, ...] = REGIONS, seed: int = 0) -> str:
    """The region of a clip: depends on its id and the seed alone."""
    check_regions(regions)
    draw = float(order.uniform_at(seed, f"region/{clip_id}", 0))
    return regions[int(draw * len(regions))]


def check_regions(regions) -> None:
    """ValueError for no regions or unknown ones."""
    unknown = [name for name in regions if name not in REGIONS]
    if unknown or not regions:
        raise ValueError(
            f"Unknown regions {unknown or regions}, expected some of {', '.join(REGIONS)}."
        )


def visible(region: str, shape: tuple[int, int, int], frames_per_token: int = 4):
    """Bool [T, Y, X]: the pixels that a painting task is given.

    Args:
      region: one of `REGIONS`.
      shape: frames, rows and columns of the clip; at least two frames.
      frames_per_token: frames of a latent frame after the first; moving boxes step with it.
    """
    check_regions([region])
    num_frames, height, width = shape
    if num_frames < 2:
        raise ValueError(f"Region {region!r} needs a clip of two frames or more, got {shape}.")
    rows, columns = np.arange(height), np.arange(width)
    central_rows = (rows >= height // 4) & (rows < height - height // 4)
    central_columns = (columns >= width // 4) & (columns < width - width // 4)
    seen = np.zeros(shape, bool)
    if region == "interpolation":
        seen[[0, -1]] = True
    elif region == "frame_prediction":
        seen[0] = True
    elif region in ("outpaint_dynamic", "inpaint_dynamic"):
        latent = -(-np.arange(num_frames) // frames_per_token)
        lefts = np.round(np.linspace(0, width - width // 2, latent[-1] + 1)).astype(int)
        inside = (columns >= lefts[latent, None]) & (columns < lefts[latent, None] + width // 2)
        if region == "outpaint_dynamic":
            seen[:] = inside[:, None, :]
        else:
            seen[:] = ~(inside[:, None, :] & central_rows[:, None])
    elif region == "outpaint_vertical":
        seen[:] = central_columns
    elif region == "outpaint_horizontal":
        seen[:] = central_rows[:, None]
    else:
        box = central_rows[:, None] & central_columns
        seen[:] = box if region == "outpaint_central" else ~box
    return seen


def hide(
    frames: UInt8[np.ndarray, "T Y X C"], region: str, frames_per_token: int = 4
) -> UInt8[np.ndarray, "T Y X C"]:
    """The clip with the region's hidden pixels filled by its rule.

    zero: black. edge: the nearest visible row and column. repeat: the last visible frame. blend:
    straight from the first frame to the last.
    """
    seen = visible(region, frames.shape[:3], frames_per_token)
    fill = _FILLS[region]
    if fill == "zero":
        return np.where(seen[..., None], frames, np.uint8(0))
    if fill == "repeat":
        return np.repeat(frames[:1], len(frames), axis=0)
    if fill == "blend":
        first, last = frames[0].astype(np.float32), frames[-1].astype(np.float32)
        share = np.linspace(0, 1, len(frames), dtype=np.float32)[:, None, None, None]
        return np.round(first + share * (last - first)).astype(np.uint8)
    rows = _nearest(seen[0].any(axis=1))
    columns = _nearest(seen[0].any(axis=0))
    return frames[:, rows[:, None], columns[None, :]]


def hide_some(clips: list[np.ndarray], share: float, draw: np.random.Generator) -> list[np.ndarray]:
    """The clips, about a ``share`` of them with a random region hidden.

    For training tokenizers: a small one makes little of pictures that it has never seen.
    """
    is_hidden = draw.random(len(clips)) < share
    regions = draw.integers(len(REGIONS), size=len(clips))
    return [
        hide(clip, REGIONS[region]) if hidden else clip
        for clip, hidden, region in zip(clips, is_hidden, regions, strict=True)
    ]


def fill_rules() -> dict[str, str]:
    """{region: how its hidden pixels are filled}, as recorded with a dataset."""
    return dict(_FILLS)


def _nearest(is_seen: Bool[np.ndarray, "N"]) -> np.ndarray:
    """Index of the nearest visible row or column, for every one; the visible run is contiguous."""
    at = np.flatnonzero(is_seen)
    return np.clip(np.arange(len(is_seen)), at[0], at[-1])
