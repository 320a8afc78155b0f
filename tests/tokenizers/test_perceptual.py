"""Perceptual distances on small networks with the published names."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from poet.tokenizers import perceptual, weight_files
from poet.tokenizers.perceptual import PerceptualConfig

WIDTH = 2


def vgg(rng):
    """VGG-16 and LPIPS of two channels, as torch stores them."""
    tensors, inputs = {}, 3
    for index in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28):
        tensors[f"features.{index}.weight"] = rng.normal(size=(WIDTH, inputs, 3, 3))
        tensors[f"features.{index}.bias"] = rng.normal(size=WIDTH)
        inputs = WIDTH
    for tap in range(5):
        tensors[f"lin{tap}.model.1.weight"] = rng.random((1, WIDTH, 1, 1))
    return {name: value.astype(np.float32) for name, value in tensors.items()}


def resnet(rng):
    """ResNet-50 of two channels and four classes, as torch stores it."""
    shapes = perceptual._resnet_shapes()
    tensors = {}
    for name, shape in shapes.items():
        sizes = [WIDTH if size is None else size for size in shape]
        tensors[name] = rng.normal(size=sizes) * 0.5
        if name.endswith(("running_var", ".bias")):  # Positive: two channels die easily.
            tensors[name] = np.abs(tensors[name]) + 0.5
    tensors["fc.weight"], tensors["fc.bias"] = rng.normal(size=(4, WIDTH)), np.zeros(4)
    return {name: value.astype(np.float32) for name, value in tensors.items()}


MAKERS = {"lpips_vgg": vgg, "resnet50": resnet}


@pytest.fixture(params=sorted(MAKERS))
def config(request, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(MAKERS[request.param](np.random.default_rng(0)), path)
    return PerceptualConfig(kind=request.param, files=(str(path),), resize_px=32)


def test_equal_pictures_have_no_distance_and_noise_has_more_and_more(config):
    tensors = perceptual.load(config)
    rng = np.random.default_rng(1)
    picture = rng.random((2, 32, 32, 3)).astype(np.float32)
    noise = rng.normal(size=picture.shape).astype(np.float32)

    @jax.jit
    def both(scale):
        other = picture + scale * noise
        return jax.value_and_grad(perceptual.distance, argnums=2)(
            tensors, jnp.asarray(picture), other, config
        )

    (same, flat), (near, _), (far, slope) = (both(scale) for scale in (0.0, 0.05, 0.5))
    assert float(same) <= 1e-6 * float(far) and 0 < near < far
    assert np.isfinite(flat).all() and np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_lpips_is_what_torch_computes(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = vgg(np.random.default_rng(4))
    save_file(tensors, tmp_path / "vgg.safetensors")
    config = PerceptualConfig(kind="lpips_vgg", files=(str(tmp_path / "vgg.safetensors"),))
    left, right = np.random.default_rng(3).uniform(size=(2, 2, 32, 48, 3)).astype(np.float32)
    weights = {name: torch.as_tensor(value) for name, value in tensors.items()}

    def taps(pictures):
        x = torch.as_tensor(pictures).permute(0, 3, 1, 2) * 2 - 1
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = (x - shift[:, None, None]) / scale[:, None, None]
        for layer in range(30):
            name = f"features.{layer}"
            if layer in (4, 9, 16, 23):
                x = torch.nn.functional.max_pool2d(x, 2)
            elif f"{name}.weight" in weights:
                kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
                x = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, padding=1))
            if layer in (3, 8, 15, 22, 29):
                yield torch.nn.functional.normalize(x, dim=1)

    expected = 0.0
    for tap, (a, b) in enumerate(zip(taps(left), taps(right), strict=True)):
        weight = weights[f"lin{tap}.model.1.weight"]
        expected += torch.nn.functional.conv2d((a - b) ** 2, weight).mean().item()
    found = perceptual.distance(perceptual.load(config), jnp.array(left), jnp.array(right), config)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_first_layer_of_vgg_by_hand(tmp_path):
    """Everything after the first tap is dead; the first compares the signs of two constants."""
    tensors = {name: np.zeros_like(value) for name, value in vgg(np.random.default_rng(0)).items()}
    tensors["lin0.model.1.weight"][0, :, 0, 0] = (2.0, 3.0)
    # Channel 0 passes red as it is; channel 1 passes red turned round.
    tensors["features.0.weight"][0, 0, 1, 1], tensors["features.0.weight"][1, 0, 1, 1] = 1.0, -1.0
    for channel in range(WIDTH):
        tensors["features.2.weight"][channel, channel, 1, 1] = 1.0
    save_file(tensors, tmp_path / "a.safetensors")
    config = PerceptualConfig(files=(str(tmp_path / "a.safetensors"),))
    white, black = jnp.ones((1, 16, 16, 3)), jnp.zeros((1, 16, 16, 3))
    found = jax.jit(lambda a, b: perceptual.distance(perceptual.load(config), a, b, config))
    # White: unit features (1, 0); black: (0, 1). 2 * 1 + 3 * 1.
    assert found(white, black) == pytest.approx(5.0, rel=1e-5)
    assert found(white, 0.9 * white) == pytest.approx(0.0, abs=1e-6)


def test_names_of_the_whole_lpips_file_are_known():
    assert perceptual._short_name("net.slice3.12.weight") == "features.12.weight"
    assert perceptual._short_name("lin4.model.1.weight") == "lin4.weight"


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_hostile_files_end_in_a_sentence_and_run_nothing(tmp_path):
    whole = tmp_path / "whole.safetensors"
    save_file(vgg(np.random.default_rng(0)), whole)
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-50])
    (tmp_path / "long.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    (tmp_path / "bomb.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for name in ("cut", "long", "bomb"):
        with pytest.raises(ValueError, match="is no whole safetensors file"):
            weight_files.read(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="was not run|torch, which is not installed"):
        weight_files.read(tmp_path / "bomb.pth")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="found none; check the path"):
        weight_files.read(tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="ends in '.h5'; expected .safetensors"):
        (tmp_path / "a.h5").write_bytes(b"")
        weight_files.read(tmp_path / "a.h5")


def test_tensors_of_another_network_are_refused(tmp_path):
    path = tmp_path / "vgg.safetensors"
    tensors = vgg(np.random.default_rng(0))
    save_file(tensors, path)
    with pytest.raises(ValueError, match="has no tensor conv1.weight, which resnet50 needs"):
        perceptual.load(PerceptualConfig(kind="resnet50", files=(str(path),)))
    tensors["features.5.weight"] = tensors["features.5.weight"][..., :2]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"features.5.weight in .* has shape \(2, 2, 3, 2\)"):
        perceptual.load(PerceptualConfig(files=(str(path),)))
    tensors["features.5.weight"] = np.zeros((WIDTH, 7, 3, 3), np.float32)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="do not fit each other as lpips_vgg"):
        perceptual.load(PerceptualConfig(files=(str(path),)))


def test_settings_are_checked():
    with pytest.raises(ValueError, match="has no files"):
        PerceptualConfig()
    with pytest.raises(ValueError, match="kind='vgg' must be one of lpips_vgg, resnet50"):
        PerceptualConfig(kind="vgg", files=("a",))
