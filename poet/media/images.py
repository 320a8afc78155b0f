"""Still images: PNG and JPEG files to and from arrays. Axes: Y rows, X columns."""

import os
from pathlib import Path

import numpy as np

from poet.media.errors import MediaError
from poet.media.write import temporary_sibling
from poet.typing import UInt8

_UNREADABLE = (OSError, SyntaxError, ValueError)
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


def read_image(
    path: str | os.PathLike, height_px: int | None = None, width_px: int | None = None
) -> UInt8[np.ndarray, "Y X 3"]:
    """Returns RGB pixels of any kind of image, upright as the EXIF tag says, over white where
    transparent; a file that is cut off is refused.

    With a size, the largest centred part of that shape is cut out and resized with antialiasing,
    as `read_video` does it.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if (height_px is None) != (width_px is None) or (height_px or 1) < 1 or (width_px or 1) < 1:
        raise ValueError(
            f"height_px and width_px must both be positive or both be None, got {height_px} and "
            f"{width_px}."
        )
    if not os.path.isfile(path):
        raise MediaError(f"There is no file {path}; check the name.")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits a level, which Pillow would cut off at 255
                image = Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))
            image = image.convert("RGBA")
    except (*_UNREADABLE, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise MediaError(
            f"{path} is not a readable image ({type(error).__name__}); give a PNG or JPEG file."
        ) from error
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.asarray(image if height_px is None else _fitted(image, height_px, width_px))


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) in px, upright as the EXIF tag says; reads no pixels."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            width_px, height_px = file.size
            # Orientations 5 to 8 lie on their side.
            is_turned = file.getexif().get(0x0112, 1) >= 5
    except (*_UNREADABLE, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise MediaError(
            f"{path} is not a readable image ({type(error).__name__}); give a PNG or JPEG file."
        ) from error
    return (width_px, height_px) if is_turned else (height_px, width_px)


def fit_pixels(
    pixels: UInt8[np.ndarray, "_ _ C"], height_px: int, width_px: int
) -> UInt8[np.ndarray, "Y X 3"]:
    """The largest centred part of that shape, resized as by `read_image`; grey becomes RGB."""
    from PIL import Image

    image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).convert("RGB")
    return np.asarray(_fitted(image, height_px, width_px))


def _fitted(image, height_px: int, width_px: int):
    from PIL import ImageOps

    return ImageOps.fit(image, (width_px, height_px), _kernel(image, height_px, width_px))


def _kernel(image, height_px: int, width_px: int):
    """Averages areas when shrinking, interpolates when enlarging."""
    from PIL import Image

    shrinks = height_px <= image.height and width_px <= image.width
    return Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
