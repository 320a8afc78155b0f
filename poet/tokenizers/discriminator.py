"""The discriminator of the visual tokenizer: a 3-D residual network that halves all axes.

StyleGAN's shape with 3-D convolutions and blurred down-sampling; neither causal nor normalised.
MAGVIT-v2, section 3.2 and appendix A. The last layers read the whole grid, so parameters belong to
one length and one size of clips.

Axes: B batch, T frames, Y rows, X columns, C channels.
"""

import dataclasses
import math

import flax.linen as nn
import jax.numpy as jnp

from poet.layers.conv import conv3d
from poet.typing import Array, Float

_SLOPE = 0.2
_BLUR = (0.25, 0.5, 0.25)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Sizes; the defaults are the paper's at 128 x 128: 61.3 M parameters for 17 frames.

    Attributes:
      base_channels: Channels at full resolution.
      multipliers: Channels after each block, as multiples; a block halves time, rows and columns,
        rounding up.
    """

    base_channels: int = 128
    multipliers: tuple[int, ...] = (2, 4, 4, 4, 4)

    def __post_init__(self):
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        if self.base_channels < 1 or not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(
                f"DiscriminatorConfig(base_channels={self.base_channels},"
                f" multipliers={self.multipliers}): expected positive numbers and at least one"
                " block; the paper has 128 and (2, 4, 4, 4, 4)."
            )


class Discriminator(nn.Module):
    """Clips [B, T, Y, X, 3] in [0, 1] to one logit each, high for real ones."""

    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, video: Float[Array, "B T Y X 3"]) -> Float[Array, "B"]:
        base = self.config.base_channels
        x = _leaky(Conv3d(base, name="conv_in")(2.0 * video - 1.0))
        for block, multiplier in enumerate(self.config.multipliers):
            x = DownBlock(base * multiplier, name=f"block_{block}")(x)
        width = base * self.config.multipliers[-1]
        x = _leaky(Conv3d(width, name="conv_out")(x))
        x = _leaky(nn.Dense(width, name="dense")(x.reshape(x.shape[0], -1)))
        return nn.Dense(1, name="logit")(x)[:, 0]


class DownBlock(nn.Module):
    """(blur(conv) then conv + blurred skip) / sqrt(2), half as large on every axis."""

    num_channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B _ _ _ _"]:
        skip = blur_pool(x)
        skip = Conv3d(self.num_channels, (1, 1, 1), use_bias=False, name="conv_skip")(skip)
        x = blur_pool(_leaky(Conv3d(x.shape[-1], name="conv_0")(x)))
        x = _leaky(Conv3d(self.num_channels, name="conv_1")(x))
        return (x + skip) / math.sqrt(2.0)


class Conv3d(nn.Module):
    """`conv3d` with its own kernel and, if asked for, bias."""

    num_channels: int
    kernel_size: tuple[int, int, int] = (3, 3, 3)
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T Y X _"]:
        shape = (*self.kernel_size, x.shape[-1], self.num_channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(range(4), 4), shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.num_channels,))
        return conv3d(x, kernel, bias)


def blur_pool(x: Float[Array, "B T Y X C"]) -> Float[Array, "B _ _ _ C"]:
    """Every second value of x blurred by [1, 2, 1] / 4 on time, rows and columns, zeros outside.

    n values give ceil(n / 2): an even number is padded at its end, an odd one on both sides.
    """
    for axis in (1, 2, 3):
        size = x.shape[axis]
        num_out = -(-size // 2)
        before = size % 2
        after = 2 * num_out + 1 - size - before
        pads = [(0, 0)] * 5
        pads[axis] = (before, after)
        padded = jnp.pad(x, pads)
        taps = [
            weight * padded[(slice(None),) * axis + (slice(i, i + 2 * num_out - 1, 2),)]
            for i, weight in enumerate(_BLUR)
        ]
        x = taps[0] + taps[1] + taps[2]
    return x


def _leaky(x):
    return nn.leaky_relu(x, _SLOPE)
