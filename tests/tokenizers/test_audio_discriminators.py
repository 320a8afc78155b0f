"""SoundStream's discriminators: sizes, strides, hand-worked losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.tokenizers import audio_discriminators as judges
from poet.tokenizers.audio_discriminators import AudioDiscriminatorConfig, AudioDiscriminators


def shapes_of(config, num_samples):
    wave = jax.ShapeDtypeStruct((2, num_samples), jnp.float32)
    model = AudioDiscriminators(config)
    params = jax.eval_shape(lambda w: model.init(jax.random.key(0), w), wave)
    return params["params"], jax.eval_shape(model.apply, params, wave)


def test_the_published_layers():
    params, judged = shapes_of(AudioDiscriminatorConfig(), 16_384)
    kernels = {name: leaf["kernel"].shape for name, leaf in params["wave_0"].items()}
    assert kernels == {
        "conv_in": (15, 1, 16),
        "conv_0": (41, 4, 64),
        "conv_1": (41, 4, 256),
        "conv_2": (41, 4, 1024),
        "conv_3": (41, 4, 1024),
        "conv_out": (5, 1024, 1024),
        "logit": (3, 1024, 1),
    }
    stft = params["stft"]
    assert stft["conv_in"]["kernel"].shape == (7, 7, 2, 32)
    assert stft["block_0_conv_1"]["kernel"].shape == (3, 4, 32, 64)
    assert stft["block_1_conv_1"]["kernel"].shape == (4, 4, 64, 128)
    assert stft["block_5_conv_1"]["kernel"].shape == (4, 4, 256, 512)
    assert stft["logit"]["kernel"].shape == (1, 512 // 2**6, 512, 1)
    # Windows 256 samples apart, time halved three times; samples halved eight times, then rates.
    times = [logits.shape for logits, _ in judged]
    assert times == [(2, -(-(16_384 // 256 - 3) // 8)), (2, 64), (2, 32), (2, 16)]
    assert [len(features) for _, features in judged] == [7, 6, 6, 6]


def test_half_the_rate_keeps_a_constant():
    halved = judges.halve_rate(jnp.full((1, 10), 0.5))
    np.testing.assert_allclose(halved, np.full((1, 5), 0.5), rtol=1e-6)


def test_the_spectrogram_finds_a_sine_and_its_phase():
    time = np.arange(64)
    for phase, part in ((0.0, 0), (np.pi / 2, 1)):
        wave = np.cos(2 * np.pi * 4 * time / 32 - phase)[None].astype(np.float32)
        spectrum = judges.complex_spectrogram(jnp.asarray(wave), 32)
        assert spectrum.shape == (1, 5, 16, 2)
        peak = np.abs(np.asarray(spectrum[0, 0])).max(axis=0)
        assert np.argmax(np.abs(spectrum[0, 0, :, part])) == 4
        assert peak[part] == pytest.approx(1.0, abs=1e-5) and peak[1 - part] < 1e-5


def test_losses_worked_by_hand():
    def judged(logits, feature):
        return [(jnp.array([logits]), [jnp.full((1, 2), feature)]), (jnp.zeros((1, 2)), [])][:1]

    real, fake = judged([2.0, 0.5], 1.0), judged([-3.0, 0.0], 0.25)
    assert judges.discriminator_loss(real, fake) == pytest.approx((0 + 0.5) / 2 + (0 + 1) / 2)
    assert judges.generator_loss(fake) == pytest.approx((4 + 1) / 2)
    assert judges.feature_loss(real, fake) == pytest.approx(0.75)
    assert judges.mean_logit(real) == pytest.approx(1.25)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="must be a multiple of 128, because 6 blocks"):
        AudioDiscriminatorConfig(stft_window_samples=1000)
    with pytest.raises(ValueError, match="must be multiples of 4"):
        AudioDiscriminatorConfig(wave_channels=6)
