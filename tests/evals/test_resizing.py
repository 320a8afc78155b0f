import jax
import numpy as np
import pytest
from PIL import Image

from poet.evals import resizing


def random_pictures(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("method", "want"),
    [
        ("tf1", [0, 4 / 7, 8 / 7, 12 / 7, 16 / 7, 20 / 7, 3]),
        ("half_pixel", [0, 5 / 14, 13 / 14, 1.5, 29 / 14, 37 / 14, 3]),
        ("corners", [0, 0.5, 1, 1.5, 2, 2.5, 3]),
    ],
)
def test_four_pixels_to_seven(method, want):
    row = np.arange(4.0).reshape(1, 4, 1)
    wide = resizing.squash(row, 1, 7, method=method)
    np.testing.assert_allclose(wide[0, :, 0], want, atol=1e-14)
    tall = resizing.squash(row.reshape(4, 1, 1), 7, 1, method=method)
    np.testing.assert_allclose(tall[:, 0, 0], want, atol=1e-14)


def test_the_recorded_positions():
    # The vectors as numbers, as they were computed elsewhere.
    row = np.arange(4.0).reshape(1, 4, 1)
    legacy = resizing.squash(row, 1, 7, method="tf1")[0, 1:3, 0]
    assert legacy == pytest.approx([0.5714285714285714, 1.1428571428571428])
    centred = resizing.squash(row, 1, 7, method="half_pixel")[0, 1:3, 0]
    assert centred == pytest.approx([0.35714285714285715, 0.9285714285714286])


@pytest.mark.parametrize("method", ["tf1", "half_pixel", "corners", "bicubic"])
def test_same_size_and_flat_pictures_stay(method):
    pictures = random_pictures(2, 5, 6, 3)
    same = resizing.squash(pictures, 5, 6, method=method)
    np.testing.assert_allclose(same, pictures, atol=1e-6)
    flat = resizing.squash(np.full((4, 5, 3), 7, np.uint8), 9, 2, method=method)
    assert flat.dtype == np.float32
    np.testing.assert_allclose(flat, 7.0, rtol=1e-6)


def test_half_pixel_grid_and_bicubic_agree_with_jax():
    pictures = random_pictures(2, 9, 12, 3)
    with jax.numpy_rank_promotion("allow"):
        for height, width in ((18, 31), (224, 12)):
            shape = (2, height, width, 3)
            for method, theirs in (("half_pixel", "linear"), ("bicubic", "cubic")):
                want = jax.image.resize(pictures, shape, theirs, precision="highest")
                found = resizing.squash(pictures, height, width, method=method)
                np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 24), (5, 7)])
def test_bicubic_agrees_with_pil(height, width):
    grey = 255 * random_pictures(16, 12)
    picture = Image.fromarray(grey)
    want = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    found = resizing.squash(grey[..., None], height, width, method="bicubic")
    np.testing.assert_allclose(found[..., 0], want, atol=1e-3)


def test_leading_axes_change_nothing():
    clips = random_pictures(2, 3, 8, 6, 3)
    found = resizing.squash(clips, 4, 10, method="tf1")
    one = resizing.squash(clips[1, 2], 4, 10, method="tf1")
    np.testing.assert_allclose(found[1, 2], one, rtol=1e-6)


def test_crop_keeps_the_middle_and_squash_everything():
    # Columns carry their number: of 12, the crop of a 4 x 12 picture keeps 4 to 7.
    picture = np.broadcast_to(np.arange(12.0)[:, None], (4, 12, 1))
    cropped = resizing.short_side_and_crop(picture, 4, method="half_pixel")
    np.testing.assert_allclose(cropped[0, :, 0], [4, 5, 6, 7])
    squashed = resizing.squash(picture, 4, 4, method="half_pixel")
    np.testing.assert_allclose(squashed[0, :, 0], [1, 4, 7, 10])
    tall = resizing.short_side_and_crop(picture.swapaxes(0, 1), 2, method="half_pixel")
    assert tall.shape == (2, 2, 1)
    np.testing.assert_allclose(tall[:, 0, 0], [4.5, 6.5])


def test_bytes_are_clipped_and_rounded():
    pixels = np.array([-3.0, 0.49, 0.5, 254.5, 300.0]).reshape(1, 5, 1)
    np.testing.assert_array_equal(resizing.to_uint8(pixels).ravel(), [0, 0, 1, 255, 255])


def test_a_size_of_0_is_refused():
    with pytest.raises(ValueError, match="at least 1 pixel, got 4 x 5 to 0 x 3"):
        resizing.squash(np.zeros((4, 5, 3)), 0, 3, method="tf1")
