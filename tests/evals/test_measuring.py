"""Results do not hang on batches, hosts, order or interruptions."""

import dataclasses
import json

import numpy as np
import pytest

from poet.evals import folders, measuring, metrics, reading, resampling, results
from poet.evals.distance_metrics import feature_source, frechet_metric
from poet.evals.metric import Needs
from poet.evals.toy_features import PixelProjection
from poet.media import images
from poet.shapes_world import files

NAMES = ["psnr", "av_align", "onset_agreement", "fad_toy", "frechet_toy_pixels", "kvd_toy_frames"]
NAMES += ["shapes_all_words", "shapes_clicks", "frechet_shapes", "warp_error"]


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """Enough to see whether two runs draw alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "NUM_RESAMPLES", {})
        patch.setattr(resampling, "_FEW_RESAMPLES", 10)
        yield


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two folders of 8 rendered clips, of other laws but of the same names."""
    out = tmp_path_factory.mktemp("clips")
    for seed in (0, 1):
        files.write_clips(out / str(seed), seed, {"train": 8}, size_px=32)
    return out / "0", out / "1"


def work_of(clips, out, names=NAMES, batch_size=3, **more):
    how = reading.Reading(num_frames=17, height_px=32, width_px=32)
    settings = dict(
        folders=folders.pair(*clips),
        metrics=tuple(metrics.choose(names, batch_size=batch_size)),
        real=how,
        generated=how,
        parts=out / "parts",
        batch_size=batch_size,
        clips_per_part=2,
    )
    return measuring.Work(**(settings | more))


def summed_up(work, out, repeats=1):
    statistics = resampling.Statistics(repeats=repeats)
    return results.write(out, work, measuring.collect(work), statistics, {})


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """The result of one process that measures one clip at a time."""
    out = tmp_path_factory.mktemp("whole")
    work = work_of(clips, out, batch_size=1)
    measuring.measure(work)
    return summed_up(work, out)


def same(facts, others):
    assert results.table({"": facts}) == results.table({"": others})
    assert facts["metrics"].keys() == others["metrics"].keys()
    for name, entry in facts["metrics"].items():
        for what in ("mean", "low", "high"):
            assert entry[what] == pytest.approx(others["metrics"][name][what], abs=1e-9), name


@pytest.mark.parametrize(
    ("num_shards", "batch_size", "clips_per_part"), [(1, 8, 16), (2, 2, 2), (4, 3, 2)]
)
def test_shards_and_batches_change_nothing(
    clips, whole, tmp_path, num_shards, batch_size, clips_per_part
):
    works = [
        work_of(clips, tmp_path, batch_size=batch_size, clips_per_part=clips_per_part)
        for _ in range(num_shards)
    ]
    for shard in reversed(range(num_shards)):
        assert works[shard].missing()
        measuring.measure(works[shard], shard, num_shards)
    same(summed_up(works[0], tmp_path), whole)


def test_the_order_of_files_changes_nothing(clips, whole, tmp_path):
    turned = []
    for number, folder in enumerate(clips):
        head, *rows = (folder / "manifest.tsv").read_text().splitlines()
        rows = [f"{folder}/{row}" for row in rows[3:] + rows[:3]]
        (tmp_path / str(number)).mkdir()
        turned.append(tmp_path / str(number))
        (turned[-1] / "manifest.tsv").write_text("\n".join([head, *rows]) + "\n")
    work = work_of(turned, tmp_path)
    measuring.measure(work)
    same(summed_up(work, tmp_path), whole)


