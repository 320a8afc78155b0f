import numpy as np
import pytest

from poet.data import masking


def show(region, shape=(5, 4, 8)):
    """Rows of '#' (visible) and '.', one string a frame."""
    seen = masking.visible(region, shape)
    return [
        "/".join("".join("#" if pixel else "." for pixel in row) for row in frame) for frame in seen
    ]


@pytest.mark.parametrize(
    ("region", "frame"),
    [
        ("inpaint_central", "########/##....##/##....##/########"),
        ("outpaint_central", "......../..####../..####../........"),
        ("outpaint_vertical", "..####../..####../..####../..####.."),
        ("outpaint_horizontal", "......../########/########/........"),
    ],
)
def test_still_regions(region, frame):
    assert show(region) == [frame] * 5


def test_moving_regions_step_once_a_latent_frame():
    # 9 frames are 3 latent ones: the window's left edge stands at 0, 2, 4 of 8 columns.
    strips = [frame.split("/")[1] for frame in show("outpaint_dynamic", (9, 4, 8))]
    assert strips == ["####...."] + ["..####.."] * 4 + ["....####"] * 4
    boxes = [frame.split("/") for frame in show("inpaint_dynamic", (9, 4, 8))]
    assert [rows[1] for rows in boxes] == ["....####"] + ["##....##"] * 4 + ["####...."] * 4
    assert all(rows[0] == rows[3] == "########" for rows in boxes)


def test_regions_in_time():
    assert show("frame_prediction", (5, 1, 1)) == ["#", ".", ".", ".", "."]
    assert show("interpolation", (5, 1, 1)) == ["#", ".", ".", ".", "#"]


@pytest.mark.parametrize("region", masking.REGIONS)
def test_visible_pixels_stay_and_hidden_ones_say_nothing(region):
    rng = np.random.default_rng(0)
    frames = rng.integers(1, 255, (9, 8, 8, 3), dtype=np.uint8)
    seen = masking.visible(region, frames.shape[:3])
    hidden = masking.hide(frames, region)
    assert hidden.dtype == np.uint8 and hidden.shape == frames.shape
    np.testing.assert_array_equal(hidden[seen], frames[seen])
    other = np.where(seen[..., None], frames, 255 - frames)
    np.testing.assert_array_equal(masking.hide(other, region), hidden)
    assert 0.2 < (~seen).mean() < 0.95


def test_fills_by_hand():
    frames = np.zeros((5, 4, 4, 1), np.uint8)
    frames[..., 0] = np.arange(16).reshape(4, 4) + 10 * np.arange(5)[:, None, None]
    edge = masking.hide(frames, "outpaint_central")[0, ..., 0]
    assert edge.tolist() == [[5, 5, 6, 6], [5, 5, 6, 6], [9, 9, 10, 10], [9, 9, 10, 10]]
    assert masking.hide(frames, "inpaint_central")[0, ..., 0].tolist()[1] == [4, 0, 0, 7]
    assert masking.hide(frames, "interpolation")[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]
    assert masking.hide(frames, "frame_prediction")[:, 0, 0, 0].tolist() == [0] * 5


def test_draws_follow_id_and_seed_and_reach_every_region():
    draws = [masking.draw_region(f"clip_{i}") for i in range(200)]
    assert draws == [masking.draw_region(f"clip_{i}") for i in range(200)]
    assert set(draws) == set(masking.REGIONS)
    assert draws != [masking.draw_region(f"clip_{i}", seed=1) for i in range(200)]
    assert set(masking.INPAINTING) | set(masking.OUTPAINTING) == set(masking.REGIONS)


def test_refusals():
    with pytest.raises(ValueError, match="Unknown regions .'left'., expected some of inpaint"):
        masking.draw_region("a", ("left",))
    with pytest.raises(ValueError, match="two frames or more, got .1, 4, 4."):
        masking.visible("inpaint_central", (1, 4, 4))
