"""I3D on RGB clips (arXiv 1705.07750), whose 400 logits of Kinetics are the features of FVD.

As in TensorFlow, convolutions and maxima have SAME padding: of the cells that are missing, half
lie before and the larger half after (2 and 3 for 7 taps, stride 2, an even size). Batch norms have
no gain. The sizes below give 12,704,544 numbers, of which 410,000 are the last layer's.

Layer sizes, strides and the order of the steps were checked against the public Flax I3D of MAGVIT;
the numbers against torch modules with random weights (tests/evals/test_i3d.py). Published weights
could not be had: compare `black_to_white` with its known values after converting a file.

Axes: B clips, T frames, Y rows, X columns, C channels, V classes.
"""

import functools
from collections.abc import Mapping
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from poet.evals import resizing
from poet.evals.features import FeatureExtractor
from poet.typing import Array, Float, UInt8

NUM_NUMBERS = 12_704_544
NUM_CLASSES = 400
MIN_FRAMES = 9
SIZE_PX = 224
EPSILON = 1e-3
# Widths of the six convolutions of each mixed layer: branch 0; 1, two; 2, two; 3 after its pool.
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
BRANCHES: tuple[str, ...] = ("b0", "b1a", "b1b", "b2a", "b2b", "b3")
# Window (and stride) of the maximum before a mixed layer.
_POOLS = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": ((3, 3, 3), (2, 2, 2))}
_POOLS["Mixed_5b"] = ((2, 2, 2), (2, 2, 2))

Resize = Literal["squash_tf1", "squash_64_tf1", "squash_half_pixel", "crop_half_pixel"]


class Unit(nn.Module):
    """Convolution, fixed batch norm without gain, ReLU.

    Attributes:
      features: Channels out.
      taps: In time, rows, columns.
      stride: In all three.
    """

    features: int
    taps: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B _ _ _ O"]:
        shape = (self.taps,) * 3 + (x.shape[-1], self.features)
        x = _conv(x, self.param("kernel", nn.initializers.he_normal(), shape), self.stride)
        mean = self.param("mean", nn.initializers.zeros, (self.features,))
        variance = self.param("variance", nn.initializers.ones, (self.features,))
        beta = self.param("beta", nn.initializers.zeros, (self.features,))
        return nn.relu((x - _row(mean)) * _row(jax.lax.rsqrt(variance + EPSILON)) + _row(beta))


class Mixed(nn.Module):
    """Four branches side by side, joined by channel.

    Attributes:
      widths: See `MIXED`.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T Y X O"]:
        width = dict(zip(BRANCHES, self.widths, strict=True))
        ends = [Unit(width["b0"], name="b0")(x)]
        for branch in ("b1", "b2"):
            narrow = Unit(width[f"{branch}a"], name=f"{branch}a")(x)
            ends.append(Unit(width[f"{branch}b"], taps=3, name=f"{branch}b")(narrow))
        pooled = nn.max_pool(x, (3, 3, 3), (1, 1, 1), padding="SAME")
        ends.append(Unit(width["b3"], name="b3")(pooled))
        return jnp.concatenate(ends, axis=-1)


class I3D(nn.Module):
    """Logits of Kinetics-400, averaged over time.

    Attributes:
      head_px: Rows and columns of the last average; 7 is all of a picture of 224 pixels.
    """

    head_px: int = 7

    @nn.compact
    def __call__(self, pixels: Float[Array, "B T Y X 3"]) -> Float[Array, "B V"]:
        """Logits of clips in [-1, 1], of at least 9 frames."""
        check_frames(pixels.shape[1])
        x = Unit(64, taps=7, stride=2, name="Conv3d_1a_7x7")(pixels)
        x = nn.max_pool(x, (1, 3, 3), (1, 2, 2), padding="SAME")
        x = Unit(64, name="Conv3d_2b_1x1")(x)
        x = Unit(192, taps=3, name="Conv3d_2c_3x3")(x)
        for name, widths in MIXED.items():
            if name in _POOLS:
                window, stride = _POOLS[name]
                x = nn.max_pool(x, window, stride, padding="SAME")
            x = Mixed(widths, name=name)(x)
        x = nn.avg_pool(x, (2, self.head_px, self.head_px), (1, 1, 1), padding="VALID")
        return jnp.mean(Logits(name="logits")(x), axis=(1, 2, 3))


class Logits(nn.Module):
    """The last layer: one number a class at each place."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T Y X V"]:
        shape = (1, 1, 1, x.shape[-1], NUM_CLASSES)
        x = _conv(x, self.param("kernel", nn.initializers.he_normal(), shape), 1)
        return x + _row(self.param("bias", nn.initializers.zeros, (NUM_CLASSES,)))


