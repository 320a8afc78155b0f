"""The laws: worked numbers, exact reflection, the held-out pattern."""

import dataclasses
import pathlib

import numpy as np
import pytest

from poet.shapes_world import captions, checker, hearing, motion, picture, render, sampling, world

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "shapes_world.md"


def clip(**changes):
    values = dict(
        shape="circle", colour="red", motion="left", speed="fast", start_x=0.5, start_y=0.5
    )
    return world.ClipSpec(**(values | changes))


def test_a_fast_shape_turns_back_where_one_works_it_out_by_hand():
    spec = clip()
    # 0.5 - 0.1875 = 0.3125 W to the wall at 0.5 W/s, then 0.625 W to the other one.
    assert world.hit_times_s(spec) == pytest.approx((0.625, 1.875))
    x, y = world.centre_at(spec, np.array([0.0, 0.5, 0.625, 1.0, 1.875, 2.0]))
    np.testing.assert_allclose(x, [0.5, 0.25, 0.1875, 0.375, 0.8125, 0.75])
    np.testing.assert_allclose(y, 0.5)
    assert world.hits_wall_after(spec)
    assert not world.hits_wall_after(clip(start_x=0.5, motion="up", speed="slow", start_y=0.4))


@pytest.mark.parametrize("name", world.DIRECTIONS)
def test_directions_agree_with_small_steps(name):
    spec = clip(motion=name, start_x=0.4, start_y=0.6)
    position, speed = np.array([0.4, 0.6]), np.array(world.velocity(spec))
    low, high = world.HALF_EXTENT, 1 - world.HALF_EXTENT
    steps = 20_000
    for _ in range(steps):
        position += speed * world.LAST_FRAME_S / steps
        speed = np.where((position < low) & (speed < 0), -speed, speed)
        speed = np.where((position > high) & (speed > 0), -speed, speed)
    np.testing.assert_allclose(position, world.centre_at(spec, world.LAST_FRAME_S), atol=1e-3)


def test_growing_and_still():
    growing = clip(motion="growing", speed="none")
    np.testing.assert_allclose(
        world.half_extent_at(growing, [0, 1, 2, 2.1]), [0.125, 0.1875, 0.25, 0.25]
    )
    still = clip(motion="still", speed="none", start_x=0.3)
    assert world.centre_at(still, 1.3) == (0.3, 0.5)
    assert world.hit_times_s(still) == ()


def test_every_pair_of_values_occurs_in_training():
    held_out, training = world.combinations(True), world.combinations(False)
    assert (len(held_out), len(training)) == (24, 120)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        pairs = {(combination[first], combination[second]) for combination in training}
        words = (world.SHAPES, world.COLOURS, world.MOTIONS)
        assert len(pairs) == len(words[first]) * len(words[second])
    for index, words in enumerate((world.SHAPES, world.COLOURS, world.MOTIONS)):
        assert {combination[index] for combination in held_out} == set(words)


def test_a_clip_does_not_depend_on_how_many_are_drawn():
    for split in sampling.SPLITS:
        many = sampling.sample_clips(7, split, 30)
        assert many[:5] == sampling.sample_clips(7, split, 5)
        assert many[20:] == sampling.sample_clips(7, split, 10, start=20)
        assert many != sampling.sample_clips(8, split, 30)


def test_splits_keep_to_their_combinations():
    for split in sampling.SPLITS:
        specs = sampling.sample_clips(0, split, 240)
        seen = {(spec.shape, spec.colour, spec.motion) for spec in specs}
        assert seen <= set(world.combinations(split == "held_out"))
        if split != "train":
            assert seen == set(world.combinations(split == "held_out"))
    firsts = sampling.sample_clips(0, "held_out", 24)
    assert len({(spec.shape, spec.colour, spec.motion) for spec in firsts}) == 24
    train = {(s.start_x, s.start_y) for s in sampling.sample_clips(0, "train", 240)}
    assert not train & {(s.start_x, s.start_y) for s in sampling.sample_clips(0, "validation", 240)}


def test_sampled_hits_are_late_enough_and_clear_of_the_end():
    specs = sampling.sample_clips(1, "train", 1500)
    hits = [hit_s for spec in specs for hit_s in world.hit_times_s(spec)]
    assert min(hits) >= world.FIRST_HIT_S
    assert max(hits) <= world.LAST_FRAME_S - world.END_MARGIN_S
    assert np.mean([world.hits_wall_after(spec) for spec in specs]) > 1 / 3
    speeds = [spec.speed for spec in specs]
    assert abs(speeds.count("slow") - speeds.count("fast")) < 100


