"""Values, intervals, files, tables, and what differs between two results."""

import json

import numpy as np
import pytest

from poet.evals import comparing, folders, measuring, metrics, reading, resampling, results
from poet.evals.rows import Rows, join_rows
from poet.media import images, write


def work_of(real, made, out, names=("psnr",), num_frames=1):
    how = reading.Reading(num_frames=num_frames, height_px=16, width_px=16)
    return measuring.Work(
        folders=folders.pair(real, made),
        metrics=tuple(metrics.choose(list(names))),
        real=how,
        generated=how,
        parts=out / "parts",
    )


def result_of(real, made, out, repeats=1, **more):
    work = work_of(real, made, out, **more)
    measuring.measure(work)
    statistics = resampling.Statistics(repeats=repeats)
    results.write(out, work, measuring.collect(work), statistics, {"generated": made.name})
    return results.read(out / results.RESULT_NAME)


def noise(folder, names, offset=0, seed=0):
    """A picture of noise for each name, brighter by an offset."""
    draw = np.random.default_rng(seed)
    for name in names:
        pixels = draw.integers(50, 150, (16, 16, 3)) + offset
        images.write_image(folder / f"{name}.png", pixels.astype(np.uint8))
    return folder


def flicker(folder, steps, prefix="c"):
    """Clips of two frames that differ by so many levels."""
    for number, step in enumerate(steps):
        for frame, level in enumerate((100, 100 + step)):
            pixels = np.full((16, 16, 3), level, np.uint8)
            images.write_image(folder / f"{prefix}{number:02d}" / f"{frame}.png", pixels)
    return folder


def test_a_mean_with_its_interval_by_hand(tmp_path):
    names = "abcdefgh"
    real = noise(tmp_path / "real", names)
    made = noise(tmp_path / "made", names, offset=10)
    found = result_of(real, made, tmp_path / "out")
    entry = found.facts["metrics"]["psnr"]
    # Every clip is off by 10 levels: no spread between clips, so no interval.
    for what in ("mean", "low", "high"):
        assert entry[what] == pytest.approx(20 * np.log10(25.5))
    assert entry["protocol"] == "psnr/mean-of-frame-dB/at-most-100/1f-at-8fps/16x16-cover-crop"
    assert (entry["num_real"], entry["num_generated"], entry["num_counted"]) == (8, 8, 8)
    assert entry["dtype"] == "float64" and entry["spread"] is None
    assert (
        "| psnr | higher | 28.131 | 28.131 to 28.131 |  | 8 | psnr/mean"
        in (tmp_path / "out" / results.TABLE_NAME).read_text()
    )


def test_the_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(0).standard_normal(400)
    rows = Rows(values=np.stack([values, np.ones(400)], axis=1), counts=np.ones(400, int))
    groups = resampling.groups_of(0, 400, resampling.Statistics())
    draws = resampling.resamples(groups, 0, is_paired=False)
    found = [resampling.values_of("mean", None, rows, next(draws))[0] for _ in range(1000)]
    low, high = resampling.interval_around(values.mean(), np.array(found), "mean")
    want = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - want, abs=0.015)
    assert high == pytest.approx(values.mean() + want, abs=0.015)


def test_clips_of_several_rows_are_drawn_whole():
    rows = join_rows([np.array([[1.0], [2.0]]), np.zeros((0, 0)), np.array([[3.0]])])
    assert rows.counts.tolist() == [2, 0, 1]
    assert rows.take(np.array([2, 0, 1, 2])).ravel().tolist() == [3, 1, 2, 3]


def test_groups_in_order_are_equal_parts_of_the_names():
    statistics = resampling.Statistics(repeats=2, is_in_order=True)
    groups = resampling.groups_of(3, 6, statistics)
    assert [part.tolist() for _, part in groups] == [[0, 1, 2], [3, 4, 5]]
    assert [real.tolist() for real, _ in groups] == [[0, 1, 2]] * 2


def test_pairs_are_drawn_together():
    groups = resampling.groups_of(6, 6, resampling.Statistics(repeats=2, seed=3))
    assert sorted(np.concatenate([made for _, made in groups])) == list(range(6))
    for _, drawn in zip(range(3), resampling.resamples(groups, 0, is_paired=True), strict=False):
        for (real, made), (_, group) in zip(drawn, groups, strict=True):
            assert (real == made).all() and set(made) <= set(group) and len(made) == 3


def test_a_known_difference_matters_and_none_does_not(tmp_path):
    names = [f"{n:02d}" for n in range(12)]
    real = noise(tmp_path / "real", names)
    first = result_of(real, noise(tmp_path / "a", names, offset=20), tmp_path / "A")
    second = result_of(real, noise(tmp_path / "b", names, offset=10), tmp_path / "B")
    (found,) = comparing.compare(first, second)
    # Half the error is 6.02 dB, for each clip.
    for value in (found.change, found.low, found.high):
        assert value == pytest.approx(20 * np.log10(2))
    assert found.is_paired and found.verdict == "second is better"
    assert comparing.compare(second, first)[0].verdict == "first is better"
    (none,) = comparing.compare(first, first)
    assert none.change == 0 and none.verdict == "no difference shown"
    assert "| psnr | 22.11 | 28.131 | 6.0206 | 6.0206 to 6.0206 | second is better | psnr/" in (
        comparing.table([found])
    )


