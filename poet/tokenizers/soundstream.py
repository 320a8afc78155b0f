"""SoundStream: a causal convolutional autoencoder of sound around a residual quantizer.

Layers after the paper (spec/tokenizers.md c.1): a 7-tap convolution, blocks of three residual units
with dilations 1, 3 and 9 followed by a strided convolution with more channels, a 3-tap
convolution to the latent; the decoder is the mirror image with transposed convolutions. ELU, no
normalisation, every convolution pads the past only.

Axes: B batch, S samples, L frames, D latent width.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from poet.layers.conv1d import CausalConv1d, CausalConvTranspose1d
from poet.typing import Array, Float

_DILATIONS = (1, 3, 9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundStreamConfig:
    """Sizes of the audio tokenizer; the defaults are the paper's with VideoPoet's four levels.

    Attributes:
      base_channels: Channels at the sample rate.
      channel_growth: Every stride multiplies the channels by this (2 in the paper). 4 keeps a small
        model cheap at the sample rate and able at the frame rate.
      strides: Downsampling of each encoder block, first to last. Their product is the hop.
      latent_dim: D, the width that is quantized.
      num_levels: Codebooks used one after the other.
      codebook_size: Codes of each level.
      halves_hidden: Whether residual units are half as wide inside, which meets the sizes that the
        paper reports; otherwise full width, as open ports have it.
      sample_rate_hz: What the tokenizer was trained on. The weights know nothing else.
    """

    base_channels: int = 32
    channel_growth: int = 2
    strides: tuple[int, ...] = (2, 4, 5, 8)
    latent_dim: int = 256
    num_levels: int = 4
    codebook_size: int = 1024
    halves_hidden: bool = False
    sample_rate_hz: int = 16_000

    def __post_init__(self):
        object.__setattr__(self, "strides", tuple(self.strides))
        for name in (
            "base_channels",
            "channel_growth",
            "latent_dim",
            "num_levels",
            "codebook_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be at least 1;"
                    f" the default is {SoundStreamConfig.__dataclass_fields__[name].default}."
                )
        if not self.strides or min(self.strides) < 2:
            raise ValueError(
                f"strides={self.strides} must be whole numbers of at least 2;"
                " the paper has (2, 4, 5, 8)."
            )

    @property
    def samples_per_frame(self) -> int:
        """The hop: samples that one frame of codes stands for."""
        return math.prod(self.strides)


class ResidualUnit(nn.Module):
    """x + conv1(ELU(conv7(ELU(x)))), the 7 taps `dilation` samples apart."""

    dilation: int
    num_hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "B S C"]) -> Float[Array, "B S C"]:
        h = CausalConv1d(self.num_hidden, 7, dilation=self.dilation, name="taps")(jax.nn.elu(x))
        return x + CausalConv1d(x.shape[-1], 1, name="mix")(jax.nn.elu(h))


class Encoder(nn.Module):
    """Waveform to latents, one frame a hop. Frame t has read nothing beyond its own hop."""

    config: SoundStreamConfig

    @nn.compact
    def __call__(self, wave: Float[Array, "B S"]) -> Float[Array, "B L D"]:
        width = self.config.base_channels
        x = CausalConv1d(width, 7, name="first")(wave[..., None])
        for block, stride in enumerate(self.config.strides):
            x = _units(self.config, x, f"block_{block}")
            width *= self.config.channel_growth
            down = CausalConv1d(width, 2 * stride, stride=stride, name=f"block_{block}_down")
            x = down(jax.nn.elu(x))
        return CausalConv1d(self.config.latent_dim, 3, name="last")(jax.nn.elu(x))


class Decoder(nn.Module):
    """Quantized latents to waveform. Samples of frame t have read frames up to t."""

    config: SoundStreamConfig

    @nn.compact
    def __call__(self, latents: Float[Array, "B L D"]) -> Float[Array, "B S"]:
        growth = self.config.channel_growth
        width = self.config.base_channels * growth ** len(self.config.strides)
        x = CausalConv1d(width, 7, name="first")(latents)
        for block, stride in enumerate(reversed(self.config.strides)):
            width //= growth
            up = CausalConvTranspose1d(width, stride, name=f"block_{block}_up")
            x = _units(self.config, up(jax.nn.elu(x)), f"block_{block}")
        return CausalConv1d(1, 7, name="last")(jax.nn.elu(x))[..., 0]


class SoundStream(nn.Module):
    """The two halves; the quantizer between them is state and lives in `quantizers.rvq`.

    `model.apply({"params": p}, wave, method="encode")` and `method="decode"`.
    """

    config: SoundStreamConfig

    def setup(self):
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def __call__(self, wave: Float[Array, "B S"]) -> Float[Array, "B S"]:
        """Passes the unquantized latents on: only used to make the parameters."""
        return self.decode(self.encode(wave))

    def encode(self, wave: Float[Array, "B S"]) -> Float[Array, "B L D"]:
        return self.encoder(wave)

    def decode(self, latents: Float[Array, "B L D"]) -> Float[Array, "B S"]:
        return self.decoder(latents)


def init_params(config: SoundStreamConfig, key: Array) -> dict:
    """Parameters of `SoundStream(config)`: zero biases, normal kernels of variance 1 / fan-in.

    All kernels are cut from one draw. As a draw each, in Flax's usual way, XLA on CPU takes 17
    seconds to compile the random numbers alone, longer than the small model trains.
    """
    wave = jax.ShapeDtypeStruct((1, config.samples_per_frame), jnp.float32)
    shapes = jax.eval_shape(SoundStream(config).init, key, wave)["params"]
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    noise = jax.random.normal(key, (sum(leaf.size for _, leaf in leaves),))
    params, at = [], 0
    for path, leaf in leaves:
        layer, kind = path[-2].key, path[-1].key
        # Each output of a transposed convolution hears two taps, whatever the stride.
        num_taps = 2 if layer.endswith("_up") else leaf.shape[0]
        scale = 0.0 if kind == "bias" else (num_taps * leaf.shape[1]) ** -0.5
        params.append(noise[at : at + leaf.size].reshape(leaf.shape) * scale)
        at += leaf.size
    return jax.tree_util.tree_unflatten(tree, params)


def _units(config, x, name):
    num_hidden = x.shape[-1] // 2 if config.halves_hidden else x.shape[-1]
    for dilation in _DILATIONS:
        x = ResidualUnit(dilation, num_hidden, name=f"{name}_unit_{dilation}")(x)
    return x
