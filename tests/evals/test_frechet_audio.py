import numpy as np
import pytest

from poet.evals import frechet_audio, mel, toy_features

RATE = frechet_audio.SAMPLE_RATE_HZ


def sine(duration_s, hz=1000.0, level=1.0):
    return level * np.sin(2 * np.pi * hz * np.arange(round(duration_s * RATE)) / RATE)


def test_front_end_of_a_sine():
    frames = frechet_audio.log_mel(sine(3.0))
    assert frames.shape == (298, 64)
    assert frames.mean() == pytest.approx(-3.4296186961400896, rel=1e-9)
    assert frames.std() == pytest.approx(2.1265773357595332, rel=1e-9)
    assert frames.mean(axis=0).argmax() == 19
    examples = frechet_audio.vggish_examples(sine(3.0))
    assert examples.shape == (3, 96, 64)
    np.testing.assert_allclose(examples[1], frames[96:192], rtol=1e-6)


def test_silence_is_the_logarithm_of_the_offset():
    frames = frechet_audio.log_mel(np.zeros(RATE))
    assert frames.shape == (98, 64)
    np.testing.assert_allclose(frames, -4.605170185988091)


def test_windows_of_a_second_every_half():
    samples = sine(2.6, level=0.5)
    windows = frechet_audio.fad_windows(samples)
    assert windows.shape == (4, 16_000)
    np.testing.assert_allclose(windows[1], 2 * samples[8_000:24_000], rtol=1e-5)
    examples = frechet_audio.fad_examples(samples)
    assert examples.shape == (4, 96, 64) and examples.dtype == np.float32
    want = frechet_audio.log_mel(samples[16_000:32_000] / samples.max())[:96]
    np.testing.assert_allclose(examples[2], want, rtol=1e-5)
    assert len(frechet_audio.fad_examples(samples[:16_000])) == 1
    assert frechet_audio.fad_examples(samples[:15_999]).shape == (0, 96, 64)


def test_level_is_raised_tenfold_at_most_and_by_the_largest_sample():
    quiet = sine(1.0, level=0.02)
    np.testing.assert_allclose(frechet_audio.fad_windows(quiet)[0], 10 * quiet)
    lopsided = np.full(RATE, -0.8)
    lopsided[5] = 0.4
    # The largest sample, not the largest magnitude: it may leave [-1, 1].
    assert frechet_audio.fad_windows(lopsided).min() == pytest.approx(-2.0)


def test_filters_peak_at_1_and_leave_out_0_hz():
    filters = mel.mel_filters(
        num_bins=257, sample_rate_hz=RATE, num_mels=64, low_hz=125.0, high_hz=7_500.0
    )
    assert filters.shape == (257, 64) and not filters[0].any()
    assert 0.9 < filters.max() <= 1.0
    # Between the first and the last point the triangles of every bin add up to 1.
    inside = filters[10:230].sum(axis=1)
    np.testing.assert_allclose(inside, 1.0, rtol=1e-9)
    # Sounds outside 125 to 7,500 Hz are not heard.
    assert not filters[:4].any() and not filters[241:].any()


def noisy(level, seed, num_sounds=6):
    draw = np.random.default_rng(seed)
    return [
        sine(2.0, hz=300.0 + 50 * number) * 0.5 + level * draw.standard_normal(2 * RATE)
        for number in range(num_sounds)
    ]


def test_distance_grows_with_noise_and_is_symmetric():
    toy = toy_features.SoundProjection(num_features=4)
    assert isinstance(toy, frechet_audio.SoundExtractor)
    clean = noisy(0.0, 0)
    distances = [
        frechet_audio.frechet_audio_distance(clean, noisy(level, 1), toy)
        for level in (0.0, 0.003, 0.1)
    ]
    assert distances[0] < 1e-9 < distances[1] < distances[2]
    back = frechet_audio.frechet_audio_distance(noisy(0.1, 1), clean, toy)
    assert back == pytest.approx(distances[2], rel=1e-9)


def test_short_sounds_are_counted():
    toy = toy_features.SoundProjection(num_features=4)
    sounds = [sine(0.5), sine(2.0), np.zeros(0), sine(1.0)]
    moments, num_too_short = frechet_audio.sound_moments(iter(sounds), toy)
    assert (moments.count, num_too_short) == (4, 2)
    with pytest.raises(ValueError, match="at least 1 s, got 2 that are shorter"):
        frechet_audio.sound_moments([sine(0.5)] * 2, toy)
    with pytest.raises(ValueError, match="got 1 and 3; give more clips"):
        frechet_audio.frechet_audio_distance([sine(1.0)], [sine(2.0)], toy)
    with pytest.raises(ValueError, match="Expected finite samples"):
        frechet_audio.fad_examples(np.full(RATE, np.inf))