def test_pairing_shows_what_chance_would_hide(tmp_path):
    """Clips differ much more from each other than a result from the other."""
    steps = np.arange(2, 90, 4)
    one = flicker(tmp_path / "one", steps)
    same = flicker(tmp_path / "same", steps - 1)
    others = flicker(tmp_path / "others", steps - 1, prefix="d")
    settings = dict(names=("temporal_flickering",), num_frames=2)
    first, second, third = (
        result_of(None, made, tmp_path / f"out_{made.name}", **settings)
        for made in (one, same, others)
    )
    (paired,), (apart,) = comparing.compare(first, second), comparing.compare(first, third)
    assert paired.change == apart.change == pytest.approx(1 / 255)
    assert paired.is_paired and paired.verdict == "second is better"
    assert not apart.is_paired and apart.verdict == "no difference shown"


def test_distances_are_compared_with_the_same_real_clips(tmp_path):
    names = [f"{n:02d}" for n in range(30)]
    real = noise(tmp_path / "real", names)
    settings = dict(names=("frechet_toy_pixels", "kvd_toy_pixels"))
    near, far = (
        result_of(real, noise(tmp_path / f"m{n}", names, n, seed=n), tmp_path / f"o{n}", **settings)
        for n in (1, 90)
    )
    assert [each.verdict for each in comparing.compare(near, far)] == ["first is better"] * 2
    entry = near.facts["metrics"]["frechet_toy_pixels"]
    assert 0 <= entry["low"] <= entry["mean"] <= entry["high"]
    assert entry["protocol"].endswith("/N=30x1")


def test_shares_have_wilsons_interval(tmp_path):
    from poet.shapes_world import files

    files.write_clips(tmp_path / "clips", 0, {"train": 4}, size_px=32)
    how = reading.Reading(num_frames=17, height_px=32, width_px=32)
    work = measuring.Work(
        folders=folders.pair(tmp_path / "clips", tmp_path / "clips"),
        metrics=tuple(metrics.choose(["shapes_colour"])),
        real=how,
        generated=how,
        parts=tmp_path / "parts",
    )
    measuring.measure(work)
    facts = results.write(tmp_path, work, measuring.collect(work), resampling.Statistics(), {})
    entry = facts["metrics"]["shapes_colour"]
    assert (entry["mean"], entry["high"], entry["interval"]) == (1.0, 1.0, "wilson")
    # Wilson's lower end for 4 of 4: 1 / (1 + 1.96^2 / 4).
    assert entry["low"] == pytest.approx(1 / (1 + 1.959964**2 / 4))


def test_protocols_of_two_kinds_are_not_put_side_by_side(tmp_path):
    names = "abc"
    real, made = noise(tmp_path / "real", names), noise(tmp_path / "made", names, 5)
    one = result_of(real, made, tmp_path / "one")
    wide = work_of(real, made, tmp_path / "two")
    how = reading.Reading(num_frames=1, height_px=32, width_px=32)
    wide = measuring.Work(**(vars(wide) | {"real": how, "generated": how}))
    measuring.measure(wide)
    results.write(tmp_path / "two", wide, measuring.collect(wide), resampling.Statistics(), {})
    two = results.read(tmp_path / "two" / results.RESULT_NAME)
    says = "psnr of .* are not of one protocol, psnr/.*/16x16-cover-crop and psnr/.*/32x32-cover"
    with pytest.raises(ValueError, match=says):
        comparing.compare(one, two)
    with pytest.raises(ValueError, match=says):
        results.table({"one": one.facts, "two": two.facts})
    both = results.table({"one": one.facts, "again": one.facts})
    assert both.splitlines()[0].startswith("| metric | better | one mean | 95 % | spread | again")


def test_results_that_are_none_are_refused(tmp_path):
    real, made = noise(tmp_path / "real", "ab"), noise(tmp_path / "made", "ab", 5)
    result_of(real, made, tmp_path / "out")
    path = tmp_path / "out" / results.RESULT_NAME
    good = path.read_text()
    for text, says in (
        ("{", "result.json is no JSON"),
        ("[]", "is no result of this version"),
        (good.replace("result.npz", "other.npz"), "are in other.npz, which is not beside it; copy"),
        (good.replace('"rows_sha256": "', '"rows_sha256": "0'), "the rows of another result than"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            results.read(path)
    path.write_text(good)
    one = results.read(path)
    other = results.Result(facts=json.loads(good) | {"metrics": {"x": {}}}, measured=one.measured)
    with pytest.raises(ValueError, match="share no metric: one has psnr, the other x"):
        comparing.compare(one, other)
    with pytest.raises(ValueError, match="Expected ssim in both results, which share psnr"):
        comparing.compare(one, one, names=["ssim"])
    with pytest.raises(ValueError, match="at least 1 repeat and a seed of 0 or more, got 0 and 0"):
        resampling.Statistics(repeats=0)


def test_one_clip_has_a_mean_but_no_distance(tmp_path):
    write.write_video(tmp_path / "a" / "x.mp4", np.zeros((1, 16, 16, 3), np.uint8), 8.0)
    found = result_of(tmp_path / "a", tmp_path / "a", tmp_path / "out")
    assert found.facts["metrics"]["psnr"]["mean"] == 100.0
    with pytest.raises(ValueError, match="at least 2 examples"):
        result_of(tmp_path / "a", tmp_path / "a", tmp_path / "o", names=["frechet_toy_pixels"])
