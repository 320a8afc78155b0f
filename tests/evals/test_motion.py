import numpy as np
import pytest

from poet.evals import motion


def constant_flow(num, height, width, right, down):
    return np.broadcast_to(np.array([right, down], np.float64), (num, height, width, 2))


def moving_video(num_frames=4, right=2, down=1):
    picture = np.random.default_rng(0).random((20, 24, 3))
    return np.stack(
        [np.roll(picture, (down * n, right * n), axis=(0, 1)) for n in range(num_frames)]
    )


def test_exact_flow_of_a_shift_has_no_error():
    frames = moving_video()
    # A pixel that moved right and down came from left and above.
    assert motion.warp_error(frames, constant_flow(3, 20, 24, -2, -1)) == 0.0
    assert motion.warp_error(frames, constant_flow(3, 20, 24, 2, 1)) > 0.01
    assert motion.warp_error(frames, constant_flow(3, 20, 24, -1, -2)) > 0.01


def test_error_is_the_mean_square_of_what_is_visible():
    frames = np.zeros((3, 4, 5, 3))
    frames[1:] = 0.5
    still = np.zeros((2, 4, 5, 2))
    assert motion.warp_error(frames, still) == pytest.approx((0.25 + 0) / 2)
    is_visible = np.zeros((2, 4, 5), bool)
    is_visible[0, 0, 0] = True
    # The second pair has no visible pixel and does not count.
    assert motion.warp_error(frames, still, is_visible) == pytest.approx(0.25)


def test_flow_between_pixels_is_bilinear():
    ramp = np.broadcast_to(np.arange(6.0)[:, None], (2, 5, 6, 1)).copy()
    ramp[1] += 0.25
    # Frame 1 at x equals frame 0 at x + 1/4, as far as that lies inside.
    assert motion.warp_error(ramp, constant_flow(1, 5, 6, 0.25, 0)) == pytest.approx(0.0)


def test_hidden_pixels_are_where_flows_do_not_cancel():
    back = constant_flow(1, 6, 8, -2, 0).copy()
    forth = constant_flow(1, 6, 8, 2, 0).copy()
    visible = motion.visible_pixels(back, forth)
    # The two columns on the left came from outside.
    assert not visible[0, :, :2].any() and visible[0, :, 2:].all()
    forth[0, 3, 4] = (-5, 0)
    hidden = np.argwhere(visible & ~motion.visible_pixels(back, forth))
    np.testing.assert_array_equal(hidden, [[0, 3, 6]])


def test_end_point_error_of_a_constant_offset():
    flow = np.random.default_rng(0).standard_normal((2, 4, 5, 2))
    np.testing.assert_allclose(motion.end_point_error_px(flow + [3.0, 4.0], flow), [5.0, 5.0])
    np.testing.assert_array_equal(motion.end_point_error_px(flow[0], flow[0]), 0.0)


def test_depth_is_aligned_before_it_is_compared():
    depth = np.random.default_rng(0).random((3, 6, 7))
    scale, shift = np.array([2.0, -0.5, 7.0]), np.array([1.0, 3.0, 0.0])
    condition = depth * scale[:, None, None] + shift[:, None, None]
    np.testing.assert_allclose(motion.aligned_depth_rmse(depth, condition), 0.0, atol=1e-12)
    # Worked by hand: (0, 1, 2) on (0, 1, 0) has slope 0, so the error is that of the mean 1/3.
    left, right = np.array([[[0.0, 1, 2]]]), np.array([[[0.0, 1, 0]]])
    assert motion.aligned_depth_rmse(left, right) == pytest.approx([np.sqrt(2) / 3])
    # A flat depth can only be shifted.
    assert motion.aligned_depth_rmse(0 * left, right) == pytest.approx([np.sqrt(2) / 3])
    assert motion.aligned_depth_rmse(left, 0 * right + 4) == pytest.approx([0.0])


def test_refusals():
    frames = moving_video(2)
    with pytest.raises(ValueError, match="got none in 2 frames; check the flow's direction"):
        motion.warp_error(frames, constant_flow(1, 20, 24, 100, 0))
    with pytest.raises(ValueError, match="Expected finite depths"):
        motion.aligned_depth_rmse(np.full((1, 2, 2), np.inf), np.zeros((1, 2, 2)))
