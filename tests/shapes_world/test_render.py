"""The renderer: covered areas, edges, sound of the laws."""

import numpy as np
import pytest

from poet.shapes_world import render, sampling, world


def clip(**changes):
    values = dict(shape="square", colour="yellow", motion="still", start_x=0.5, start_y=0.5)
    return world.ClipSpec(**(values | changes))


def test_a_square_on_the_pixel_grid_is_drawn_exactly():
    frames = render.render_frames(clip(), 32)
    assert frames.shape == (17, 32, 32, 3) and frames.dtype == np.uint8
    inside = np.zeros((32, 32), bool)
    inside[10:22, 10:22] = True
    wanted = np.where(inside[..., None], (232, 232, 24), 24)
    np.testing.assert_array_equal(frames, np.broadcast_to(wanted, frames.shape))
    np.testing.assert_array_equal(render.box_mask(clip(), 32)[5], inside)


def test_half_covered_pixels_are_half_way():
    frames = render.render_frames(clip(start_x=0.5 + 0.5 / 32), 32)
    assert frames[0, 16, 10].tolist() == [128, 128, 24]
    assert frames[0, 16, 22].tolist() == [128, 128, 24]


@pytest.mark.parametrize("shape", world.SHAPES)
def test_coverage_agrees_with_counting_points(shape):
    size, fine = 32, 24
    x, y, half = 0.4321, 0.5678, 0.1875
    points = (np.arange(size * fine) + 0.5) / (size * fine)
    u, v = np.meshgrid((points - x) / half, (points - y) / half)
    inside = {
        "circle": u**2 + v**2 <= 1,
        "square": np.maximum(abs(u), abs(v)) <= 1,
        "triangle": (abs(v) <= 1) & (abs(u) <= (1 + v) / 2),
        "cross": (np.maximum(abs(u), abs(v)) <= 1) & (np.minimum(abs(u), abs(v)) <= 1 / 3),
    }[shape]
    counted = inside.reshape(size, fine, size, fine).mean(axis=(1, 3))
    drawn = render.coverage(shape, [x], [y], [half], size)[0]
    np.testing.assert_allclose(drawn, counted, atol=0.07)
    assert drawn.sum() == pytest.approx(counted.sum(), rel=5e-3)


def test_shapes_at_the_wall_stay_inside_and_outside_parts_are_cut():
    at_wall = render.coverage("square", [0.1875], [0.8125], [0.1875], 32)
    assert at_wall.sum() == pytest.approx(144)
    beyond = render.coverage("circle", [0.0], [1.0], [0.1875], 32)
    assert beyond.sum() == pytest.approx(np.pi * 36 / 4, rel=0.01)


def test_the_sound_is_the_tone_and_a_click_at_each_hit():
    spec = clip(motion="left", speed="fast")
    frames, sound = render.render_clip(spec, 32)
    assert sound.shape == (34_000,) and sound.dtype == np.float32
    assert np.abs(sound).max() < 0.9
    times_s = np.arange(34_000) / 16_000
    rest = sound - 0.12 * np.sin(2 * np.pi * 700 * times_s)
    loud = np.nonzero(np.abs(rest) > 0.01)[0] / 16_000
    near = [np.any((loud >= hit) & (loud < hit + 0.1)) for hit in (0.625, 1.875)]
    assert all(near)
    assert all(min(loud - hit, key=abs) >= 0 for hit in (0.625, 1.875))
    assert all(0 <= t - 0.625 < 0.1 or 0 <= t - 1.875 < 0.1 for t in loud)


def test_the_first_samples_of_all_audio_frames_have_one_phase():
    for colour in world.COLOURS:
        sound = render.render_sound(clip(colour=colour))
        np.testing.assert_allclose(sound[::320], 0.0, atol=1e-4)


def test_too_small_pictures_are_refused():
    with pytest.raises(ValueError, match="size_px must be at least 32, got 16"):
        render.render_clip(sampling.sample_clips(0, "train", 1)[0], 16)
