import numpy as np
import pytest

from poet.evals import pictures


def grey(values):
    return np.repeat(np.asarray(values, np.float64)[..., None], 3, axis=-1)


def pattern(offset):
    rows, columns = np.mgrid[:32, :32]
    return grey((7 * rows + 13 * columns + offset) % 32 / 31)


def test_psnr_of_known_errors():
    black = np.zeros((2, 4, 4, 3))
    assert pictures.psnr_db(black, black + 1 / 255) == pytest.approx([48.1308036] * 2)
    assert pictures.psnr_db(black, black + 0.1) == pytest.approx([20.0] * 2)
    assert pictures.psnr_db(black, black + 1.0) == pytest.approx([0.0] * 2)
    assert pictures.psnr_db(black, black) == pytest.approx([100.0] * 2)
    assert pictures.psnr_db(pattern(0), pattern(3)) == pytest.approx(10.432041350499269)


def test_ssim_of_known_pairs():
    black = np.zeros((16, 16, 3))
    assert pictures.ssim(black, black + 1) == pytest.approx(9.9990001e-5)
    assert pictures.ssim(black + 0.25, black + 0.75) == pytest.approx(0.60006399)
    a, b = pattern(0), pattern(3)
    assert pictures.ssim(a, b) == pytest.approx(0.50534617)
    assert pictures.ssim(a, 1 - a) == pytest.approx(-0.98177915)
    assert pictures.ssim(a, 0.75 * a) == pytest.approx(0.92186056)
    assert pictures.ssim(np.stack([a, b]), np.stack([a, a])) == pytest.approx([1.0, 0.50534617])


def test_small_pictures_are_refused():
    with pytest.raises(ValueError, match="at least 11 x 11 pixels, got 8 x 16"):
        pictures.ssim(np.zeros((8, 16, 3)), np.zeros((8, 16, 3)))
