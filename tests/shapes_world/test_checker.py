"""The checker: right on rendered and degraded clips, "none" on what is not one lawful shape."""

import dataclasses

import numpy as np
import pytest

from poet.shapes_world import checker, hearing, picture, render, sampling, world

PICTURE_WORDS = ("shape", "colour", "motion", "speed")


@pytest.fixture(scope="module")
def clips():
    """(spec, frames at 32 px, sound) of 48 clips, training and held-out combinations."""
    specs = sampling.sample_clips(11, "train", 24) + sampling.sample_clips(11, "held_out", 24)
    return [(spec, *render.render_clip(spec, 32)) for spec in specs]


def blurred(frames, sigma_px):
    size = frames.shape[1]
    distance = np.arange(size)[:, None] - np.arange(size)
    weights = np.exp(-0.5 * (distance / sigma_px) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    channels = np.moveaxis(frames.astype(np.float64), -1, 1)
    return np.moveaxis(weights @ channels @ weights.T, 1, -1)


def as_bytes(pixels):
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def says_none(finding):
    return all(getattr(finding, name) == "none" for name in PICTURE_WORDS)


def test_rendered_clips_are_read_exactly(clips):
    for spec, frames, sound in clips:
        finding = checker.check(frames, sound)
        assert checker.picture_agrees(finding, spec), (spec, finding)
        assert checker.sound_agrees(finding, spec), (spec, finding)
        assert finding.reason == "" and finding.overlap > 0.9
        law = np.stack(world.centre_at(spec, world.frame_times_s()), axis=1)
        np.testing.assert_allclose(finding.centres, law, atol=0.005)
        np.testing.assert_allclose(finding.hit_times_s, world.hit_times_s(spec), atol=0.04)
        if spec.motion in world.DIRECTIONS:
            speed = world.SPEED_W_PER_S[spec.speed]
            assert finding.speed_w_per_s == pytest.approx(speed, rel=0.05)
        assert checker.continuation_in_bounds(finding, spec)


def test_blurred_noisy_clips_are_read(clips):
    rng = np.random.default_rng(0)
    for spec, frames, _ in clips[::2]:
        worse = as_bytes(blurred(frames, 1.0) + rng.normal(0, 12, frames.shape))
        error = (worse.astype(float) - frames) ** 2
        assert -10 * np.log10(error.mean() / 255**2) < 26
        assert checker.picture_agrees(checker.check(worse), spec), spec


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_whole_enlargements_change_nothing(clips, factor):
    for spec, frames, _ in clips[:6]:
        enlarged = frames.repeat(factor, axis=1).repeat(factor, axis=2)
        assert checker.picture_agrees(checker.check(enlarged), spec)


def test_noise_and_blank_are_none():
    rng = np.random.default_rng(0)
    shape = (17, 32, 32, 3)
    pictures = [
        rng.integers(0, 256, shape),
        24 + rng.normal(0, 40, shape),
        128 + rng.normal(0, 60, shape),
        rng.integers(0, 256, (17, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2),
        np.full(shape, 24),
        np.full(shape, 0),
        np.full(shape, 255),
        np.full(shape, (232, 24, 24)),
    ]
    for pixels in pictures:
        finding = checker.check(as_bytes(pixels))
        assert says_none(finding) and finding.reason


def test_a_shape_missing_in_any_frame_is_none(clips):
    for frame, (_, frames, _) in enumerate(clips[:17]):
        gap = frames.copy()
        gap[frame] = 24
        finding = checker.check(gap)
        assert says_none(finding)
        assert np.isnan(finding.centres[frame]).all()
        assert np.isfinite(np.delete(finding.centres, frame, axis=0)).all()
        assert f"frame {frame} holds no shape" in finding.reason or frame == 0


def test_two_shapes_are_none(clips):
    num_apart = 0
    for (first, ours, _), (second, theirs, _) in zip(clips[::2], clips[1::2], strict=True):
        both = np.where((theirs != 24).any(axis=-1, keepdims=True), theirs, ours)
        same_colour = render.render_frames(dataclasses.replace(second, colour=first.colour), 32)
        times_s = world.frame_times_s()
        distance = np.abs(
            np.subtract(world.centre_at(first, times_s), world.centre_at(second, times_s))
        ).max()
        if distance > 0.45:
            num_apart += 1
            assert says_none(checker.check(both)), (first, second)
            assert says_none(checker.check(np.maximum(ours, same_colour))), (first, second)
    assert num_apart >= 8


def test_foreign_colours_and_motions_have_no_name():
    spec = world.ClipSpec(shape="circle", colour="red", motion="still", start_x=0.5, start_y=0.5)
    covered = render.coverage("circle", [0.5] * 17, [0.5] * 17, [world.HALF_EXTENT] * 17, 32)
    white = checker.check(as_bytes(24 + covered[..., None] * np.array([208, 208, 208])))
    assert (white.shape, white.colour, white.motion) == ("circle", "none", "still")
    orange = checker.check(as_bytes(24 + covered[..., None] * np.array([208, 83, 0])))
    assert orange.colour == "none"
    frames = render.render_frames(spec, 32)
    jumping = np.where(np.arange(17)[:, None, None, None] % 2, np.roll(frames, 8, axis=2), frames)
    finding = checker.check(jumping)
    assert (finding.shape, finding.colour, finding.motion) == ("circle", "red", "none")
    assert finding.hit_times_s == ()


def test_an_image_has_shape_and_colour_but_no_motion(clips):
    spec, frames, _ = clips[0]
    finding = checker.check(frames[:1])
    assert (finding.shape, finding.colour) == (spec.shape, spec.colour)
    assert finding.motion == finding.speed == "none"


def test_sounds_without_a_clear_tone_have_no_pitch():
    rng = np.random.default_rng(0)
    times_s = np.arange(34_000) / 16_000
    tones = sum(np.sin(2 * np.pi * hertz * times_s) for hertz in (300, 550, 900)) * 0.1
    sweep = 0.2 * np.sin(2 * np.pi * (300 + 200 * times_s) * times_s)
    for sound in (rng.normal(0, 0.1, 34_000), 0 * times_s, tones, sweep):
        finding = checker.check(np.full((17, 32, 32, 3), 24, np.uint8), sound.astype(np.float32))
        assert finding.pitch_hz is None and finding.colour_heard == "none"
        assert finding.click_times_s == ()
    between = (0.25 * np.sin(2 * np.pi * 800 * times_s)).astype(np.float32)
    assert hearing.hear_pitch(between) == pytest.approx(800, abs=1)
    assert hearing.name_pitch(hearing.hear_pitch(between)) == "none"


def test_clicks_and_pitch_are_heard_through_noise(clips):
    rng = np.random.default_rng(1)
    for spec, _, sound in clips:
        noisy = (sound + rng.normal(0, 0.06, sound.shape)).astype(np.float32)
        times_s = hearing.hear_clicks(noisy)
        np.testing.assert_allclose(times_s, world.hit_times_s(spec), atol=0.01)
        assert hearing.name_pitch(hearing.hear_pitch(noisy, times_s)) == spec.colour
    assert hearing.hear_clicks(np.zeros(0, np.float32)) == ()


def test_continuations_are_judged_from_the_first_new_frame(clips):
    spec, frames, _ = next(clip for clip in clips if clip[0].motion == "right")
    other = dataclasses.replace(spec, start_x=1 - spec.start_x, motion="left")
    mirrored = render.render_frames(other, 32)
    mixed = np.concatenate([frames[:9], mirrored[9:]])
    assert not checker.continuation_in_bounds(checker.check(mixed), spec)
    mixed = np.concatenate([mirrored[:9], frames[9:]])
    assert checker.continuation_in_bounds(checker.check(mixed), spec)
    gone = frames.copy()
    gone[16] = 24
    assert not checker.continuation_in_bounds(checker.check(gone), spec)
    with pytest.raises(ValueError, match="from_frame must be a frame of the clip, 0 to 8, got 9"):
        checker.continuation_in_bounds(checker.check(frames[:9]), spec)


def test_unfit_frames_are_refused():
    with pytest.raises(ValueError, match="expects uint8 frames"):
        picture._shrink(np.zeros((17, 32, 32, 1), np.uint8))
    with pytest.raises(ValueError, match="square frames of at least 32 px, got 32 x 48"):
        checker.check(np.zeros((17, 32, 48, 3), np.uint8))
    with pytest.raises(ValueError, match="at least one frame"):
        checker.check(np.zeros((0, 32, 32, 3), np.uint8))
