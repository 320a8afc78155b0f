import os
import pathlib

import numpy as np
import pytest

from poet.evals import onsets

RATE = onsets.SAMPLE_RATE_HZ


def bursts(times_s, duration_s=4.0, level=0.5):
    """Tones of 50 ms that begin at the given times."""
    clock_s = np.arange(round(duration_s * RATE)) / RATE
    sound = np.zeros(len(clock_s))
    for time_s in times_s:
        since_s = clock_s - time_s
        is_on = (since_s >= 0) & (since_s < 0.05)
        sound += is_on * level * np.sin(2 * np.pi * 1000 * since_s)
    return sound.astype(np.float32)


def test_bursts_are_heard_where_they_begin():
    times_s = [0.3, 0.71, 1.5, 1.9, 3.2]
    found = onsets.onset_agreement(onsets.onset_times_s(bursts(times_s)), times_s, tolerance_s=0.04)
    assert (found.num_found, found.num_matched) == (5, 5)


def test_level_does_not_count_and_silence_has_none():
    quiet = onsets.onset_times_s(bursts([0.5, 1.5], level=0.05))
    np.testing.assert_array_equal(quiet, onsets.onset_times_s(bursts([0.5, 1.5], level=0.5)))
    assert len(onsets.onset_times_s(np.zeros(RATE, np.float32))) == 0
    assert len(onsets.onset_times_s(np.zeros(0, np.float32))) == 0


def test_strength_rises_only_and_has_a_frame_each_hop():
    strength = onsets.onset_strength(bursts([0.5], duration_s=1.0))
    assert strength.shape == (1 + RATE // onsets.HOP,)
    assert strength.min() == 0.0 and not strength[:3].any()
    # A tone that goes on adds nothing after its beginning.
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    steady = onsets.onset_strength(tone)
    assert steady[8:-4].max() < 0.02 * steady.max()


def test_agreement_counts_each_onset_once():
    found = onsets.onset_agreement([0.49, 0.5, 0.51, 2.0], [0.5, 1.0], tolerance_s=0.05)
    assert (found.num_matched, found.num_found, found.num_expected) == (1, 4, 2)
    assert (found.precision, found.recall) == (0.25, 0.5)
    assert found.f1 == pytest.approx(1 / 3)
    # A greedy match of nearest times would pair 0.06 with 0.05 and lose one.
    pairs = onsets.onset_agreement([0.0, 0.06], [0.05, 0.11], tolerance_s=0.051)
    assert pairs.f1 == 1.0


def test_nothing_agrees_with_nothing_at_0():
    for found, expected in (([], []), ([], [1.0]), ([1.0], [])):
        agreement = onsets.onset_agreement(found, expected, tolerance_s=0.05)
        assert (agreement.f1, agreement.precision, agreement.recall) == (0.0, 0.0, 0.0)
        assert (agreement.num_found, agreement.num_expected) == (len(found), len(expected))


def test_refusals():
    with pytest.raises(ValueError, match="tolerance of 0 s or more, got -1"):
        onsets.onset_agreement([], [], tolerance_s=-1)
    with pytest.raises(ValueError, match="Expected finite times"):
        onsets.onset_agreement([np.nan], [], tolerance_s=0.1)
    with pytest.raises(ValueError, match="Expected finite samples"):
        onsets.onset_times_s(np.full(RATE, np.nan))


@pytest.fixture(scope="module")
def beeps():
    """The sound of a real clip whose beeps begin at 0.04 + 0.5 k s, k = 0..19."""
    from poet.media import sound

    folder = pathlib.Path(__file__).resolve().parents[3] / "shared" / "clips"
    path = pathlib.Path(os.environ.get("POET_CLIPS", folder)) / "smpte_counter_beep.mp4"
    if not path.is_file():
        pytest.skip(f"no real clip at {path} (set POET_CLIPS)")
    return sound.read_sound(path, RATE)


def test_beeps_of_a_real_clip(beeps):
    expected_s = 0.04 + 0.5 * np.arange(20)
    found_s = onsets.onset_times_s(beeps)
    agreement = onsets.onset_agreement(found_s, expected_s, tolerance_s=0.04)
    assert agreement.recall == 1.0, found_s
    assert agreement.f1 == 1.0, found_s
