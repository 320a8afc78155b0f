"""Every metric on clips whose answer is known."""

import dataclasses

import numpy as np
import pytest

from poet.evals import distance_metrics, metric_weights, metrics, shapes_metrics
from poet.evals.metric import SUMMARIES, Case, Clip
from poet.evals.resampling import values_of
from poet.evals.rows import join_rows
from poet.shapes_world import checker, render, sampling, world

FREE = metrics.weight_free()


def grey(*levels, size=16):
    """A clip of even frames."""
    frames = np.array(levels, np.uint8)[:, None, None, None]
    return np.broadcast_to(frames, (len(levels), size, size, 3)).copy()


def clip_of(frames, **more):
    return Clip(name="a", frames=frames, frames_per_second=8.0, **more)


def value(name, clips, real=None):
    """The metric of these clips; `real` are theirs, one each."""
    metric = FREE[name]
    cases = [Case(clip=clip, real=real and real[n]) for n, clip in enumerate(clips)]
    rows = join_rows(metric.source.rows(cases))
    truth = None
    if "real" in metric.source.sides:
        truth = join_rows(metric.source.rows([Case(clip=clip) for clip in real]))
    groups = [(np.arange(len(real or [])), np.arange(len(clips)))]
    return values_of(metric.summary, truth, rows, groups)[0]


@pytest.mark.parametrize(
    ("name", "real", "made", "want"),
    [
        # A step of 51 of 255 is 0.2: 10 log10(1 / 0.04) dB.
        ("psnr", grey(0, 0), grey(51, 51), 13.9794),
        ("psnr", grey(7, 9), grey(7, 9), 100.0),
        # The mean of 13.98 and 100 dB, not the dB of the mean error.
        ("psnr", grey(0, 0), grey(51, 0), 56.9897),
        ("ssim", grey(0), grey(255), 9.9990001e-5),
        ("ssim", grey(80), grey(80), 1.0),
        ("temporal_flickering", None, grey(0, 51, 0), 0.8),
        ("temporal_flickering", None, grey(9, 9), 1.0),
        # Nothing moves in the real clip, so each frame should be the one before.
        ("warp_error", grey(5, 5, 5), grey(0, 51, 51), 0.02),
        ("flow_error", grey(5, 5, 5), grey(8, 8, 8), 0.0),
    ],
)
def test_pictures_by_hand(name, real, made, want):
    clips = None if real is None else [clip_of(real)]
    assert value(name, [clip_of(made)], clips) == pytest.approx(want, rel=1e-5, abs=1e-12)


@pytest.fixture(scope="module")
def rendered():
    """Seven clips of the shapes world as they are drawn, the last one still."""
    specs = sampling.sample_clips(0, "held_out", 24)
    clips = []
    for spec in [*specs[:6], next(spec for spec in specs if spec.motion == "still")]:
        frames, sound = render.render_clip(spec, 32)
        slow = np.interp(np.arange(0, len(sound), 16_000 / 22_050), np.arange(len(sound)), sound)
        clips.append(clip_of(frames, sounds={16_000: sound, 22_050: slow}, spec=spec))
    return clips


def test_true_clips_of_the_shapes_world_are_right_in_everything(rendered):
    for name in metrics.choose(["shapes"]):
        if name.is_share or name.name == "shapes_clicks":
            assert value(name.name, rendered, rendered) == 1.0, name.name
    assert value("frechet_shapes", rendered, rendered) == pytest.approx(0, abs=1e-12)
    assert value("onset_agreement", rendered, rendered) == 1.0
    assert abs(value("shapes_drift", rendered, rendered)) < 1e-3


def test_another_clips_words_are_wrong(rendered):
    """Each clip is asked after the next one's words; chance agreement is counted by hand."""
    specs = [clip.spec for clip in rendered]
    others = [*specs[1:], specs[0]]
    asked = [dataclasses.replace(c, spec=o) for c, o in zip(rendered, others, strict=True)]
    for name, word in (("shapes_shape", "shape"), ("shapes_colour", "colour")):
        want = np.mean(
            [getattr(a, word) == getattr(b, word) for a, b in zip(specs, others, strict=True)]
        )
        assert value(name, asked, rendered) == pytest.approx(want)
    moving = [(a, b) for a, b in zip(specs, others, strict=True) if b.motion in world.DIRECTIONS]
    want = np.mean([a.speed == b.speed for a, b in moving])
    assert value("shapes_speed", asked, rendered) == pytest.approx(want)
    # What does not hang on words stays.
    assert value("shapes_law", asked, rendered) == value("shapes_sound_picture", asked) == 1.0
    assert value("shapes_continuation", asked, rendered) < 1.0


def test_a_shape_that_becomes_another_is_not_kept(rendered):
    first = rendered[-1]
    colours = [name for name in world.COLOURS if name != first.spec.colour]
    other = render.render_frames(dataclasses.replace(first.spec, colour=colours[0]), 32)
    frames = np.concatenate([first.frames[:9], other[9:]])
    changed = dataclasses.replace(first, frames=frames)
    assert value("shapes_kept", [changed, first]) == 0.5
    assert value("shapes_law", [changed]) == 0.0


def test_drift_is_the_growing_distance_from_the_law(rendered):
    still = rendered[-1]
    spec = dataclasses.replace(still.spec, start_x=0.5, start_y=0.5)
    gone = dataclasses.replace(spec, start_x=0.75)
    frames = np.concatenate([render.render_frames(s, 32)[:8] for s in (spec, gone)])
    clip = dataclasses.replace(still, frames=frames, spec=spec)
    assert value("shapes_drift", [clip]) == pytest.approx(0.25, abs=0.01)
    # Nothing to be seen at the end: the clip does not count.
    frames = np.concatenate([frames[:8], grey(*[24] * 8, size=32)])
    assert np.isnan(value("shapes_drift", [dataclasses.replace(clip, frames=frames)]))


