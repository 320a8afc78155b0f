"""Tar shards and copies of what is not a local file."""

import io
import json
import tarfile

import numpy as np
import pytest

from poet.data.clips import ClipRules, cut_clips
from poet.media import sources
from poet.media.errors import MediaError
from poet.media.manifest import read_manifest
from poet.media.write import write_video

_RULES = ClipRules(height_px=16, width_px=16)


def _shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _png(level):
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path):
    """Two shards: a video, an image with facts, a sample without media, another image."""
    write_video(tmp_path / "v.mp4", np.full((17, 16, 16, 3), 90, np.uint8), 8)
    facts = json.dumps({"caption": "A  dark tile", "licence": "CC0", "mood": "calm"}).encode()
    folder = tmp_path / "shards"
    folder.mkdir()
    _shard(
        folder / "x-000.tar",
        {
            "one.mp4": (tmp_path / "v.mp4").read_bytes(),
            "one.txt": b"a grey clip\n",
            "two.json": facts,
            "two.png": _png(30),
            "three.txt": b"no media",
        },
    )
    _shard(folder / "x-001.tar", {"deep/one.cls": b"4", "deep/one.png": _png(200)})
    return folder


def test_samples_become_rows(shards):
    one, two, three = read_manifest(shards)
    assert [row.clip_id for row in (one, two, three)] == [
        "x-000/one",
        "x-000/two",
        "x-001/deep/one",
    ]
    assert [row.caption for row in (one, two, three)] == ["a grey clip", "A dark tile", ""]
    assert (two.licence, two.extra, two.suffix) == ("CC0", {"mood": "calm"}, ".png")
    for name in ("x-{000..001}.tar", "x-*.tar"):
        assert read_manifest(shards / name) == [one, two, three]
    assert read_manifest(shards / "x-001.tar") == [three]


def test_members_are_cut_like_files(shards, tmp_path):
    cut = [clip for row in read_manifest(shards) for clip in cut_clips(row, _RULES)]
    assert [len(clip.frames) for clip in cut] == [17, 1, 1]
    assert [int(np.median(clip.frames)) for clip in cut] == [90, 30, 200]


def test_errors_name_the_member(shards):
    _shard(shards / "bad.tar", {"one.mp4": b"nothing" * 50})
    (row,) = read_manifest(shards / "bad.tar")
    with pytest.raises(MediaError, match="bad.tar:one.mp4 cannot be decoded"):
        list(cut_clips(row, _RULES))


def test_a_shard_cut_off_costs_the_row_it_ends_in(shards):
    path = shards / "x-001.tar"
    (row,) = read_manifest(path)
    path.write_bytes(path.read_bytes()[: row.part.offset + 10])
    with pytest.raises(MediaError, match="x-001.tar:deep/one.png cannot be read .* are missing"):
        list(cut_clips(row, _RULES))


def test_refusals(shards, tmp_path):
    with pytest.raises(MediaError, match="no file .*x-002.tar"):
        read_manifest(shards / "x-{000..002}.tar")
    (tmp_path / "no.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(MediaError, match="cannot be read as a WebDataset shard"):
        read_manifest(tmp_path / "no.tar")
    _shard(tmp_path / "empty.tar", {"a.txt": b"words"})
    with pytest.raises(MediaError, match="hold no media; a sample is NAME.mp4"):
        read_manifest(tmp_path / "empty.tar")


def test_local_files_are_not_copied(tmp_path):
    with sources.local_file(tmp_path / "a.mp4") as path:
        assert path == tmp_path / "a.mp4"


def test_tokenizer_training_reads_shards_too(tmp_path):
    """Pictures and sound of a member, as of the file itself."""
    from poet.train import tokenizer_media

    frames = np.full((17, 16, 16, 3), 90, np.uint8)
    tone = np.sin(np.arange(34_000) / 9).astype(np.float32)
    (tmp_path / "files").mkdir()
    write_video(tmp_path / "files" / "v.mp4", frames, 8, tone)
    data = (tmp_path / "files" / "v.mp4").read_bytes()
    _shard(tmp_path / "x.tar", {"v.mp4": data})
    sizes = {"height_px": 16, "width_px": 16, "num_frames": 17, "frames_per_second": 8.0}
    found = []
    for media in ("files", "x.tar"):
        rows = tokenizer_media.rows_of_split(str(tmp_path / media), "train")
        sounds = tokenizer_media.read_sounds(rows, num_samples=16_000, sample_rate_hz=16_000)
        found.append((tokenizer_media.read_frames(rows, **sizes), sounds))
        assert tokenizer_media.media_key(rows, {}) == tokenizer_media.media_key(rows, {})
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
