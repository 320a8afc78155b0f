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


@pytest.mark.parametrize(
    ("mode", "value", "name"),
    [
        ("L", 100, "grey.png"),
        ("L", 100, "grey.jpg"),
        ("LA", (100, 255), "grey_alpha.png"),
        ("P", 100, "palette.png"),
        ("1", 255, "bits.png"),
        ("CMYK", (155, 155, 155, 0), "print.jpg"),
        ("I;16", 100 * 257, "deep.png"),
        ("RGB", (100, 100, 100), "web.webp"),
    ],
)
def test_every_kind_of_image_becomes_rgb(mode, value, name, tmp_path):
    image = Image.new(mode, (24, 16), value)
    if mode == "P":
        image.putpalette([level for grey in range(256) for level in (grey,) * 3])
    image.save(tmp_path / name)
    pixels = read_image(tmp_path / name)
    assert pixels.shape == (16, 24, 3) and pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels, 255 if mode == "1" else 100, atol=3)


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.webp"])
def test_a_file_that_is_cut_off_is_refused(name, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match="is not a readable image"):
        read_image(tmp_path / name)


def test_a_decompression_bomb_is_refused(tmp_path):
    """A small file that claims 20,000 x 20,000 pixels."""
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(MediaError, match="is not a readable image .DecompressionBombError"):
        read_image(tmp_path / "bomb.png")
