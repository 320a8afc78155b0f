"""The discriminators of SoundStream: three on waveforms, one on the complex spectrogram.

Sizes are the paper's (spec/tokenizers.md c.3), with MelGAN's kernels where it refers to them. Each
gives logits over time and the outputs of its layers, which the feature loss compares. No
normalisation; leaky ReLU of slope 0.2. Convolutions may run in bfloat16 over float32 parameters;
spectrograms, half rates and all that is given back are float32.

Axes: B batch, S samples, T positions in time, F frequencies, C channels.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from poet.typing import Array, Float

# Kernel, stride, input channels a group of the waveform discriminator's grouped convolutions.
_TAPS, _STRIDE, _GROUP = 41, 4, 4
_NUM_GROUPED = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioDiscriminatorConfig:
    """Sizes; the defaults are the paper's.

    Attributes:
      wave_channels: Of the first layer on waveforms; each of the four grouped ones has four times
        as many, up to `wave_max_channels`.
      wave_max_channels: See above.
      num_rates: Waveform discriminators: at the sample rate, half of it, a quarter, and so on.
      stft_window_samples: Window of the spectrogram; windows are a quarter of it apart.
      stft_channels: Of the first layer on the spectrogram.
      stft_multipliers: Channels after each of its blocks, as multiples. Blocks halve the
        frequencies, every second one halves the time as well.
    """

    wave_channels: int = 16
    wave_max_channels: int = 1024
    num_rates: int = 3
    stft_window_samples: int = 1024
    stft_channels: int = 32
    stft_multipliers: tuple[int, ...] = (2, 4, 4, 8, 8, 16)

    def __post_init__(self):
        object.__setattr__(self, "stft_multipliers", tuple(self.stft_multipliers))
        if self.wave_channels % _GROUP or self.wave_max_channels % _GROUP or self.num_rates < 0:
            raise ValueError(
                f"wave_channels={self.wave_channels} and wave_max_channels="
                f"{self.wave_max_channels} must be multiples of {_GROUP} and num_rates="
                f"{self.num_rates} 0 or more; the paper has 16, 1024 and 3."
            )
        halvings = 2 ** len(self.stft_multipliers)
        if self.stft_window_samples % (2 * halvings) or self.stft_window_samples < 8:
            raise ValueError(
                f"stft_window_samples={self.stft_window_samples} must be a multiple of"
                f" {2 * halvings}, because {len(self.stft_multipliers)} blocks halve half as many"
                " frequencies; the paper has 1024 and 6 blocks."
            )


class AudioDiscriminators(nn.Module):
    """Waves [B, S] -> for each discriminator (logits [B, T], outputs of its layers)."""

    config: AudioDiscriminatorConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, wave: Float[Array, "B S"]) -> list[tuple[Array, list[Array]]]:
        config, slower = self.config, wave
        judged = [StftDiscriminator(config, self.dtype, name="stft")(wave)]
        for rate in range(config.num_rates):
            judge = WaveDiscriminator(config, self.dtype, name=f"wave_{rate}")
            judged.append(judge(slower))
            slower = halve_rate(slower)
        return jax.tree.map(lambda out: out.astype(jnp.float32), judged)


class WaveDiscriminator(nn.Module):
    """Convolutions of 15, four of 41 with stride 4 in groups, of 5 and of 3 taps."""

    config: AudioDiscriminatorConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, wave: Float[Array, "B S"]) -> tuple[Array, list[Array]]:
        conv = functools.partial(nn.Conv, dtype=self.dtype)
        width, features = self.config.wave_channels, []
        x = _leaky(conv(width, (15,), name="conv_in")(wave[..., None]))
        features.append(x)
        for layer in range(_NUM_GROUPED):
            groups = width // _GROUP
            width = min(4 * width, self.config.wave_max_channels)
            grouped = conv(
                width, (_TAPS,), _STRIDE, feature_group_count=groups, name=f"conv_{layer}"
            )
            x = _leaky(grouped(x))
            features.append(x)
        x = _leaky(conv(width, (5,), name="conv_out")(x))
        features.append(x)
        return conv(1, (3,), name="logit")(x)[..., 0], features


class StftDiscriminator(nn.Module):
    """A 2-D residual network on real and imaginary parts, time by frequencies."""

    config: AudioDiscriminatorConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, wave: Float[Array, "B S"]) -> tuple[Array, list[Array]]:
        config, features = self.config, []
        conv = functools.partial(nn.Conv, dtype=self.dtype)
        spectrum = complex_spectrogram(wave, config.stft_window_samples)
        x = _leaky(conv(config.stft_channels, (7, 7), name="conv_in")(spectrum))
        features.append(x)
        for block, multiplier in enumerate(config.stft_multipliers):
            strides = (1 + block % 2, 2)
            width = config.stft_channels * multiplier
            y = _leaky(conv(x.shape[-1], (3, 3), name=f"block_{block}_conv_0")(x))
            kernel = (strides[0] + 2, strides[1] + 2)
            y = conv(width, kernel, strides, name=f"block_{block}_conv_1")(y)
            x = conv(width, (1, 1), strides, name=f"block_{block}_skip")(x)
            x = _leaky(x + y)
            features.append(x)
        # One logit a time: the kernel spans all frequencies that are left.
        logits = conv(1, (1, x.shape[2]), padding="VALID", name="logit")(x)
        return logits[..., 0, 0], features


def complex_spectrogram(wave: Float[Array, "B S"], window_samples: int) -> Float[Array, "B T F 2"]:
    """Real and imaginary parts of Hann windows, a quarter of a window apart, F = window / 2.

    The highest frequency, one beyond F, is left out. A sound shorter than a window is filled with
    silence.
    """
    hop = window_samples // 4
    length = max(window_samples, wave.shape[1] - wave.shape[1] % hop)
    padded = jnp.pad(wave, ((0, 0), (0, max(0, length - wave.shape[1]))))[:, :length]
    hops = padded.reshape(wave.shape[0], -1, hop)
    frames = jnp.concatenate([hops[:, i : hops.shape[1] - 3 + i] for i in range(4)], axis=-1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window_samples) / window_samples)
    # So that a sine of amplitude 1 has a peak of about 1.
    window = (hann * 4 / window_samples).astype(np.float32)
    spectrum = jnp.fft.rfft(frames.astype(jnp.float32) * window[None, None])[..., :-1]
    return jnp.stack([spectrum.real, spectrum.imag], axis=-1)


def halve_rate(wave: Float[Array, "B S"]) -> Float[Array, "B _"]:
    """Mean of four samples, two apart; silence outside does not count (MelGAN)."""
    inside = nn.avg_pool(jnp.ones_like(wave[:1, :, None]), (4,), (2,), ((1, 2),))
    return (nn.avg_pool(wave[..., None], (4,), (2,), ((1, 2),)) / inside)[..., 0]


def generator_loss(fake: list[tuple[Array, list[Array]]]) -> Float[Array, ""]:
    """Hinge, averaged over time and discriminators: small where fakes are taken for real."""
    return _mean([jnp.mean(jax.nn.relu(1.0 - logits)) for logits, _ in fake])


def discriminator_loss(
    real: list[tuple[Array, list[Array]]], fake: list[tuple[Array, list[Array]]]
) -> Float[Array, ""]:
    """Hinge, averaged over time and discriminators; 2 where nothing is told apart."""
    on_real = [jnp.mean(jax.nn.relu(1.0 - logits)) for logits, _ in real]
    on_fake = [jnp.mean(jax.nn.relu(1.0 + logits)) for logits, _ in fake]
    return _mean(on_real) + _mean(on_fake)


def feature_loss(
    real: list[tuple[Array, list[Array]]], fake: list[tuple[Array, list[Array]]]
) -> Float[Array, ""]:
    """Mean absolute difference of the layers' outputs, averaged over layers and discriminators."""
    distances = [
        _mean([jnp.mean(jnp.abs(a - b)) for a, b in zip(left, right, strict=True)])
        for (_, left), (_, right) in zip(real, fake, strict=True)
    ]
    return _mean(distances)


def mean_logit(judged: list[tuple[Array, list[Array]]]) -> Float[Array, ""]:
    """Mean over time, then over discriminators."""
    return _mean([jnp.mean(logits) for logits, _ in judged])


def _mean(values):
    return sum(values) / len(values)


def _leaky(x):
    return nn.leaky_relu(x, 0.2)
