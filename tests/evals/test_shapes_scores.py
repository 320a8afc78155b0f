"""Scores: worked numbers, intervals, clicks, chance and shuffling."""

import dataclasses

import numpy as np
import pytest

from poet.evals import shapes_scores
from poet.shapes_world import checker, render, sampling, world


def spec_of(**changes):
    values = dict(
        shape="square", colour="cyan", motion="right", speed="slow", start_x=0.5, start_y=0.5
    )
    return world.ClipSpec(**(values | changes))


def finding_of(spec, **changes):
    """A finding that agrees with `spec` in everything, but for `changes`."""
    times_s = world.frame_times_s()
    values = dict(
        shape=spec.shape,
        colour=spec.colour,
        motion=spec.motion,
        speed=spec.speed,
        reason="",
        centres=np.stack(world.centre_at(spec, times_s), axis=1),
        half_extents=world.half_extent_at(spec, times_s),
        overlap=1.0,
        rms_w=0.0,
        speed_w_per_s=world.SPEED_W_PER_S.get(spec.speed, 0.0),
        hit_times_s=world.hit_times_s(spec),
        pitch_hz=world.PITCH_HZ[spec.colour],
        colour_heard=spec.colour,
        click_times_s=world.hit_times_s(spec),
    )
    return checker.Finding(**(values | changes))


def values(scores):
    return {name: score["value"] for name, score in scores.items()}


def test_perfect_clips_score_one():
    specs = sampling.sample_clips(0, "held_out", 48)
    scores = shapes_scores.score_generated(specs, [finding_of(spec) for spec in specs])
    assert set(values(scores).values()) == {1.0}
    assert scores["shape_accuracy"]["clips"] == 48
    assert scores["speed_accuracy"]["clips"] == 32


def test_each_fault_lowers_its_own_scores():
    specs = [spec_of() for _ in range(4)]
    findings = [
        finding_of(specs[0], shape="circle"),
        finding_of(specs[1], colour="red"),
        finding_of(specs[2], motion="left", speed="fast"),
        finding_of(specs[3], colour_heard="none", pitch_hz=None),
    ]
    assert values(shapes_scores.score_generated(specs, findings)) == {
        "shape_accuracy": 0.75,
        "colour_accuracy": 0.75,
        "direction_accuracy": 0.75,
        "all_three_accuracy": 0.25,
        "pitch_accuracy": 0.75,
        "speed_accuracy": 0.75,
        "sound_picture_agreement": 0.5,
        "click_f1": 1.0,
    }


def test_a_silent_blank_clip_agrees_with_nothing():
    none = dict.fromkeys(("shape", "colour", "motion", "speed", "colour_heard"), "none")
    blank = finding_of(spec_of(), **none, hit_times_s=(), click_times_s=(), pitch_hz=None)
    scores = values(shapes_scores.score_generated([spec_of()], [blank]))
    assert set(scores.values()) == {0.0}


@pytest.mark.parametrize(
    ("hits", "clicks", "f1"),
    [
        ((0.6, 1.4), (0.65, 1.36), 1.0),
        ((0.6, 1.4), (0.6,), 2 / 3),
        ((0.6,), (0.6, 1.0), 2 / 3),
        ((0.6,), (0.67,), 0.0),
        ((0.6,), (0.55, 0.65), 2 / 3),
        ((), (0.6,), 0.0),
        # Nearest first: 1.00 takes 1.02 and leaves 1.05 to nothing else in reach.
        ((1.0, 1.1), (1.02, 1.05), 1.0),
        # On which side of the end a hit falls cannot be seen.
        ((0.6, 1.99), (0.6,), 1.0),
        ((0.6,), (0.6, 2.01), 1.0),
    ],
)
def test_click_f1_by_hand(hits, clicks, f1):
    finding = finding_of(spec_of(), hit_times_s=hits, click_times_s=clicks)
    assert shapes_scores.click_f1([finding])["value"] == pytest.approx(f1)


def test_click_f1_is_pooled_with_an_interval_around_it():
    good = finding_of(spec_of(), hit_times_s=(1.0,), click_times_s=(1.0,))
    bad = finding_of(spec_of(), hit_times_s=(1.0,), click_times_s=())
    score = shapes_scores.click_f1([good] * 30 + [bad] * 10)
    assert score["value"] == pytest.approx(60 / 70)
    assert 0.7 < score["low"] < score["value"] < score["high"] < 0.97


def test_wilson_interval_of_a_known_case():
    score = shapes_scores.proportion([True] * 9 + [False])
    assert score["value"] == 0.9
    assert score["low"] == pytest.approx(0.5958, abs=1e-4)
    assert score["high"] == pytest.approx(0.9821, abs=1e-4)
    assert shapes_scores.proportion([True] * 10)["high"] == 1.0


def test_continuations_count_clips_in_bounds():
    specs = [spec_of(), spec_of(start_x=0.3)]
    late = finding_of(specs[1])
    late.centres[12, 0] += 0.051
    scores = shapes_scores.score_continuations(specs, [finding_of(specs[0]), late])
    assert scores["continuation_in_bounds"]["value"] == 0.5


def test_psnr_by_hand_and_inside_the_box():
    spec = spec_of(motion="still", speed="none")
    original = render.render_frames(spec, 32).astype(np.float32) / 255
    in_box = render.box_mask(spec, 32)
    worse = original + np.float32(0.1) * in_box[..., None]
    area = in_box.mean()
    assert shapes_scores.psnr_in_box_db(spec, original, worse) == pytest.approx(20, abs=1e-3)
    assert shapes_scores.psnr_db(original, worse) == pytest.approx(
        20 - 10 * np.log10(area), abs=1e-3
    )
    scores = shapes_scores.score_reconstructions([spec] * 2, [original] * 2, [original, worse])
    assert scores["reconstruction_psnr_in_box_db"]["value"] == pytest.approx(60, abs=1e-3)
    assert scores["reconstruction_psnr_db"]["clips"] == 2


def test_the_checker_is_scored_on_clips_of_known_law():
    specs = sampling.sample_clips(0, "validation", 4)
    findings = [checker.check(*render.render_clip(spec, 32)) for spec in specs]
    findings[0] = dataclasses.replace(findings[0], speed="none", motion="none")
    scores = values(shapes_scores.score_checker(specs, findings, "rendered"))
    assert scores == {"checker_accuracy_rendered": 0.75, "checker_sound_accuracy_rendered": 1.0}


def test_chance_and_shuffled_prompts():
    specs = sampling.sample_clips(0, "validation", 120)
    shuffled = shapes_scores.shuffled_scores(specs, [finding_of(spec) for spec in specs])
    chance = shapes_scores.chance_levels()
    assert chance["direction_accuracy"] == chance["colour_accuracy"] == 1 / 6
    for name, level in chance.items():
        assert shuffled[name] == pytest.approx(level, abs=0.015)


def test_scores_without_clips_are_refused():
    spec = spec_of()
    with pytest.raises(ValueError, match="got 1 prompts and 0 clips"):
        shapes_scores.score_generated([spec], [])
    with pytest.raises(ValueError, match="got 0 prompts"):
        shapes_scores.score_continuations([], [])
    with pytest.raises(ValueError, match="at least 2 clips"):
        shapes_scores.shuffled_scores([spec], [finding_of(spec)])
    for score in (shapes_scores.proportion, shapes_scores.mean, shapes_scores.click_f1):
        with pytest.raises(ValueError, match="at least one clip, got none"):
            score([])
    bytes_clip = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="PSNR expects float pixels"):
        shapes_scores._float(bytes_clip)
