"""Still images come back upright, cut out and resized."""

import numpy as np
import pytest
from PIL import Image

from poet.media.errors import MediaError
from poet.media.images import read_image, write_image


def test_png_round_trip(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3)).astype(np.uint8)
    write_image(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)
    write_image(tmp_path / "b.png", pixels)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_middle_is_cut_out_and_averaged(tmp_path):
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32:2] = 200
    write_image(tmp_path / "a.png", pixels)
    np.testing.assert_allclose(read_image(tmp_path / "a.png", 8, 8), 100, atol=1)
    assert read_image(tmp_path / "a.png", 64, 64).shape == (64, 64, 3)


def test_orientation_and_transparency(tmp_path):
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    turned = read_image(tmp_path / "turned.png")
    assert turned.shape == (4, 2, 3) and turned[0, 1].tolist() == [255, 255, 255]
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").min() == 255


def test_refusals(tmp_path):
    with pytest.raises(MediaError, match="There is no file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(MediaError, match="is not a readable image .*; give a PNG or JPEG file"):
        read_image(tmp_path / "text.png")
    with pytest.raises(ValueError, match="must both be positive or both be None"):
        read_image(tmp_path / "text.png", 8)
