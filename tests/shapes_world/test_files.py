"""Clips as files: read back, checked, resumed, refused."""

import pytest

from poet.media import manifest as media_manifest
from poet.media import sound, video
from poet.shapes_world import checker, files, world

COUNTS = {"train": 3, "held_out": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    calls = []
    files.write_clips(folder, 3, COUNTS, 32, progress=lambda *call: calls.append(call))
    assert calls == [(index, 6) for index in range(1, 7)]
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_files_show_and_sound_like_their_rows(folder):
    specs = files.read_specs(folder / "manifest.tsv")
    assert len(specs) == 6
    for name, spec in specs.items():
        frames = video.read_video(folder / name, world.FRAMES_PER_SECOND)
        samples = sound.read_sound(folder / name)
        finding = checker.check(frames, samples)
        assert checker.picture_agrees(finding, spec) and checker.sound_agrees(finding, spec)


def test_the_manifest_is_one_that_prepare_reads(folder):
    rows = media_manifest.read_manifest(folder)
    specs = list(files.read_specs(folder / "manifest.tsv").values())
    assert [row.clip_id for row in rows] == [spec.clip_id for spec in specs]
    assert [row.caption for row in rows] == [spec.caption for spec in specs]
    assert [row.split for row in rows] == [spec.split for spec in specs]
    assert all(row.path.is_file() for row in rows)


def test_an_interrupted_run_continues_to_the_same_files(folder, tmp_path):
    class Killed(Exception):
        pass

    def stop(num_finished, _):
        if num_finished == 2:
            raise Killed

    with pytest.raises(Killed):
        files.write_clips(tmp_path, 3, COUNTS, 32, progress=stop, num_threads=1)
    assert not (tmp_path / "manifest.tsv").exists()
    files.write_clips(tmp_path, 3, COUNTS, 32)
    assert contents(tmp_path) == contents(folder)


def test_bad_requests_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="holds clips made with .*choose another folder"):
        files.write_clips(folder, 4, COUNTS, 32)
    with pytest.raises(ValueError, match="No clips to write"):
        files.write_clips(tmp_path, 3, {"train": 0})
    with pytest.raises(ValueError, match="must be even and at least 32, got 33"):
        files.write_clips(tmp_path, 3, COUNTS, 33)
    table = tmp_path / "other.tsv"
    table.write_text("file\tcaption\na.mp4\ta cat\n")
    with pytest.raises(ValueError, match="not a manifest of the shapes world"):
        files.read_specs(table)