def test_factors_are_what_was_drawn():
    spec = world.ClipSpec(
        shape="square", colour="cyan", motion="left", speed="slow", start_x=0.75, start_y=0.5
    )
    found = shapes_metrics.factors(checker.check(render.render_frames(spec, 64)))
    places = [[0.75 - 0.125 * n, 0.5, 0.1875] for n in range(5)]
    want = [*np.ravel(places), 1, 1, 1, 1, 1, 0, 1, 1, -0.25, 0]
    np.testing.assert_allclose(found, want, atol=0.01)
    nothing = shapes_metrics.factors(checker.check(grey(*[24] * 17, size=32)))
    np.testing.assert_array_equal(nothing, np.zeros(25))


@pytest.mark.parametrize("summary", ["frechet", "kernel"])
@pytest.mark.parametrize("toy", ["pixels", "frames", "changes"])
def test_toys_see_what_they_should(summary, toy):
    """All see other pictures; only the mean frame misses another order of them."""
    name = f"{'frechet' if summary == 'frechet' else 'kvd'}_toy_{toy}"
    draw = np.random.default_rng(0)
    real = [clip_of(draw.integers(0, 90, (4, 64, 64, 3), np.uint8)) for _ in range(20)]
    again = [clip_of(draw.integers(0, 90, (4, 64, 64, 3), np.uint8)) for _ in range(20)]
    light = [clip_of(clip.frames * 2) for clip in again]
    assert value(name, light, real) > 5 * abs(value(name, again, real))
    turned = [dataclasses.replace(clip, frames=clip.frames[[1, 3, 0, 2]]) for clip in real]
    moved = abs(value(name, turned, real) - value(name, real, real))
    assert moved == 0 if toy == "frames" else moved > 0


def test_toys_see_clips_at_one_size():
    draw = np.random.default_rng(0)
    clips = draw.integers(0, 256, (2, 3, 128, 128, 3), np.uint8)
    squashed = distance_metrics.Squashed(inner=distance_metrics._TOYS["pixels"][0])
    # TensorFlow 1's grid takes every second pixel.
    np.testing.assert_array_equal(
        squashed.features(clips), squashed.features(clips[:, :, ::2, ::2])
    )


def test_fad_hears_another_sound_and_needs_a_second():
    draw = np.random.default_rng(0)
    noise = [clip_of(grey(0), sounds={16_000: 0.1 * draw.standard_normal(40_000)}) for _ in "abc"]
    tone = 0.1 * np.sin(np.arange(40_000) / 9)
    tones = [clip_of(grey(0), sounds={16_000: tone + 0.01 * n}) for n in range(3)]
    assert value("fad_toy", noise, noise) == pytest.approx(0, abs=1e-9)
    assert value("fad_toy", tones, noise) > 0.1
    short = clip_of(grey(0), sounds={16_000: np.zeros(9_000)})
    (rows,) = FREE["fad_toy"].source.rows([Case(clip=short)])
    assert len(rows) == 0


def test_inception_score_of_known_logits():
    logits = np.log(np.array([[0.9, 0.1], [0.1, 0.9]]))
    assert SUMMARIES["inception"](None, logits) == pytest.approx(1.4449348)


def test_names_and_families():
    names = [metric.name for metric in metrics.choose(["shapes", "psnr", "psnr"])]
    assert names[0] == "psnr" and len(names) == len(set(names)) > 10
    assert len(metrics.choose(["frechet_toy"])) == 3
    free = metrics.choose(["all"])
    assert len({metric.protocol for metric in free}) == len(free)
    with pytest.raises(ValueError, match="Expected metrics among all, .*, fad; got psrn"):
        metrics.choose(["psrn"])
    with pytest.raises(ValueError, match="at least 1 clip, got batch_size=0"):
        metrics.choose(["psnr"], batch_size=0)


@pytest.mark.parametrize(
    ("name", "file"),
    [("fvd", "i3d_torchscript.pt"), ("is", "conv3d_deepnetA_ucf.npz"), ("fad", "vggish_model")],
)
def test_a_network_without_weights_says_what_to_get(name, file):
    with pytest.raises(ValueError, match=f"{name} needs the weights of .*{file}.* pass --weights"):
        metrics.choose([name])


def test_wrong_weights_are_refused(tmp_path):
    facts = {"kind": "vggish", "source": "x", "source_sha256": "0" * 64}
    metric_weights.save(tmp_path / "v.npz", {"a": np.zeros(2, np.float32)}, facts)
    with pytest.raises(ValueError, match="holds weights of vggish, expected i3d"):
        metrics.choose(["fvd"], {"i3d": tmp_path / "v.npz"})
    with pytest.raises(ValueError, match="has no tensor conv1/.*, which vggish needs"):
        metrics.choose(["fad"], {"vggish": tmp_path / "v.npz"})
    with pytest.raises(ValueError, match="Expected weights of i3d at .*none.npz, found none"):
        metrics.choose(["fvd"], {"i3d": tmp_path / "none.npz"})
    with pytest.raises(ValueError, match="--weights i4d=... is none of i3d"):
        metrics.choose(["psnr"], {"i4d": tmp_path / "v.npz"})


def test_the_checker_knows_one_rate_only():
    clip = Clip(name="a", frames=grey(1, 2, 3, 4, 5, size=32), frames_per_second=25.0)
    with pytest.raises(ValueError, match="knows laws at 8 frames a second, got 25; read"):
        _ = clip.finding
