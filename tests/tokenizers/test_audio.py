"""Audio tokenizer at byte size: layers, frames, causality, batches, refusals, files, training."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from poet.tokenizers import audio, mel, protocol
from poet.tokenizers.audio import AudioTokenizer
from poet.tokenizers.soundstream import SoundStream, SoundStreamConfig, init_params
from poet.train import audio_step

CONFIG = SoundStreamConfig(
    base_channels=2, strides=(4, 5), latent_dim=4, num_levels=2, codebook_size=8
)
LOSS = audio_step.AudioLossConfig(mel_window_samples=(64,), mel_floor=1e-2, dead_below=0.05)


@pytest.fixture(scope="module")
def tokenizer():
    params = init_params(CONFIG, jax.random.key(0))
    centroids = jax.random.normal(jax.random.key(1), (2, 8, 4))
    return AudioTokenizer(CONFIG, {"params": params, "centroids": centroids}, "f", batch_size=2)


@pytest.fixture(scope="module")
def wave():
    """Five sounds of 10 frames and 7 samples: silence, tones, noise."""
    time_s = np.arange(207) / 16_000
    tones = [np.sin(2 * np.pi * hertz * time_s) for hertz in (0, 400, 800, 1600)]
    noise = np.random.default_rng(0).uniform(-1, 1, 207)
    return np.stack([*tones, noise]).astype(np.float32)


def test_paper_sizes_match_the_published_parameter_counts():
    """Width 256 and half-wide units give the 8.4 and 2.4 million of the paper (spec c.1)."""
    for width, millions in ((32, 8.4), (16, 2.4)):
        config = SoundStreamConfig(base_channels=width, halves_hidden=True)
        shapes = jax.eval_shape(lambda key, c=config: init_params(c, key), jax.random.key(0))
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        assert count / 1e6 == pytest.approx(millions, abs=0.15)


def test_init_draws_kernels_of_variance_one_over_fan_in():
    config = SoundStreamConfig(base_channels=16, strides=(4,), latent_dim=16)
    params = init_params(config, jax.random.key(0))
    model = SoundStream(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4)))
    assert jax.tree.structure(params) == jax.tree.structure(shapes["params"])
    for layer, fan_in in (("first", 7 * 16), ("block_0_up", 2 * 32), ("last", 7 * 16)):
        kernel = params["decoder"][layer]["kernel"]
        np.testing.assert_allclose(kernel.std(), fan_in**-0.5, rtol=0.25)
        np.testing.assert_array_equal(params["decoder"][layer]["bias"], 0)


def test_a_clip_of_17_frames_has_106_audio_frames():
    config = SoundStreamConfig(
        base_channels=1, strides=(16, 20), latent_dim=2, num_levels=2, codebook_size=4
    )
    assert config.samples_per_frame == 320
    params = {"params": init_params(config, jax.random.key(0)), "centroids": np.ones((2, 4, 2))}
    tokenizer = AudioTokenizer(config, params, "f", batch_size=1)
    codes = tokenizer.encode(np.zeros((1, 34_000), np.float32))
    assert codes.shape == (1, 2, 106) and codes.dtype == np.int32
    assert tokenizer.decode(codes).shape == (1, 33_920)
    padded = tokenizer.decode(codes, num_samples=34_000)
    assert padded.shape == (1, 34_000)
    np.testing.assert_array_equal(padded[:, 33_920:], 0)


def test_encode_and_decode_are_causal(tokenizer, wave):
    codes = tokenizer.encode(wave)
    assert codes.shape == (5, 2, 10)
    np.testing.assert_array_equal(tokenizer.encode(wave[:, :100]), codes[:, :, :5])
    sound = tokenizer.decode(codes)
    np.testing.assert_allclose(tokenizer.decode(codes[:, :, :5]), sound[:, :100], atol=1e-5)


@pytest.mark.parametrize("plan", [(1,) * 10, (4, 6), (7, 1, 2)])
def test_sound_in_chunks_is_the_whole_sound(tokenizer, wave, plan):
    """The smallest chunks are shorter than what the dilated layers look back on."""
    whole = wave[:, :200]
    cuts = np.cumsum((0, *plan))
    codes = tokenizer.encode(whole)
    pieces = [whole[:, 20 * a : 20 * b] for a, b in itertools.pairwise(cuts)]
    found = list(tokenizer.encode_chunks(pieces))
    assert [piece.shape[2] for piece in found] == list(plan)
    np.testing.assert_array_equal(np.concatenate(found, axis=2), codes)
    heard = tokenizer.decode_chunks(codes[:, :, a:b] for a, b in itertools.pairwise(cuts))
    np.testing.assert_allclose(
        np.concatenate(list(heard), axis=1), tokenizer.decode(codes), atol=1e-5
    )


def test_a_chunk_is_whole_frames(tokenizer, wave):
    with pytest.raises(ValueError, match="Chunk 1 has 30 samples; expected whole frames of 20"):
        list(tokenizer.encode_chunks([wave[:, :20], wave[:, 20:50]]))


def test_it_states_its_geometry_and_licence(tokenizer):
    facts = protocol.describe(tokenizer)
    assert facts["samples_per_frame"] == 20 and facts["sample_rate_hz"] == 16_000
    assert facts["is_causal"] and facts["licence"]


def test_result_does_not_depend_on_the_batch(tokenizer, wave):
    codes = tokenizer.encode(wave)
    np.testing.assert_array_equal(tokenizer.encode(wave[3:4])[0], codes[3])
    np.testing.assert_array_equal(tokenizer.decode(codes[3:4])[0], tokenizer.decode(codes)[3])


def test_refusals_of_sound(tokenizer):
    with pytest.raises(ValueError, match="got nan at sample 7 of sound 1"):
        bad = np.zeros((2, 40), np.float32)
        bad[1, 7] = np.nan
        tokenizer.encode(bad)
    with pytest.raises(ValueError, match="19 samples is shorter than one frame of 20"):
        tokenizer.encode(np.zeros((1, 19), np.float32))
    with pytest.raises(ValueError, match=r"Expected sound of shape .* got \(40,\)"):
        tokenizer.encode(np.zeros(40, np.float32))
    with pytest.raises(ValueError, match="got int16; divide 16-bit samples"):
        tokenizer.encode(np.zeros((1, 40), np.int16))


def test_refusals_of_codes(tokenizer):
    with pytest.raises(ValueError, match=r"Expected codes in \[0, 8\), got 0 to 8"):
        tokenizer.decode(np.array([[[0, 8], [0, 0]]]))
    with pytest.raises(ValueError, match="2 levels, frames"):
        tokenizer.decode(np.zeros((1, 3, 4), np.int32))
    with pytest.raises(ValueError, match="Expected integer codes"):
        tokenizer.decode(np.zeros((1, 2, 4), np.float32))
    with pytest.raises(ValueError, match="codebooks have shape"):
        AudioTokenizer(CONFIG, {"params": {}, "centroids": np.zeros((1, 8, 4))}, "f")


def test_refusals_of_configs():
    with pytest.raises(ValueError, match="num_levels=0 must be at least 1"):
        SoundStreamConfig(num_levels=0)
    with pytest.raises(ValueError, match="strides=.* at least 2"):
        SoundStreamConfig(strides=(2, 1))
    with pytest.raises(ValueError, match="quantizer_dropout=2 is a share"):
        audio_step.AudioLossConfig(quantizer_dropout=2)
    with pytest.raises(ValueError, match="must be multiples of 4"):
        audio_step.AudioLossConfig(mel_window_samples=(30,))


def test_mel_spectrogram_of_a_sine_has_its_amplitude_in_its_bin():
    time_s = jnp.arange(2048) / 16_000
    bins = mel.mel_spectrogram(0.5 * jnp.sin(2 * jnp.pi * 1000 * time_s)[None], 1024, 16_000, 64)
    assert bins.shape == (1, 5, 64)
    # The triangles' centres are even on the mel scale, 2595 log10(1 + f / 700), up to 8 kHz.
    centre = 1000 / (2595 * np.log10(1 + 8000 / 700) / 65) - 1
    assert abs(int(bins[0, 2].argmax()) - centre) <= 1
    assert 0.3 < float(bins[0, 2].max()) < 0.7


def test_mel_distance_is_zero_for_equal_sounds_and_its_gradient_finite():
    def distance(wave):
        return mel.mel_distance(
            wave, jnp.zeros((1, 256)), sample_rate_hz=16_000, window_samples=(64,), floor=1e-5
        )

    value, grad = jax.value_and_grad(distance)(jnp.zeros((1, 256)))
    assert float(value) < 1e-2
    assert bool(jnp.isfinite(grad).all())
    assert float(distance(jnp.ones((1, 256)))) > 1
    with pytest.raises(ValueError, match="256 samples is shorter than the largest mel window"):
        mel.mel_distance(
            jnp.zeros((1, 256)), jnp.zeros((1, 256)), sample_rate_hz=16_000, window_samples=(512,)
        )


def test_reconstruction_loss_adds_its_terms(wave):
    config = audio_step.AudioLossConfig(
        wave_weight=2.0,
        wave_square_weight=10.0,
        pre_emphasis=0.5,
        emphasis_order=2,
        mel_weight=0.1,
        mel_window_samples=(64,),
    )
    target = jnp.asarray(wave)
    loss, measures = audio_step.reconstruction_loss(0.5 * target, target, 16_000, config)
    error = -0.5 * wave
    once = error[:, 1:] - 0.5 * error[:, :-1]
    twice = once[:, 1:] - 0.5 * once[:, :-1]
    want = 2 * abs(twice).mean() + 10 * (twice**2).mean()
    np.testing.assert_allclose(measures["wave"], want, rtol=1e-4)
    np.testing.assert_allclose(loss, want + 0.1 * measures["mel"], rtol=1e-4)
    np.testing.assert_allclose(measures["snr_db"], 20 * np.log10(2), rtol=1e-3)


def test_loud_crops_can_be_preferred(wave):
    quiet = wave.copy()
    quiet[:, 30:] *= 0.1  # only the first crops hold loud samples
    plain, loud = (
        audio_step.crops_at(
            quiet[1:], 0, seed=0, batch_size=16, crop_samples=20, num_candidates=count
        )
        for count in (1, 8)
    )
    assert abs(loud).max(axis=1).mean() > 1.5 * abs(plain).max(axis=1).mean()


def test_crops_are_a_function_of_seed_and_step(wave):
    crops = functools.partial(audio_step.crops_at, wave, seed=3, batch_size=4, crop_samples=100)
    np.testing.assert_array_equal(crops(5), crops(5))
    assert (crops(5) != crops(6)).any()
    first = np.concatenate([crops(step, grid_samples=20)[:, 0] for step in range(9)])
    assert set(first) <= set(wave[:, :120:20].ravel())
    with pytest.raises(ValueError, match="300 samples does not fit into sounds of 207"):
        audio_step.crops_at(wave, 0, seed=0, batch_size=1, crop_samples=300)


@pytest.fixture(scope="module")
def trained(wave):
    """Twelve steps on tones, with what each measured."""
    tx = optax.adam(1e-2)
    step = jax.jit(audio_step.make_step(CONFIG, LOSS, tx))
    states, measured = [audio_step.init(jax.random.key(0), CONFIG, tx)], []
    for _ in range(12):
        state, measures = step(states[-1], wave[1:, :200], jax.random.key(1))
        states.append(state)
        measured.append(jax.device_get(measures))
    return step, states, measured


def test_training_learns_and_measures(trained):
    _, states, measured = trained
    assert measured[-1]["loss"] < measured[0]["loss"]
    assert bool(states[1].extra.is_started)
    for name in ("loss", "mel", "wave", "snr_db", "commitment", "grad_norm"):
        assert np.isfinite(measured[-1][name]), name
    for level in range(2):
        assert 1 <= measured[-1][f"codes_used_{level}"] <= 8


def test_a_resumed_step_is_the_same_step(trained, wave):
    step, states, _ = trained
    # Through numpy, as a checkpoint would.
    copied = jax.tree.map(jnp.asarray, jax.device_get(states[6]))
    again, _ = step(copied, wave[1:, :200], jax.random.key(1))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(states[7]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_trained_state_becomes_a_tokenizer_on_disk(trained, wave, tmp_path):
    _, states, _ = trained
    params = audio.tokenizer_params(states[-1])
    digest = protocol.save(tmp_path / "audio", audio.KIND, CONFIG, params)
    tokenizer = protocol.load(tmp_path / "audio")
    assert tokenizer.config == CONFIG and tokenizer.fingerprint == digest
    codes = tokenizer.encode(wave)
    sound = tokenizer.decode(codes)
    assert sound.shape == (5, 200)
    assert np.isfinite(sound).all() and abs(sound).max() <= 1
    direct = audio.encode(CONFIG, params, jnp.asarray(wave[:, :200]))
    np.testing.assert_array_equal(codes, direct)
