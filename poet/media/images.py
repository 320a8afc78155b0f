"""Still images: PNG and JPEG files to and from arrays."""

import os
from pathlib import Path

import numpy as np

from poet.media.errors import MediaError
from poet.media.write import temporary_sibling
from poet.typing import UInt8

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


def write_image(path: str | os.PathLike, pixels: UInt8[np.ndarray, "Y X 3"]) -> None:
    """Writes PNG or JPEG (quality 95) by the name's ending, atomically."""
    from PIL import Image

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise ValueError(
            f"write_image expects uint8 pixels [Y, X, 3], got {pixels.dtype} "
            f"{list(pixels.shape)}; convert floats in [0, 1] with round(255 * x)."
        )
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"Images are written as .png or .jpg, got {path}; change the name.")
    with temporary_sibling(path) as temporary:
        Image.fromarray(pixels).save(temporary, quality=95)
