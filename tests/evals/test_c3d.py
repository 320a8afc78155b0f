"""C3D: its size, what it does to pixels, and the numbers of torch with the same weights."""

import numpy as np
import pytest
from flax import traverse_util
from random_weights import TINY_C3D, random_params

from poet.evals import c3d, inception_score, metric_weights
from poet.evals.features import FeatureExtractor


def test_it_has_the_published_number_of_numbers():
    network = metric_weights.network_of("c3d")
    shapes = network.shapes()
    assert network.count(shapes) == 78_409_573
    convs = {name: shape for name, shape in shapes.items() if name.startswith("conv")}
    assert network.count(convs) == 27_655_936
    assert shapes["offset"] == (16, 112, 112, 3)


def test_colours_turn_round_and_channels_come_first():
    """Convolutions that copy, a dense layer that copies: what reaches it is seen in the logits."""
    network = c3d.C3D(channels=(3,) * 8, hidden=48, num_classes=48)
    copy = np.zeros((3, 3, 3, 3, 3), np.float32)
    copy[1, 1, 1] = np.eye(3)
    params = {f"{name}/kernel": copy for name in c3d.CONVS}
    params |= {f"{name}/kernel": np.eye(48, dtype=np.float32) for name in c3d.DENSES}
    params |= {f"{name}/bias": np.zeros(3, np.float32) for name in c3d.CONVS}
    params |= {f"{name}/bias": np.zeros(48, np.float32) for name in c3d.DENSES}
    params["offset"] = np.full((16, 112, 112, 3), (1, 2, 3), np.float32)
    clip = np.zeros((1, 16, 20, 24, 3), np.uint8)
    clip[...] = (10, 50, 200)
    extractor = c3d.C3DLogits(traverse_util.unflatten_dict(params, sep="/"), network)
    assert isinstance(extractor, FeatureExtractor)
    found = extractor.features(clip)
    # Blue plus 1 at 4 x 4 places, green plus 2, red plus 3.
    np.testing.assert_allclose(found[0], np.repeat([201, 52, 13], 16), rtol=1e-5)


def test_another_number_of_frames_is_refused():
    with pytest.raises(ValueError, match=r"C3D sees 16 frames, got 17; cut the clips"):
        c3d.C3DLogits({}).features(np.zeros((1, 17, 8, 8, 3), np.uint8))


def test_logits_are_those_of_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    params = random_params(TINY_C3D)
    weights = {name: torch.as_tensor(value) for name, value in params.items()}
    clips = np.random.default_rng(1).integers(0, 256, (2, 16, 40, 30, 3), np.uint8)

    # Corner-aligned bilinear, BGR, scaled, offset.
    frames = torch.as_tensor(clips).float().flip(-1).permute(0, 1, 4, 2, 3).reshape(32, 3, 40, 30)
    frames = functional.interpolate(frames, (112, 112), mode="bilinear", align_corners=True)
    x = frames.reshape(2, 16, 3, 112, 112).permute(0, 2, 1, 3, 4)
    x = x + weights["offset"].permute(3, 0, 1, 2)

    def conv(x, name):
        kernel = weights[f"{name}/kernel"].permute(4, 3, 0, 1, 2)
        return torch.relu(functional.conv3d(x, kernel, weights[f"{name}/bias"], padding=1))

    x = functional.max_pool3d(conv(x, "conv1a"), (1, 2, 2))
    x = functional.max_pool3d(conv(x, "conv2a"), 2)
    for pair in ("3", "4", "5"):
        # The last maximum covers the odd row and column, as Chainer's does.
        x = conv(conv(x, f"conv{pair}a"), f"conv{pair}b")
        x = functional.max_pool3d(x, 2, ceil_mode=pair == "5")
    x = x.flatten(1)
    for name in c3d.DENSES:
        x = x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]
        x = torch.relu(x) if name != "fc8" else x
    found = c3d.C3DLogits(traverse_util.unflatten_dict(params, sep="/"), TINY_C3D.module).features(
        clips
    )
    expected = x.numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_an_inception_score():
    tree = traverse_util.unflatten_dict(random_params(TINY_C3D), sep="/")
    clips = np.random.default_rng(2).integers(0, 256, (4, 16, 8, 8, 3), np.uint8)
    logits = c3d.C3DLogits(tree, TINY_C3D.module).features(clips)
    score = inception_score.inception_score(logits, num_splits=1)
    assert 1 <= score.mean <= 7 and score.num_videos == 4