def test_captions_name_every_attribute_and_fit():
    captions_seen = set()
    for spec in sampling.sample_clips(2, "train", 1000):
        words = spec.caption.replace(",", "").split()
        assert spec.caption.isascii() and len(spec.caption) <= captions.MAX_CAPTION_CHARACTERS
        assert words.count(spec.colour) == words.count(spec.shape) == 1
        assert sum(word in world.COLOURS + world.SHAPES for word in words) == 2
        said = [m for m in world.MOTIONS if m in words]
        if spec.motion == "growing":
            assert not said or said == ["growing"]
            assert "grow" in spec.caption
        else:
            assert said == [spec.motion]
        if spec.speed != "none":
            other = {"slow": {"fast", "quickly"}, "fast": {"slow", "slowly"}}[spec.speed]
            assert {"slow": {"slow", "slowly"}, "fast": {"fast", "quickly"}}[spec.speed] & set(
                words
            )
            assert not other & set(words)
        captions_seen.add(spec.caption)
    assert len(captions_seen) > 500
    assert all(len(templates) >= 5 for templates in captions.TEMPLATES.values())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shape": "star"}, "shape of a 'left' clip must be one of circle"),
        ({"speed": "none"}, "speed of a 'left' clip must be one of slow, fast"),
        ({"motion": "still"}, "speed of a 'still' clip must be one of none"),
        ({"start_x": 0.1}, "must start with its centre in"),
        ({"motion": "growing", "speed": "none", "start_y": 0.8}, "centre in .0.25, 0.75."),
    ],
)
def test_unlawful_clips_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        clip(**changes)


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="split must be one of train"):
        sampling.sample_clips(0, "test", 1)
    with pytest.raises(ValueError, match="0 or more, got -1"):
        sampling.sample_clips(-1, "train", 1)


def document_rows():
    rows = {}
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows[cells[0]] = cells[1:]
    return rows


def numbers(text):
    return tuple(float(word) for word in text.split() if word[0].isdigit())


def test_the_document_states_the_laws_of_the_code():
    rows = document_rows()
    for colour in world.COLOURS:
        assert numbers(rows[colour][0]) == world.colour_rgb(colour)
        assert numbers(rows[colour][1]) == (world.PITCH_HZ[colour],)
    for shape in world.SHAPES:
        drawn = render.coverage(shape, [0.5], [0.5], [0.25], 64).sum() / 32**2
        assert float(rows[shape][1]) == pytest.approx(drawn, abs=2e-3)
    values = {
        "frames": world.NUM_FRAMES,
        "frames per second": world.FRAMES_PER_SECOND,
        "time of the last frame": world.LAST_FRAME_S,
        "sound samples": world.NUM_SAMPLES,
        "sample rate": world.SAMPLE_RATE_HZ,
        "half extent r": world.HALF_EXTENT,
        "growing, first half extent": world.GROWING_HALF_EXTENTS[0],
        "growing, last half extent": world.GROWING_HALF_EXTENTS[1],
        "slow": world.SPEED_W_PER_S["slow"],
        "fast": world.SPEED_W_PER_S["fast"],
        "tone amplitude": render.PITCH_AMPLITUDE,
        "click amplitude": render.CLICK_AMPLITUDE,
        "click frequency": render.CLICK_HZ,
        "click decay time": render.CLICK_DECAY_S,
        "click length": render.CLICK_S,
    }
    for name, value in values.items():
        assert numbers(rows[name][0]) == (value,), name
    assert numbers(rows["background RGB"][0]) == world.BACKGROUND_RGB


def test_the_document_states_every_threshold_of_the_checker():
    rows = document_rows()
    documented = {name for name in rows if name.isupper()}
    for module in (picture, motion, hearing, checker):
        for name, value in vars(module).items():
            if name.isupper() and not name.startswith("_") and name != "BLURS_W":
                wanted = value if isinstance(value, tuple) else (value,)
                assert numbers(rows[name][0]) == wanted, name
                documented.discard(name)
    assert not documented


def test_specs_are_values():
    assert dataclasses.replace(clip(), colour="blue") == clip(colour="blue")
