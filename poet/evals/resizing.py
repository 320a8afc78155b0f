"""Resizing of pictures on a named grid, since scores of features depend on the grid.

Bilinear grids, position in the source of target pixel i (size n_in -> n_out), without smoothing
when shrinking:

  tf1         i n_in / n_out                    TensorFlow 1's `resize_bilinear`: FVD, MAGVIT
  half_pixel  (i + 1/2) n_in / n_out - 1/2      torch's `interpolate`, TensorFlow 2
  corners     i (n_in - 1) / (n_out - 1)        `align_corners=True`: the C3D of TGAN

Bicubic is Keys's kernel with a = -1/2 on the half-pixel grid, stretched when shrinking so that it
smooths, its weights divided by their sum at borders: what PIL and `jax.image.resize` do (torch and
OpenCV have a = -3/4). It serves the step from 128 to 256 and CLIP's preprocessing.

Positions outside count as the border. Nothing is rounded or clipped: see `to_uint8`.

Axes: Y rows, X columns, C channels; any before them.
"""

import functools
from typing import Literal

import numpy as np

from poet.typing import Float, Shaped, UInt8

Method = Literal["tf1", "half_pixel", "corners", "bicubic"]


def squash(
    pixels: Shaped[np.ndarray, "*N Y X C"], height_px: int, width_px: int, *, method: Method
) -> Float[np.ndarray, "*N {height_px} {width_px} C"]:
    """Pictures of the asked size, whatever happens to their aspect; FVD's own preprocessing.

    Args:
      pixels: uint8 or floats of any range.
      height_px: Of the result.
      width_px: Of the result.
      method: One of those in the module's docstring.

    Returns:
      float64 for float64 pictures, else float32, in the range of `pixels` (bicubic overshoots).

    Raises:
      ValueError: A size of 0.
    """
    num_rows, num_columns = pixels.shape[-3:-1]
    if min(num_rows, num_columns, height_px, width_px) < 1:
        raise ValueError(
            f"Expected sizes of at least 1 pixel, got {num_rows} x {num_columns} to"
            f" {height_px} x {width_px}."
        )
    dtype = np.float64 if pixels.dtype == np.float64 else np.float32
    rows = _weights(num_rows, height_px, method).astype(dtype)
    columns = _weights(num_columns, width_px, method).astype(dtype)
    flat = pixels.astype(dtype).reshape(*pixels.shape[:-2], -1)
    tall = (rows @ flat).reshape(*pixels.shape[:-3], height_px, num_columns, pixels.shape[-1])
    return columns @ tall


def short_side_and_crop(
    pixels: Shaped[np.ndarray, "*N Y X C"], side_px: int, *, method: Method
) -> Float[np.ndarray, "*N {side_px} {side_px} C"]:
    """Square from the middle of pictures whose short side was resized to `side_px`; keeps aspect.

    The long side becomes side_px long / short, rounded down; the crop begins at half the rest,
    rounded to even: torchvision's rules, and so those of CLIP's preprocessing (bicubic).

    Args, result and errors are those of `squash`.
    """
    num_rows, num_columns = pixels.shape[-3:-1]
    short = max(1, min(num_rows, num_columns))
    height_px, width_px = (side_px * size // short for size in (num_rows, num_columns))
    resized = squash(pixels, height_px, width_px, method=method)
    top, left = (round((size - side_px) / 2) for size in (height_px, width_px))
    return resized[..., top : top + side_px, left : left + side_px, :]


def to_uint8(pixels: Float[np.ndarray, "*N Y X C"]) -> UInt8[np.ndarray, "*N Y X C"]:
    """Pixels of 0..255 as bytes: clipped, then rounded with halves upwards."""
    return np.floor(np.clip(pixels, 0.0, 255.0) + 0.5).astype(np.uint8)


@functools.lru_cache(maxsize=32)
def _weights(num_in: int, num_out: int, method: Method):
    """[num_out, num_in]: how much each source pixel counts in each target pixel."""
    if method == "bicubic":
        return _cubic_weights(num_in, num_out)
    positions = np.clip(_grid(num_in, num_out, method), 0, num_in - 1)
    below = np.floor(positions).astype(int)
    above = np.minimum(below + 1, num_in - 1)
    share = positions - below
    weights = np.zeros((num_out, num_in))
    targets = np.arange(num_out)
    np.add.at(weights, (targets, below), 1 - share)
    np.add.at(weights, (targets, above), share)
    return weights


def _grid(num_in: int, num_out: int, method: str):
    targets = np.arange(num_out)
    if method == "tf1":
        return targets * num_in / num_out
    if method == "half_pixel":
        return (targets + 0.5) * num_in / num_out - 0.5
    return targets * (num_in - 1) / max(1, num_out - 1)


def _cubic_weights(num_in: int, num_out: int):
    positions = _grid(num_in, num_out, "half_pixel")
    stretch = max(1.0, num_in / num_out)
    distance = np.abs(np.arange(num_in) - positions[:, None]) / stretch
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)
