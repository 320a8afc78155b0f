"""VGGish: its size, its batches, and the numbers of torch with the same weights."""

import numpy as np
import pytest
from flax import traverse_util
from random_weights import TINY_VGGISH, random_params

from poet.evals import frechet_audio, metric_weights, vggish
from poet.evals.frechet_audio import SoundExtractor


def extractor(batch_size):
    tree = traverse_util.unflatten_dict(random_params(TINY_VGGISH), sep="/")
    return vggish.VGGishFeatures(tree, TINY_VGGISH.module, batch_size=batch_size)


def test_it_has_the_published_number_of_numbers():
    network = metric_weights.network_of("vggish")
    assert network.count(network.shapes()) == 72_141_184
    assert network.shapes()["fc1_1/kernel"] == (6 * 4 * 512, 4096)


def test_rows_do_not_depend_on_the_batch():
    examples = np.random.default_rng(1).standard_normal((5, 96, 64)).astype(np.float32)
    found = extractor(2).features(examples)
    assert found.shape == (5, 8) and isinstance(extractor(2), SoundExtractor)
    np.testing.assert_allclose(extractor(5).features(examples), found, rtol=1e-5, atol=1e-6)
    assert extractor(2).features(examples[:0]).shape == (0, 8)
    with pytest.raises(ValueError, match="batch of at least 1"):
        extractor(0)


def test_the_last_layer_has_no_relu():
    examples = np.random.default_rng(2).standard_normal((4, 96, 64)).astype(np.float32)
    assert extractor(4).features(examples).min() < 0


def test_embeddings_are_those_of_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    params = random_params(TINY_VGGISH)
    weights = {name: torch.as_tensor(value) for name, value in params.items()}
    examples = np.random.default_rng(3).standard_normal((3, 96, 64)).astype(np.float32)
    x = torch.as_tensor(examples)[:, None]
    for name in vggish.CONVS:
        kernel, bias = weights[f"{name}/kernel"].permute(3, 2, 0, 1), weights[f"{name}/bias"]
        x = torch.relu(functional.conv2d(x, kernel, bias, padding=1))
        if name in ("conv1", "conv2", "conv3_2", "conv4_2"):
            x = functional.max_pool2d(x, 2)
    x = x.permute(0, 2, 3, 1).flatten(1)
    for name in vggish.DENSES:
        x = x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]
        x = torch.relu(x) if name != "fc2" else x
    found, expected = extractor(3).features(examples), x.numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_frechet_audio_distance():
    rng = np.random.default_rng(4)
    quiet, loud = (scale * rng.uniform(-1, 1, (3, 32_000)) for scale in (0.02, 0.9))
    features = extractor(4)
    distance = frechet_audio.frechet_audio_distance(quiet, loud, features)
    assert distance > 10 * abs(frechet_audio.frechet_audio_distance(loud, loud, features))
