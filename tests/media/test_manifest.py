"""Manifests: what a row means, and which word a faulty one gets."""

import pytest

from poet.media.errors import MediaError
from poet.media.manifest import read_manifest


def _write(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_table(tmp_path):
    path = _write(
        tmp_path,
        "list.tsv",
        "file\tcaption\tstart_s\tend_s\tsplit\tclip_id\tlicence\tmood\n"
        "a/one.mp4\tA  red circle\t\t\t\t\t\t\n"
        'two.mp4\t"Tab\tand ""quotes"""\t1.5\t4\theld_out\tsecond\tCC0\tcalm\n',
    )
    one, two = read_manifest(path)
    assert (one.path, one.clip_id) == (tmp_path / "a/one.mp4", "a/one")
    assert (one.start_s, one.end_s, one.split, one.extra) == (0.0, None, "", {})
    assert one.caption == "A red circle"
    assert (two.start_s, two.end_s, two.split, two.clip_id) == (1.5, 4.0, "held_out", "second")
    assert (two.caption, two.licence) == ('Tab and "quotes"', "CC0")
    assert two.extra == {"mood": "calm"}


def test_csv_and_jsonl_say_the_same(tmp_path):
    table = _write(tmp_path, "a.csv", 'path,caption,start_s\nx.mp4,"one, two",\nx.mp4,three,2\n')
    lines = _write(
        tmp_path,
        "a.jsonl",
        '{"file": "x.mp4", "caption": "one, two"}\n\n'
        '{"file": "x.mp4", "caption": "three", "start_s": 2}\n',
    )
    assert read_manifest(table) == read_manifest(lines)
    assert [row.clip_id for row in read_manifest(table)] == ["x", "x@2s"]


def test_a_folder_with_captions(tmp_path):
    for name in ("b.mp4", "a.webm", "a.mov", "notes.md", ".hidden.mp4", "still.png"):
        _write(tmp_path, name, "")
    _write(tmp_path, "b.txt", "A caption\nin two lines\n")
    rows = read_manifest(tmp_path)
    assert [row.path.name for row in rows] == ["a.mov", "a.webm", "b.mp4", "still.png"]
    assert [row.clip_id for row in rows] == ["a.mov", "a.webm", "b", "still"]
    assert [row.caption for row in rows] == ["", "", "A caption in two lines", ""]


def test_a_folder_with_a_manifest(tmp_path):
    _write(tmp_path, "other.mp4", "")
    _write(tmp_path, "MANIFEST.tsv", "file\tcaption\none.mp4\thello\n")
    assert [row.caption for row in read_manifest(tmp_path)] == ["hello"]


def test_a_manifest_elsewhere(tmp_path):
    path = _write(tmp_path, "list.tsv", "file\none.mp4\n/abs/two.mp4\n")
    rows = read_manifest(path, media_dir=tmp_path / "media")
    assert [str(row.path) for row in rows] == [str(tmp_path / "media/one.mp4"), "/abs/two.mp4"]


def test_the_real_manifest(real_clips):
    rows = read_manifest(real_clips)
    assert len(rows) == 15 and all(row.path.is_file() and row.caption for row in rows)
    assert rows[0].extra["video_codec"] == "h264" and rows[0].licence.startswith("CC0")


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.tsv", "name\tcaption\nx\ty\n", "line 1: expected column names with 'file' or 'path'"),
        ("a.tsv", "", "line 1: expected column names .* got nothing"),
        ("a.tsv", "file\n", "has no rows; add one line a clip"),
        ("a.tsv", "file\nx\ty\n", "line 2: more fields than the 1 column names; quote"),
        ("a.tsv", "file\tstart_s\nx\t\ny\tsoon\n", "line 3: start_s must be seconds .* got 'soon'"),
        ("a.tsv", "file\tend_s\nx\tnan\n", "line 2: end_s must be seconds"),
        ("a.tsv", "file\tstart_s\tend_s\nx\t3\t2\n", "line 2: end_s 2 is not after start_s 3"),
        ("a.tsv", "file\tcaption\n\tonly words\n", "line 2: the row names no file"),
        ("a.tsv", "file\nx.mp4\nx.mp4\n", "row 2: the id 'x' appears twice"),
        ("a.jsonl", '{"file": \n', "line 1: not JSON"),
        ("a.jsonl", "[1]\n", "line 1: expected a JSON object"),
        ("a.txt", "file\nx\n", "is a .tsv, .csv or .jsonl file or a folder"),
    ],
)
def test_refusals(tmp_path, name, text, words):
    with pytest.raises(MediaError, match=words):
        read_manifest(_write(tmp_path, name, text))


def test_missing_and_empty(tmp_path):
    with pytest.raises(MediaError, match="There is no manifest or folder"):
        read_manifest(tmp_path / "none.tsv")
    with pytest.raises(MediaError, match="holds no media files and no manifest.tsv"):
        read_manifest(tmp_path)
    (tmp_path / "latin.tsv").write_bytes("file\tcaption\nx\tcafé\n".encode("latin-1"))
    with pytest.raises(MediaError, match="is not UTF-8 text"):
        read_manifest(tmp_path / "latin.tsv")
