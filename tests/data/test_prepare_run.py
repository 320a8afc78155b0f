"""Files to dataset: faithful to the files, restartable, equal however it is run."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from tiny_prepare import RULES, Loudness, MeanColour, config_of, contents, read, write_clip

from poet.data import prepare as prepare_module
from poet.data import records, structure, units
from poet.data.clips import ClipRules
from poet.data.conditions import Conditions
from poet.data.decode_process import DecodeLimits
from poet.data.filters import ClipFilters
from poet.data.prepare import NothingUsableError, prepare
from poet.media.errors import MediaError
from poet.media.manifest import ManifestRow
from poet.media.write import write_video


def test_records_tell_their_files(whole):
    out_dir, _, _ = whole
    train, held_out = read(out_dir, "train"), read(out_dir, "held_out")
    assert [record["clip_id"] for record in train] == [
        *("0", "1", "2", "4", "long", "long@2.125s", "long@4.250s", "short")
    ]
    assert [record["caption"] for record in held_out] == ["level 3"]
    for record in [*train[:4], *held_out]:
        level = 40 * int(record["clip_id"]) + 30
        assert record["visual"].shape == (5, 2, 2)
        np.testing.assert_allclose(record["visual"][:, 1], level, atol=3)
        np.testing.assert_allclose(record["visual"][:, 0], level // 2, atol=3)
        assert record["audio"].shape == (2, 106) and record["has_audio"] == 1
        np.testing.assert_allclose(record["audio"][0].mean(), level / 300 * 2 / np.pi * 255, atol=2)
    short = train[-1]
    assert short["visual"].shape == (1, 2, 2) and short["num_frames"] == 1
    assert short["audio"].shape == (2, 0) and short["has_audio"] == 0


def test_the_report_lists_everything(whole):
    out_dir, report, _ = whole
    assert (report.num_records, len(report.files), len(report.rejected)) == (9, 9, 2)
    rejected = [json.loads(line) for line in (out_dir / "rejected.jsonl").read_text().splitlines()]
    assert [row["clip_id"] for row in rejected] == ["broken", "absent"]
    assert "cannot be decoded" in rejected[0]["reason"]
    assert "There is no file" in rejected[1]["reason"]
    text = "\n".join(report.lines())
    assert "9 files gave 8 clips (8 with sound) and 1 still images; 2 rejected." in text
    assert "short.mp4" in text and "5 frames, fewer than 17" in text


def test_batches_have_one_shape_each(whole):
    _, _, visual = whole
    assert set(visual.batch_shapes) == {(4, 17, 16, 16, 3), (4, 1, 16, 16, 3)}


def test_metadata_names_the_tokenizers(whole):
    out_dir, _, _ = whole
    metadata = json.loads((out_dir / "poet.json").read_text())["metadata"]
    assert metadata["fingerprints"] == {"visual": "mean-colour-1", "audio": "loudness-1"}
    assert metadata["preprocessing"]["height_px"] == 16


@pytest.mark.parametrize(
    "changes", [{"num_workers": 0}, {"clips_per_unit": 2, "num_workers": 3}, {"clips_per_unit": 1}]
)
def test_the_way_of_running_changes_no_byte(media, whole, tmp_path, changes):
    prepare(config_of(media, tmp_path / "dataset", **changes), MeanColour(), Loudness())
    assert contents(tmp_path / "dataset") == contents(whole[0])


def test_swapped_files_swap_their_ids(tmp_path):
    """Nothing but mp4 files and manifest is there; the ids follow the files."""
    folder = tmp_path / "media"
    folder.mkdir()
    for name, level in (("a", 60), ("b", 180)):
        write_clip(folder / f"{name}.mp4", level)
    (folder / "manifest.tsv").write_text("file\tcaption\na.mp4\tdark\nb.mp4\tbright\n")
    prepare(config_of(folder, tmp_path / "one"), MeanColour(), Loudness())
    (folder / "a.mp4").rename(folder / "c.mp4")
    (folder / "b.mp4").rename(folder / "a.mp4")
    (folder / "c.mp4").rename(folder / "b.mp4")
    prepare(config_of(folder, tmp_path / "two"), MeanColour(), Loudness())
    before, after = read(tmp_path / "one", "train"), read(tmp_path / "two", "train")
    assert [record["caption"] for record in after] == ["dark", "bright"]
    for one, other in zip(before, after[::-1], strict=True):
        np.testing.assert_array_equal(one["visual"], other["visual"])
        np.testing.assert_array_equal(one["audio"], other["audio"])
    assert (before[0]["visual"] != after[0]["visual"]).any()
    # A finished dataset notices as well.
    prepare(config_of(folder, tmp_path / "one"), MeanColour(), Loudness())
    assert contents(tmp_path / "one") == {
        **contents(tmp_path / "two"),
        "files.jsonl": contents(tmp_path / "one")["files.jsonl"],
    }


def test_a_finished_run_does_nothing(media, whole):
    out_dir, report, _ = whole
    before = {path: path.stat().st_mtime_ns for path in out_dir.rglob("*")}
    again = prepare(config_of(media, out_dir), MeanColour(), Loudness())
    assert again.files == report.files and again.num_units_reused == again.num_units
    assert {path: path.stat().st_mtime_ns for path in out_dir.rglob("*")} == before


@pytest.mark.parametrize("num_before", [0, 2])
def test_an_error_in_the_middle_loses_one_unit(media, whole, tmp_path, monkeypatch, num_before):
    """The third unit fails; the next run computes it and what follows, nothing else."""
    computed = []
    save_part = units.save_part

    def failing(path, unit_records, outcomes):
        if len(computed) == num_before:
            raise OSError("disk full")
        computed.append(path.name)
        save_part(path, unit_records, outcomes)

    config = config_of(media, tmp_path / "dataset", clips_per_unit=2)
    monkeypatch.setattr(units, "save_part", failing)
    with pytest.raises(OSError, match="disk full"):
        prepare(config, MeanColour(), Loudness())
    assert not (tmp_path / "dataset").exists()
    monkeypatch.setattr(units, "save_part", save_part)
    report = prepare(config, MeanColour(), Loudness())
    assert report.num_units_reused == num_before
    assert contents(tmp_path / "dataset") == contents(whole[0])
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_a_killed_run_continues(media, whole, tmp_path):
    """SIGKILL after the second unit, while the third is being tokenized."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        sys.path[:0] = {[str(pathlib.Path(__file__).parent), str(pathlib.Path.cwd())]!r}
        import tiny_prepare as here
        from poet.data.prepare import prepare

        class Slow(here.MeanColour):
            def encode(self, video):
                time.sleep(0.4)
                return super().encode(video)

        config = here.config_of({str(media)!r}, {str(tmp_path / "dataset")!r}, clips_per_unit=2)
        prepare(config, Slow(), here.Loudness())
        """)
    )
    parts = tmp_path / ".dataset.parts"
    process = subprocess.Popen([sys.executable, str(script)])
    deadline = time.monotonic() + 60
    while len(list(parts.glob("part-*"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    script.unlink()
    assert not (tmp_path / "dataset").exists()
    report = prepare(
        config_of(media, tmp_path / "dataset", clips_per_unit=2), MeanColour(), Loudness()
    )
    assert report.num_units_reused >= 2
    assert contents(tmp_path / "dataset") == contents(whole[0])


def test_other_tokenizers_or_rules_are_refused(media, whole, tmp_path, monkeypatch):
    out_dir, _, _ = whole
    other = MeanColour()
    other.fingerprint = "mean-colour-2"
    words = "fingerprints of 'visual' 'mean-colour-1', this run has 'mean-colour-2'"
    with pytest.raises(ValueError, match=words):
        prepare(config_of(media, out_dir), other, Loudness())
    rules = ClipRules(height_px=16, width_px=24)
    with pytest.raises(ValueError, match="preprocessing of 'width_px' 16, this run has 24"):
        prepare(config_of(media, out_dir, rules=rules), MeanColour(), Loudness())
    with pytest.raises(ValueError, match="file_format 'array_record', this run has 'tfrecord'"):
        prepare(config_of(media, out_dir, file_format="tfrecord"), MeanColour(), Loudness())
    # The same holds while the work is unfinished.
    config = config_of(media, tmp_path / "dataset")
    monkeypatch.setattr(prepare_module.writer, "write_dataset", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(config, MeanColour(), Loudness())
    with pytest.raises(ValueError, match="unfinished work in .* " + words):
        prepare(config, other, Loudness())


def test_strict_and_nothing_usable(media, tmp_path):
    with pytest.raises(MediaError, match="broken.mp4 cannot be decoded"):
        prepare(config_of(media, tmp_path / "a", strict=True), MeanColour(), Loudness())
    assert not (tmp_path / "a").exists()
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "x.mp4").write_text("no")
    for _ in range(2):
        with pytest.raises(NothingUsableError, match="None of the 1 files") as caught:
            prepare(config_of(folder, tmp_path / "b"), MeanColour(), Loudness())
        assert len(caught.value.report.rejected) == 1
        assert "cannot be decoded" in (tmp_path / "b" / "rejected.jsonl").read_text()
    write_clip(folder / "y.mp4", 90)
    assert prepare(config_of(folder, tmp_path / "b"), MeanColour(), Loudness()).num_records == 1


def test_an_out_dir_of_something_else_is_kept(media, tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(ValueError, match="holds 'letters.txt' and no dataset.*another --out"):
        prepare(config_of(media, tmp_path), MeanColour(), Loudness())
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        config_of(media, tmp_path, batch_size=0)
    with pytest.raises(ValueError, match="of no use to runner='local'; choose a runner"):
        config_of(media, tmp_path, beam_options=("--direct_num_workers=2",))


def test_without_an_audio_tokenizer(media, tmp_path):
    report = prepare(config_of(media, tmp_path / "dataset"), MeanColour())
    assert report.num_records == 9
    assert not any(record["has_audio"] for record in read(tmp_path / "dataset", "train"))


def test_long_files_fill_several_units(media, monkeypatch):
    """A file that promises many clips is cut where it can be entered, the rest is open-ended."""
    row = ManifestRow(path=media / "long.mp4", clip_id="long")
    monkeypatch.setattr(units, "_size", lambda row: 10**9)
    plan = units.plan_units([row], ClipRules(height_px=16, width_px=16, stride_frames=4), 5)
    pieces = [(piece.first_clip, piece.limit) for unit in plan for piece in unit.pieces]
    assert pieces == [(0, 5), (5, 5), (10, None)]
    assert [unit.number for unit in plan] == [0, 1, 2]


def test_conditions_are_tokens_of_what_they_show(media, tmp_path):
    """Masked clips black out a box; flow and depth of a clip that stands still are grey."""
    config = config_of(
        media,
        tmp_path / "out",
        conditions=Conditions(
            regions=("inpaint_central",), estimator=structure.EstimatedStructure()
        ),
    )
    prepare(config, MeanColour(), Loudness())
    dataset = records.open_dataset(tmp_path / "out")
    assert dataset.capability("train", "inpainting").tolist() == list(range(7))
    assert not len(dataset.capability("train", "outpainting"))
    for record in read(tmp_path / "out", "train"):
        if record["num_frames"] == 1:
            assert record["region"] == "" and not record["masked"].size
            continue
        assert record["region"] == "inpaint_central"
        # The 16 px picture is 2 x 2 tokens; the box covers a quarter of each.
        np.testing.assert_allclose(record["masked"], 0.75 * record["visual"], atol=1)
        np.testing.assert_allclose(record["structure"], 128, atol=1)
    facts = dataset.metadata["preprocessing"]
    assert facts["regions"] == {"inpaint_central": "zero"} and facts["structure"]
    with pytest.raises(ValueError, match="was made with the preprocessing of 'region"):
        other = dataclasses.replace(config, conditions=Conditions(regions=("outpaint_central",)))
        prepare(other, MeanColour(), Loudness())


def test_filters_leave_clips_out_and_say_so(tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    rng = np.random.default_rng(0)
    good = np.kron(rng.integers(0, 255, (17, 4, 4, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    tone = (0.3 * np.sin(np.arange(34_000) / 10)).astype(np.float32)
    for name, frames, sound in (
        ("a_good", good, tone),
        ("b_again", good, 0.5 * tone),
        ("c_black", good // 100, tone),
        ("d_silent", 255 - good, 0 * tone),
    ):
        write_video(folder / f"{name}.mp4", frames, 8, sound)
    rules = dataclasses.replace(
        RULES, filters=ClipFilters(names=("black", "frozen", "silent", "duplicate"))
    )
    config = config_of(folder, tmp_path / "out", rules=rules, num_workers=2)
    report = prepare(config, MeanColour(), Loudness())
    assert [record["clip_id"] for record in read(tmp_path / "out", "train")] == ["a_good"]
    reasons = {file["clip_id"]: file["reason"] for file in report.rejected}
    assert reasons == {
        "b_again": "all left out: 1 duplicate",
        "c_black": "all left out: 1 black",
        "d_silent": "all left out: 1 silent",
    }
    assert report.num_records == 1 and "1 clips (1 with sound)" in report.lines()[0]
    again = prepare(config, MeanColour(), Loudness())
    assert again.files == report.files


def test_a_file_that_hangs_costs_its_row_only(tmp_path, media):
    """A named pipe that nobody writes to is such a file."""
    folder = tmp_path / "media"
    folder.mkdir()
    os.mkfifo(folder / "b.mp4")
    for name in ("a", "c"):
        shutil.copy(media / "1.mp4", folder / f"{name}.mp4")
    config = config_of(folder, tmp_path / "out", num_workers=2, limits=DecodeLimits(clip_s=2.0))
    report = prepare(config, MeanColour(), Loudness())
    assert [record["clip_id"] for record in read(tmp_path / "out", "train")] == ["a", "c"]
    (rejected,) = report.rejected
    assert rejected["clip_id"] == "b" and "gave nothing for 2 s" in rejected["reason"]


def test_the_card_says_what_it_is_and_where_it_came_from(tmp_path, media):
    rows = "file\tcaption\tlicence\tsource\n1.mp4\ta\tCC0\tattic\n2.mp4\tb\tCC0\tcellar\n"
    (media / "list.tsv").write_text(rows + "broken.mp4\tc\tCC-BY\tattic\n")
    prepare(config_of(media / "list.tsv", tmp_path / "out"), MeanColour(), Loudness())
    text = (tmp_path / "out" / "README.md").read_text()
    summary = json.loads((tmp_path / "out" / "poet.json").read_text())
    assert summary["fingerprint"] in text and "visual tokenizer: mean-colour-1" in text
    size = summary["splits"]["train"]["num_bytes"]
    assert f"| train | 2 | 0 | 2 | 2 | 0 | 0 | {size:,} |" in text
    assert "3 files or rows, 1 of them rejected" in text
    assert "| CC0 | 2 |" in text and "| attic | 1 |" in text and "CC-BY" not in text


def test_long_portrait_clips(tmp_path):
    """41 frames of 16 x 32 px (width first) and 256 audio frames, with every condition."""
    folder = tmp_path / "media"
    folder.mkdir()
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (41, 40, 24, 3), dtype=np.uint8)
    sound = np.sin(np.arange(82_000) / 9).astype(np.float32)
    write_video(folder / "a.mp4", frames, 8, sound)
    heard = []

    class Long(Loudness):
        def encode(self, wave):
            heard.append(wave.shape)
            return np.zeros((len(wave), 2, 256), np.int32)

    rules = dataclasses.replace(RULES, num_frames=41, height_px=32)
    conditions = Conditions(regions=("outpaint_dynamic",), estimator=structure.EstimatedStructure())
    config = config_of(folder, tmp_path / "out", rules=rules, conditions=conditions)
    prepare(config, MeanColour(), Long())
    (record,) = read(tmp_path / "out", "train")
    for field in ("visual", "masked", "structure"):
        assert record[field].shape == (11, 4, 2), field
    assert record["audio"].shape == (2, 256) and heard[0][1] == 82_000
    assert records.open_dataset(tmp_path / "out").grids("train").tolist() == [[11, 4, 2]]


def test_a_decoder_that_stumbles_costs_its_row(tmp_path, media, monkeypatch):
    """Errors that nobody foresaw too; with strict they stop the run."""
    folder = tmp_path / "media"
    folder.mkdir()
    shutil.copy(media / "1.mp4", folder / "a.mp4")
    np.save(folder / "odd.npy", np.zeros((3, 4)))
    (folder / "worse.npy").write_bytes(b"no numbers")
    (folder / "list.tsv").write_text("file\nodd.npy\nworse.npy\na.mp4\n")
    config = config_of(folder / "list.tsv", tmp_path / "out", num_workers=2)
    report = prepare(config, MeanColour(), Loudness())
    reasons = {file["clip_id"]: file["reason"] for file in report.rejected}
    assert "must hold uint8 frames [T, Y, X, 3], got float64 [3, 4]" in reasons["odd"]
    assert "is no NumPy file of frames" in reasons["worse"] and report.num_records == 1

    def stumble(*arguments):
        raise OverflowError("too deep")

    monkeypatch.setattr(units, "cut_clips", stumble)
    config = config_of(folder / "list.tsv", tmp_path / "two", num_workers=0)
    with pytest.raises(NothingUsableError) as caught:
        prepare(config, MeanColour(), Loudness())
    assert "unexpected OverflowError: ['too deep']" in caught.value.report.rejected[0]["reason"]
    with pytest.raises(OverflowError, match="too deep"):
        prepare(dataclasses.replace(config, strict=True), MeanColour(), Loudness())
