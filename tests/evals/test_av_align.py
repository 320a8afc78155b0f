import numpy as np
import pytest

from poet.evals import av_align, onsets

FPS = 25.0


@pytest.mark.parametrize(
    ("sound_s", "motion_s", "bounded", "published"),
    [
        ([0.5, 1, 1.5], [0.5, 1, 1.5], 1.0, 1.0),
        # Two of three match: P = R = 2/3.
        ([0.5, 1, 1.5], [0.52, 1.1, 1.5], 0.5, 0.5),
        ([0.5], [2.0], 0.0, 0.0),
        # Three onsets at one peak: 3 / (3 + 1 - 3).
        ([0.49, 0.5, 0.51], [0.5], 1.0, 3.0),
        ([0.5], [0.5, 2.0], 0.5, 0.5),
        ([], [], 0.0, 0.0),
        ([], [1.0], 0.0, 0.0),
        ([1.0], [], 0.0, 0.0),
    ],
)
def test_hand_worked_scores(sound_s, motion_s, bounded, published):
    found = av_align.alignment(sound_s, motion_s, FPS)
    assert found.score == pytest.approx(bounded)
    assert (found.num_sound_peaks, found.num_motion_peaks) == (len(sound_s), len(motion_s))
    raw = av_align.alignment(sound_s, motion_s, FPS, form="published")
    assert raw.score == pytest.approx(published)


def test_the_bounded_form_is_symmetric_and_at_most_1():
    draw = np.random.default_rng(0)
    for _ in range(20):
        sides = draw.uniform(0, 2, 7), draw.uniform(0, 2, 5)
        there = av_align.alignment(*sides, FPS).score
        assert there == pytest.approx(av_align.alignment(*sides[::-1], FPS).score)
        assert 0 <= there <= 1


def jumping_pattern(jump_frames, num_frames=30):
    """A textured picture that moves by 3 pixels at the given frames and rests else."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (12, 16, 3)).astype(np.uint8)
    texture = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)
    moved, frames = 0, []
    for number in range(num_frames):
        moved += 3 * (number in jump_frames)
        frames.append(np.roll(texture, moved, axis=1)[:64, :96])
    return np.stack(frames)


def test_motion_and_clicks_at_once_and_apart():
    frames = jumping_pattern({8, 17, 24})
    magnitude = av_align.flow_magnitude_px(frames)
    assert magnitude.shape == (30,)
    assert sorted(np.argsort(magnitude)[-3:]) == [8, 17, 24]
    assert 1.0 < magnitude[17] < 4.0 and magnitude[:8].max() < 0.1
    clock_s = np.arange(round(30 / FPS * onsets.SAMPLE_RATE_HZ)) / onsets.SAMPLE_RATE_HZ
    for delay_s, want in ((0.0, 1.0), (0.16, 0.0)):
        sound = np.zeros(len(clock_s))
        for frame in (8, 17, 24):
            since_s = clock_s - frame / FPS - delay_s
            sound += (since_s >= 0) * np.exp(-80 * np.maximum(0, since_s)) * np.sin(9000 * since_s)
        found = av_align.align_clip(frames, sound / 2, FPS)
        assert (found.num_sound_peaks, found.num_motion_peaks) == (3, 3)
        assert found.score == want


def test_a_still_silent_clip_scores_0_with_its_counts():
    still = np.zeros((5, 32, 32, 3), np.uint8)
    found = av_align.align_clip(still, np.zeros(4410), FPS)
    assert found == av_align.Alignment(score=0.0, num_sound_peaks=0, num_motion_peaks=0)


def test_refusals():
    with pytest.raises(ValueError, match="frame rate above 0, got 0"):
        av_align.alignment([1.0], [1.0], 0)
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        av_align.flow_magnitude_px(np.zeros((1, 32, 32, 3), np.uint8))
