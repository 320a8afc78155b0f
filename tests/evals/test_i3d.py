"""I3D: its size, SAME padding, short clips refused, and torch's numbers with the same weights."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from random_weights import random_i3d

from poet.evals import i3d, metric_weights
from poet.evals.features import FeatureExtractor


def test_it_has_the_published_number_of_numbers():
    network = metric_weights.network_of("i3d")
    assert network.count(network.shapes()) == 12_704_544
    last = network.shapes()["logits/kernel"]
    assert np.prod(last) + 400 == 410_000


def test_logits_have_one_row_a_clip_from_nine_frames_on():
    tree = jax.eval_shape(i3d.I3D().init, jax.random.key(0), jnp.zeros((1, 9, 224, 224, 3)))
    for num_frames in (9, 16):
        clips = jax.ShapeDtypeStruct((2, num_frames, 224, 224, 3), jnp.float32)
        assert jax.eval_shape(i3d.I3D().apply, tree, clips).shape == (2, 400)
    with pytest.raises(ValueError, match="at least 9 frames, got 8; give longer clips"):
        jax.eval_shape(i3d.I3D().apply, tree, jnp.zeros((2, 8, 224, 224, 3)))


def test_short_clips_and_unknown_conventions_are_refused():
    extractor = i3d.I3DFeatures({})
    assert isinstance(extractor, FeatureExtractor)
    with pytest.raises(ValueError, match="at least 9 frames, got 8"):
        extractor.features(np.zeros((1, 8, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="resize='bicubic' must be one of squash_tf1"):
        i3d.I3DFeatures({}, resize="bicubic")


@pytest.mark.parametrize(
    ("num_cells", "drawing"),
    [
        # Taps of output cells on an impulse at cell 5; 2 cells before and 3 after are missing.
        (8, {1: 5, 2: 3, 3: 1}),
        # 3 before and 3 after.
        (9, {1: 6, 2: 4, 3: 2, 4: 0}),
    ],
)
def test_same_padding_at_stride_two(num_cells, drawing):
    """Kernel taps are numbered 1 to 7 along rows; time and columns have one cell."""
    kernel = np.zeros((7, 7, 7, 1, 1), np.float32)
    kernel[3, :, 3, 0, 0] = np.arange(1, 8)
    impulse = np.zeros((1, 1, num_cells, 1, 1), np.float32)
    impulse[0, 0, 5] = 1.0
    found = np.asarray(i3d._conv(jnp.asarray(impulse), jnp.asarray(kernel), 2))[0, 0, :, 0, 0]
    expected = np.zeros((num_cells + 1) // 2)
    for cell, tap in drawing.items():
        expected[cell] = tap + 1
    np.testing.assert_array_equal(found, expected)


def test_pixels_by_each_convention():
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (1, 2, 20, 30, 3), np.uint8)
    found = {each: i3d.network_pixels(clips, each) for each in get_args(i3d.Resize)}
    for pixels in found.values():
        assert pixels.shape == (1, 2, 224, 224, 3) and pixels.dtype == np.float32
        assert pixels.min() >= -1 and pixels.max() <= 1
    names = sorted(found)
    for index, name in enumerate(names):
        assert all(np.abs(found[name] - found[other]).max() > 0.01 for other in names[:index])
    # A corner of the original is a corner of the picture, -1 is black and 1 is white.
    np.testing.assert_allclose(found["squash_tf1"][0, 0, 0, 0], clips[0, 0, 0, 0] / 127.5 - 1, 1e-5)


class Sums:
    def features(self, clips):
        return clips.sum(axis=(1, 2, 3)).astype(np.float32) / (255 * 64 * 64)


def test_black_to_white_is_a_squared_distance():
    assert i3d.black_to_white(Sums(), num_frames=10) == pytest.approx(3 * 10**2)


def torch_reference(torch, params, pixels, head_px):
    """The published order of layers in torch's own operations, SAME padding written out."""
    functional = torch.nn.functional
    weights = {name: torch.as_tensor(value) for name, value in params.items()}

    def padded(x, window, stride, value):
        around = []
        for size, taps, step in zip(x.shape[2:], window, stride, strict=True):
            missing = max((-(-size // step) - 1) * step + taps - size, 0)
            around = [missing // 2, missing - missing // 2, *around]
        return functional.pad(x, around, value=value)

    def unit(x, name, stride=1):
        kernel = weights[f"{name}/kernel"].permute(4, 3, 0, 1, 2)
        stride = (stride,) * 3
        x = functional.conv3d(padded(x, kernel.shape[2:], stride, 0.0), kernel, stride=stride)
        mean, variance, beta = (weights[f"{name}/{each}"] for each in ("mean", "variance", "beta"))
        x = functional.batch_norm(x, mean, variance, bias=beta, eps=1e-3)
        return functional.relu(x)

    def pool(x, window, stride):
        return functional.max_pool3d(padded(x, window, stride, -torch.inf), window, stride)

    def mixed(x, name):
        branches = [
            unit(x, f"{name}/b0"),
            unit(unit(x, f"{name}/b1a"), f"{name}/b1b"),
            unit(unit(x, f"{name}/b2a"), f"{name}/b2b"),
            unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}/b3"),
        ]
        return torch.cat(branches, 1)

    x = torch.as_tensor(pixels).permute(0, 4, 1, 2, 3)
    x = pool(unit(x, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3")
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = mixed(mixed(x, "Mixed_3b"), "Mixed_3c")
    x = pool(x, (3, 3, 3), (2, 2, 2))
    for letter in "bcdef":
        x = mixed(x, f"Mixed_4{letter}")
    x = pool(x, (2, 2, 2), (2, 2, 2))
    x = mixed(mixed(x, "Mixed_5b"), "Mixed_5c")
    x = functional.avg_pool3d(x, (2, head_px, head_px), 1)
    kernel = weights["logits/kernel"].permute(4, 3, 0, 1, 2)
    return functional.conv3d(x, kernel, weights["logits/bias"]).mean((2, 3, 4)).numpy()


def assert_same_as_torch(pixels, head_px):
    torch = pytest.importorskip("torch")
    params = random_i3d()
    with torch.no_grad():
        expected = torch_reference(torch, params, pixels, head_px)
    tree = traverse_util.unflatten_dict(params, sep="/")
    found = np.asarray(i3d._logits(tree, jnp.asarray(pixels), head_px=head_px))
    assert np.abs(expected).max() > 0.1
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_logits_are_those_of_torch_on_small_pictures():
    """30 pixels give odd and even sizes on the way; 11 frames too."""
    draws = np.random.default_rng(1).uniform(-1, 1, (1, 11, 30, 32, 3)).astype(np.float32)
    assert_same_as_torch(draws, head_px=1)


@pytest.mark.slow
def test_logits_are_those_of_torch_at_full_size():
    draws = np.random.default_rng(2).uniform(-1, 1, (1, 10, 224, 224, 3)).astype(np.float32)
    assert_same_as_torch(draws, head_px=7)


@pytest.mark.slow
def test_features_do_not_depend_on_the_batch():
    tree = traverse_util.unflatten_dict(random_i3d(), sep="/")
    extractor = i3d.I3DFeatures(tree)
    clips = np.random.default_rng(3).integers(0, 256, (2, 9, 16, 16, 3), np.uint8)
    both = extractor.features(clips)
    assert both.shape == (2, 400) and both.dtype == np.float32
    np.testing.assert_allclose(extractor.features(clips[1:]), both[1:], rtol=1e-4, atol=1e-5)