def check_frames(num_frames: int) -> None:
    """Refuses clips that are too short: 8 frames leave one step of time, the head needs two.

    Raises:
      ValueError: Fewer than 9 frames.
    """
    if num_frames < MIN_FRAMES:
        raise ValueError(
            f"I3D needs clips of at least {MIN_FRAMES} frames, got {num_frames}; give longer clips"
            " (FVD is usually of 16)."
        )


class I3DFeatures:
    """FVD's features of clips, behind `features.FeatureExtractor`.

    Args:
      params: Of `I3D`, as `metric_weights.load` gives them.
      resize: How clips of any size become 224 x 224, a part of the metric's name:
        "squash_tf1", whatever the aspect, on TensorFlow 1's grid: FVD's own code, MAGVIT;
        "squash_64_tf1", the same by way of 64 x 64: MAGVIT's tool for BAIR and Kinetics-600;
        "squash_half_pixel", on torch's grid: TATS;
        "crop_half_pixel", short side to 224, middle cut out: common_metrics' styleganv (which
        rounds the long side up, here it is rounded down).
    """

    def __init__(self, params: Mapping[str, Any], *, resize: Resize | str = "squash_tf1"):
        if resize not in get_args(Resize):
            raise ValueError(f"resize={resize!r} must be one of {', '.join(get_args(Resize))}.")
        self._params, self._resize = params, resize

    def features(self, clips: UInt8[np.ndarray, "B T Y X 3"]) -> Float[np.ndarray, "B 400"]:
        """Logits before the softmax, float32.

        Raises:
          ValueError: Fewer than 9 frames.
        """
        check_frames(clips.shape[1])
        return np.asarray(_logits(self._params, jnp.asarray(network_pixels(clips, self._resize))))


def network_pixels(
    clips: UInt8[np.ndarray, "B T Y X 3"], resize: Resize | str
) -> Float[np.ndarray, "B T 224 224 3"]:
    """Clips as the network sees them: 224 x 224, float32 in [-1, 1]."""
    if resize == "crop_half_pixel":
        resized = resizing.short_side_and_crop(clips, SIZE_PX, method="half_pixel")
    else:
        method = "half_pixel" if resize == "squash_half_pixel" else "tf1"
        if resize == "squash_64_tf1":
            clips = resizing.squash(clips, 64, 64, method=method)
        resized = resizing.squash(clips, SIZE_PX, SIZE_PX, method=method)
    return (resized * (2.0 / 255.0) - 1.0).astype(np.float32)


def black_to_white(extractor: FeatureExtractor, num_frames: int) -> float:
    """FVD of black clips to white ones: without variance, so the squared distance of two features.

    The check of a converted file. Known values: about 131 for 15 frames by FVD's own code on
    TensorFlow; by the TorchScript file 134.24 for 15 frames, 153.110 for 16, 66.081 for 24 and
    151.168 for 30 (as other people report them).
    """
    clips = np.zeros((2, num_frames, 64, 64, 3), np.uint8)
    clips[1] = 255
    black, white = extractor.features(clips).astype(np.float64)
    return float(np.sum((white - black) ** 2))


@functools.partial(jax.jit, static_argnames="head_px")
def _logits(params, pixels, head_px=7):
    return I3D(head_px=head_px).apply({"params": params}, pixels)


def _conv(x, kernel, stride: int):
    """Full precision everywhere: half-precision products of accelerators move FVD."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * 3,
        "SAME",
        dimension_numbers=("NTHWC", "THWIO", "NTHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )


def _row(values):
    return values.reshape(1, 1, 1, 1, -1)
