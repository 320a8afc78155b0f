"""Scores of motion and depth against a condition: warp error, end-point error, aligned depth.

Flow and depth are given; the network that estimated them (RAFT, MiDaS) belongs beside the number.
A flow is [..., Y, X, 2] in pixels, columns first: pixel (y, x) came from, or goes to,
(y + flow[..., 1], x + flow[..., 0]) of the other frame.

Axes: T frames, Y rows, X columns, C channels, N pictures.
"""

import numpy as np

from poet.typing import Bool, Float


def warp_error(
    frames: Float[np.ndarray, "T Y X C"],
    flow_back: Float[np.ndarray, "T-1 Y X 2"],
    is_visible: Bool[np.ndarray, "T-1 Y X"] | None = None,
) -> float:
    """Mean squared difference between each frame and the one before it, warped onto it.

    Lai et al. 2018 (arXiv 1808.00449): the mean over visible pixels of each pair, then over pairs.
    For edited videos the flow is that of the source (the condition).

    Args:
      frames: Pixels, usually in [0, 1].
      flow_back: Where each pixel of frames[1:] came from in the frame before, in pixels.
      is_visible: False where a pixel was hidden in the frame before (see `visible_pixels`); None
        for all. Pixels from outside the picture never count, nor do pairs without visible pixels.

    Raises:
      ValueError: No pair has a visible pixel.
    """
    errors = []
    for number, flow in enumerate(flow_back):
        warped, counts = _sample(frames[number].astype(np.float64), flow)
        if is_visible is not None:
            counts = counts & is_visible[number]
        if counts.any():
            difference = (frames[number + 1].astype(np.float64) - warped)[counts]
            errors.append((difference**2).mean())
    if not errors:
        raise ValueError(
            f"Warp error needs a pair of frames with visible pixels, got none in {len(frames)}"
            " frames; check the flow's direction and unit (pixels)."
        )
    return float(np.mean(errors))


def visible_pixels(
    flow_back: Float[np.ndarray, "T Y X 2"], flow_forth: Float[np.ndarray, "T Y X 2"]
) -> Bool[np.ndarray, "T Y X"]:
    """Pixels whose flow back and the flow forth from there nearly cancel: not hidden before.

    Sundaram, Brox, Keutzer 2010 (constants from memory, not read again):
    |b + f|^2 < 0.01 (|b|^2 + |f|^2) + 0.5 in pixels. Pixels from outside are not visible.
    """
    visible = []
    for back, forth in zip(flow_back, flow_forth, strict=True):
        there, is_inside = _sample(forth.astype(np.float64), back)
        gap = ((back + there) ** 2).sum(axis=-1)
        lengths = (back.astype(np.float64) ** 2).sum(axis=-1) + (there**2).sum(axis=-1)
        visible.append(is_inside & (gap < 0.01 * lengths + 0.5))
    return np.array(visible, bool).reshape(flow_back.shape[:-1])


def end_point_error_px(
    flow: Float[np.ndarray, "*N Y X 2"], condition: Float[np.ndarray, "*N Y X 2"]
) -> Float[np.ndarray, "*N"]:
    """Mean distance in pixels between the ends of two flows, for each pair of frames."""
    gap = flow.astype(np.float64) - condition
    return np.asarray(np.hypot(gap[..., 0], gap[..., 1]).mean(axis=(-2, -1)))


def aligned_depth_rmse(
    depth: Float[np.ndarray, "N Y X"], condition: Float[np.ndarray, "N Y X"]
) -> Float[np.ndarray, "N"]:
    """Root mean squared error of each picture's depth after its best scale and shift.

    MiDaS's least squares (arXiv 1907.01341), since estimated depth has neither; in the unit of
    `condition`. A depth that is the same everywhere can only be shifted. One scale for a whole
    video: give it as one picture, [1, T Y, X].

    Raises:
      ValueError: Values that are not finite.
    """
    if not (np.isfinite(depth).all() and np.isfinite(condition).all()):
        raise ValueError("Expected finite depths, got some that are not; mask them before.")
    found = depth.reshape(len(depth), -1).astype(np.float64)
    wanted = condition.reshape(len(condition), -1).astype(np.float64)
    found = found - found.mean(axis=1, keepdims=True)
    wanted = wanted - wanted.mean(axis=1, keepdims=True)
    variance = (found**2).sum(axis=1)
    scale = (found * wanted).sum(axis=1) / np.where(variance > 0, variance, 1.0)
    return np.sqrt(((scale[:, None] * found - wanted) ** 2).mean(axis=1))


def _sample(picture, flow):
    """Bilinear values [Y, X, C] at each pixel's end of flow; whether it lies in the picture."""
    num_rows, num_columns, num_channels = picture.shape
    y, x = np.mgrid[:num_rows, :num_columns] + np.moveaxis(flow[..., ::-1], -1, 0).astype(float)
    is_inside = (y >= 0) & (y <= num_rows - 1) & (x >= 0) & (x <= num_columns - 1)
    y, x = np.where(is_inside, y, 0.0), np.where(is_inside, x, 0.0)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    below, right = np.minimum(top + 1, num_rows - 1), np.minimum(left + 1, num_columns - 1)
    down, across = (y - top)[..., None], (x - left)[..., None]
    # By number of the pixel: half the time of two indices.
    pixels, top, below = picture.reshape(-1, num_channels), top * num_columns, below * num_columns
    upper, lower = (
        (1 - across) * pixels.take(row + left, axis=0) + across * pixels.take(row + right, axis=0)
        for row in (top, below)
    )
    return (1 - down) * upper + down * lower, is_inside