def test_a_killed_run_goes_on(clips, whole, tmp_path, monkeypatch):
    read, seen = reading.read_clip, []

    def counted(item, *rest):
        seen.append(item.name)
        return read(item, *rest)

    def killed(done):
        if done == 6:
            raise KeyboardInterrupt

    work = work_of(clips, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        measuring.measure(work, progress=killed)
    assert work.missing() == [3]
    with pytest.raises(
        ValueError, match="1 of 4 parts are not measured yet, the first is number 3"
    ):
        measuring.collect(work)
    # What a process leaves that is killed while it writes.
    work.part_path(3).with_name(".000003-of-000004.partial.npz").write_bytes(b"half")
    monkeypatch.setattr(reading, "read_clip", counted)
    measuring.measure(work)
    assert set(seen) == {"train_000006", "train_000007"}
    same(summed_up(work, tmp_path), whole)


def test_other_settings_or_files_are_other_parts(clips, tmp_path):
    work = work_of(clips, tmp_path)
    how = dataclasses.replace(work.real, num_frames=9)
    others = [
        dataclasses.replace(work, real=how),
        dataclasses.replace(work, folders=folders.pair(*clips, num_clips=7)),
        dataclasses.replace(work, folders=folders.pair(*clips[::-1])),
        work_of(clips, tmp_path, NAMES[:3]),
    ]
    paths = {str(each.part_path(0)) for each in [work, *others]}
    assert len(paths) == 5
    assert work_of(clips, tmp_path, batch_size=1).part_path(0) == work.part_path(0)


def test_repeats_are_groups_of_pairs(clips, tmp_path):
    work = work_of(clips, tmp_path, ["psnr", "frechet_toy_pixels"])
    measuring.measure(work)
    one, four = (summed_up(work, tmp_path, repeats) for repeats in (1, 4))
    psnr = four["metrics"]["psnr"]
    # Equal groups: the mean of means is the mean.
    assert psnr["mean"] == pytest.approx(one["metrics"]["psnr"]["mean"])
    assert psnr["spread"] > 0 and one["metrics"]["psnr"]["spread"] is None
    assert four["metrics"]["frechet_toy_pixels"]["protocol"].endswith("/N=2x4")
    # The groups by hand.
    measured = measuring.collect(work)
    order = np.random.Generator(np.random.Philox(key=np.array([0, 0], np.uint64))).permutation(8)
    rows = measured.rows["psnr", "generated"].values[:, 0]
    assert psnr["spread"] == pytest.approx(rows[order].reshape(4, 2).mean(axis=1).std())


def test_pictures_need_no_real_side_for_what_looks_at_one_side(clips, tmp_path):
    work = work_of(clips, tmp_path, ["temporal_flickering"], folders=folders.pair(None, clips[1]))
    measuring.measure(work)
    facts = summed_up(work, tmp_path)
    assert facts["metrics"]["temporal_flickering"]["num_real"] == 0
    json.dumps(facts, allow_nan=False)


def test_what_the_folders_do_not_allow_is_refused(clips, tmp_path):
    with pytest.raises(ValueError, match="psnr compares with real clips; give their folder"):
        work_of(clips, tmp_path, ["psnr"], folders=folders.pair(None, clips[1]))
    how = reading.Reading(num_frames=1, height_px=32, width_px=32)
    with pytest.raises(ValueError, match="flow_error needs clips of at least 2 frames, got 1; ask"):
        work_of(clips, tmp_path, ["flow_error"], generated=how)
    with pytest.raises(ValueError, match="batches and parts of at least 1 clip, got 1 and 0"):
        work_of(clips, tmp_path, ["psnr"], batch_size=1, clips_per_part=0)
    with pytest.raises(ValueError, match="at least one metric, got none"):
        work_of(clips, tmp_path, metrics=())
    for name in ("a", "b"):
        images.write_image(tmp_path / "made" / f"{name}.png", np.zeros((32, 32, 3), np.uint8))
    other = folders.pair(clips[0], tmp_path / "made")
    says = "other names: 8 only in the real one, the first train_000000; 2 only in the generated"
    with pytest.raises(ValueError, match=f"psnr compares clips of one name, but .*{says} one, the"):
        work_of(clips, tmp_path, ["psnr"], folders=other)
    with pytest.raises(ValueError, match="shapes_shape needs a law .* for each name; 2 have none"):
        work_of(clips, tmp_path, ["shapes_shape"], folders=other)
    chosen = metrics.choose(["frechet_toy_pixels"])
    with pytest.raises(ValueError, match="as many real as generated clips, got 8 and 2: the dist"):
        resampling.check_counts(chosen, other.real, other.generated, resampling.Statistics())
    with pytest.raises(ValueError, match="one clip a repeat, got 2 clips for 3 repeats"):
        resampling.check_counts(chosen, 8, 2, resampling.Statistics(repeats=3))
    # Several repeats against as many real clips as one of them has: the paper's MSR-VTT.
    resampling.check_counts(chosen, 8, 16, resampling.Statistics(repeats=2))


def test_the_least_frames_of_a_network_are_said(clips, tmp_path):
    """As I3D has them."""
    needs = Needs(num_frames=(9, float("inf")))
    source = feature_source("i3d", PixelProjection(), 2, needs)
    how = reading.Reading(num_frames=8, height_px=32, width_px=32)
    with pytest.raises(ValueError, match="fvd needs clips of at least 9 frames, got 8; ask for"):
        work_of(clips, tmp_path, metrics=(frechet_metric("fvd", "i3d", source),), generated=how)


def test_rows_that_are_not_finite_are_refused(clips, tmp_path):
    class Broken:
        def features(self, clips):
            return np.full((len(clips), 2), np.nan)

    source = feature_source("broken", Broken(), 2, Needs())
    work = work_of(clips, tmp_path, metrics=(frechet_metric("f", "broken", source),))
    with pytest.raises(ValueError, match="broken of train_000000 is not finite; look at the file"):
        measuring.measure(work)
