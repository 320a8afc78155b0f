"""How different two pictures look to a network that was trained on photographs.

Two networks are known by the names of their published tensors: VGG-16 with the linear weights of
LPIPS (arXiv 1801.03924), and ResNet-50, whose logits MAGVIT compares. Poet ships no weights; a run
names files of its own. Sizes come from the tensors.

Axes: N pictures, Y rows, X columns, C channels.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poet.tokenizers import weight_files
from poet.typing import Array, Float

# Positions of VGG-16's convolutions among its layers; a tap after each row, then pooling.
_VGG_CONVS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
# Bottleneck blocks of each stage of ResNet-50.
_RESNET_BLOCKS = (3, 4, 6, 3)
# Means and deviations of the training pictures, for pixels in [0, 1].
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_KINDS = ("lpips_vgg", "resnet50")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerceptualConfig:
    """Which network, from where.

    Attributes:
      kind: "lpips_vgg" or "resnet50".
      files: Files with its tensors, .safetensors, or .pt and .pth where torch is installed; for
        LPIPS usually two, of VGG-16 and of the linear weights.
      weight: Of the distance in the loss; MAGVIT has 0.1.
      resize_px: Pictures are resized to this before ResNet-50 sees them.
    """

    kind: str = "lpips_vgg"
    files: tuple[str, ...] = ()
    weight: float = 0.1
    resize_px: int = 224

    def __post_init__(self):
        object.__setattr__(self, "files", tuple(self.files))
        if self.kind not in _KINDS:
            raise ValueError(f"kind={self.kind!r} must be one of {', '.join(_KINDS)}.")
        if not self.files:
            raise ValueError(
                f"The perceptual term {self.kind} has no files; name the files of its weights, or"
                " leave the term out."
            )
        if not self.weight >= 0 or self.resize_px < 1:
            raise ValueError(
                f"weight={self.weight} must be 0 or more and resize_px={self.resize_px} at least 1."
            )


def load(config: PerceptualConfig) -> dict[str, np.ndarray]:
    """The tensors that the network needs, float32, convolutions as [rows, columns, in, out].

    Raises:
      ValueError: A file cannot be read, a tensor is missing or has the wrong shape.
    """
    found: dict[str, np.ndarray] = {}
    for file in config.files:
        found |= weight_files.read(file)
    found = {_short_name(name): value for name, value in found.items()}
    wanted = _vgg_shapes() if config.kind == "lpips_vgg" else _resnet_shapes()
    where = " and ".join(config.files)
    tensors = weight_files.picked(found, wanted, config.kind, where)
    picture = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    try:
        jax.eval_shape(functools.partial(distance, config=config), tensors, picture, picture)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The tensors of {where} do not fit each other as {config.kind}"
            f" ({str(error).splitlines()[0][:120]}); give the files of one network."
        ) from error
    return tensors


def distance(
    tensors: Mapping[str, Any],
    left: Float[Array, "N Y X 3"],
    right: Float[Array, "N Y X 3"],
    config: PerceptualConfig,
) -> Float[Array, ""]:
    """Mean distance of pairs of pictures in [0, 1]; 0 for equal ones. Differentiable."""
    if config.kind == "lpips_vgg":
        return jnp.mean(_lpips(tensors, left, right))
    logits = functools.partial(_resnet_logits, tensors, size_px=config.resize_px)
    return jnp.mean((logits(left) - logits(right)) ** 2)


def _lpips(tensors, left, right):
    """[N]: weighted squared distances of unit-length features, averaged over pixels, summed."""
    total = jnp.zeros(left.shape[0])
    pairs = zip(_vgg_taps(tensors, left), _vgg_taps(tensors, right), strict=True)
    for tap, (a, b) in enumerate(pairs):
        weights = tensors[f"lin{tap}.weight"].reshape(1, 1, 1, -1)
        total += jnp.mean(jnp.sum(weights * (_unit(a) - _unit(b)) ** 2, axis=-1), axis=(1, 2))
    return total


def _unit(x):
    # The guard is inside the root: its slope at zero features is finite.
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-20)


def _vgg_taps(tensors, pictures):
    # LPIPS scales by its own rounded constants, for pixels in [-1, 1].
    shift = jnp.array([-0.030, -0.088, -0.188]).reshape(1, 1, 1, 3)
    scale = jnp.array([0.458, 0.448, 0.450]).reshape(1, 1, 1, 3)
    x = (2.0 * pictures - 1.0 - shift) / scale
    taps = []
    for stage, convs in enumerate(_VGG_CONVS):
        x = _pooled(x, 2, 2, ((0, 0), (0, 0))) if stage else x
        for index in convs:
            bias = tensors[f"features.{index}.bias"].reshape(1, 1, 1, -1)
            x = jax.nn.relu(_conv(x, tensors[f"features.{index}.weight"], 1, 1) + bias)
        taps.append(x)
    return taps


def _resnet_logits(tensors, pictures, size_px):
    size = (pictures.shape[0], size_px, size_px, 3)
    x = jax.image.resize(pictures, size, "bilinear")
    x = (x - _MEAN.reshape(1, 1, 1, 3)) / _DEVIATION.reshape(1, 1, 1, 3)

    def conv(x, name, stride=1, padding=0):
        return _conv(x, tensors[f"{name}.weight"], stride, padding)

    def norm(x, name):
        scale = tensors[f"{name}.weight"] * jax.lax.rsqrt(tensors[f"{name}.running_var"] + 1e-5)
        shift = tensors[f"{name}.bias"] - tensors[f"{name}.running_mean"] * scale
        return x * scale.reshape(1, 1, 1, -1) + shift.reshape(1, 1, 1, -1)

    x = jax.nn.relu(norm(conv(x, "conv1", 2, 3), "bn1"))
    x = _pooled(x, 3, 2, ((1, 1), (1, 1)))
    for stage, num_blocks in enumerate(_RESNET_BLOCKS, start=1):
        for block in range(num_blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if block == 0 and stage > 1 else 1
            y = jax.nn.relu(norm(conv(x, f"{name}.conv1"), f"{name}.bn1"))
            y = jax.nn.relu(norm(conv(y, f"{name}.conv2", stride, 1), f"{name}.bn2"))
            y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            if block == 0:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = jax.nn.relu(x + y)
    return jnp.mean(x, axis=(1, 2)) @ tensors["fc.weight"] + tensors["fc.bias"].reshape(1, -1)


def _conv(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (stride, stride),
        ((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _pooled(x, size, stride, padding):
    """Maxima of windows; what lies outside does not count."""
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    around = ((0, 0), *padding, (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, around)


def _short_name(name: str) -> str:
    """One name for each tensor of the files in circulation."""
    name = name.removeprefix("module.").removeprefix("model.")
    if name.startswith("net.slice"):  # LPIPS with its backbone: net.slice2.5.weight
        return f"features.{name.split('.', 2)[2]}"
    if name.startswith("lin") and name.endswith(".model.1.weight"):
        return name.replace(".model.1", "")
    return name


def _vgg_shapes() -> dict[str, Any]:
    wanted: dict[str, Any] = {f"lin{tap}.weight": (1, None, 1, 1) for tap in range(5)}
    for index in (index for convs in _VGG_CONVS for index in convs):
        wanted[f"features.{index}.weight"] = (None, 3 if index == 0 else None, 3, 3)
        wanted[f"features.{index}.bias"] = (None,)
    return wanted


def _resnet_shapes() -> dict[str, Any]:
    def norm(name):
        names = ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{each}": (None,) for each in names}

    wanted: dict[str, Any] = {"conv1.weight": (None, 3, 7, 7)} | norm("bn1")
    wanted |= {"fc.weight": (None, None), "fc.bias": (None,)}
    for stage, num_blocks in enumerate(_RESNET_BLOCKS, start=1):
        for block in range(num_blocks):
            name = f"layer{stage}.{block}"
            for number, taps in ((1, 1), (2, 3), (3, 1)):
                wanted[f"{name}.conv{number}.weight"] = (None, None, taps, taps)
                wanted |= norm(f"{name}.bn{number}")
            if block == 0:
                wanted[f"{name}.downsample.0.weight"] = (None, None, 1, 1)
                wanted |= norm(f"{name}.downsample.1")
    return wanted
