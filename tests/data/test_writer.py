import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from poet.data import features, writer


def _digests(directory):
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


# TFDS 4.9.10 reads its own dataset_info.json with a call that protobuf 6 deprecates.
@pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")
def test_tfds_opens_it_and_reads_the_same_records(dataset_dir, make_records, metadata):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(dataset_dir)
    assert builder.info.splits["train"].num_examples == 43
    assert builder.info.metadata["metadata"] == metadata
    source = builder.as_data_source(split="train")
    for index, want in enumerate(make_records(0, 43)):
        got = source[index]
        assert got["clip_id"].decode() == want["clip_id"]
        assert got["caption"].decode("utf-8") == want["caption"]
        assert (got["num_frames"], got["has_audio"]) == (want["num_frames"], want["has_audio"])
        for name in ("visual", "audio"):
            assert got[name].dtype == np.int32
            np.testing.assert_array_equal(got[name], want[name])


def test_poet_json_holds_metadata_and_statistics(dataset_dir, make_records, metadata):
    summary = json.loads((dataset_dir / "poet.json").read_text())
    records, train = list(make_records(0, 43)), summary["splits"]["train"]
    assert summary["metadata"] == metadata and summary["audio_levels"] == 2
    assert train["num_records"] == 43 and train["shard_lengths"] == [20, 20, 3]
    assert train["num_images"] == 8 and train["num_with_video"] == 35
    assert train["num_with_audio"] == sum(record["has_audio"] for record in records)
    assert train["num_visual_ids"] == sum(record["visual"].size for record in records)
    assert train["visual_shapes"] == {"1x2x2": 8, "5x2x2": 35}
    used = np.unique(np.concatenate([record["visual"].ravel() for record in records]))
    assert train["codes_used"]["visual"] == len(used)


def test_equal_input_gives_equal_bytes(dataset_dir, write, tmp_path):
    write(tmp_path / "again")
    assert _digests(tmp_path / "again") == _digests(dataset_dir)


def test_fingerprint_names_the_content(dataset_dir, make_records, metadata, tmp_path):
    want = json.loads((dataset_dir / "poet.json").read_text())["fingerprint"]
    changed = list(make_records(0, 43))
    changed[5] = {**changed[5], "caption": "another"}
    got = writer.write_dataset(tmp_path / "changed", {"train": changed}, metadata)
    same = writer.write_dataset(tmp_path / "same", {"train": make_records(0, 43)}, metadata)
    assert len({want, got["fingerprint"], same["fingerprint"]}) == 3


def test_a_failed_write_leaves_nothing(make_records, metadata, tmp_path):
    def breaks():
        yield from make_records(0, 3)
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        writer.write_dataset(tmp_path / "out", {"train": breaks()}, metadata)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_swept(make_records, metadata, tmp_path):
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp" / "half").write_text("x")
    writer.write_dataset(tmp_path / "out", {"train": make_records(0, 3)}, metadata)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "half").exists()


def test_overwrites_only_when_told(make_records, metadata, tmp_path):
    writer.write_dataset(tmp_path / "out", {"train": make_records(0, 3)}, metadata)
    with pytest.raises(ValueError, match="exists already.*Choose another --out"):
        writer.write_dataset(tmp_path / "out", {"train": make_records(0, 4)}, metadata)
    options = {"overwrite": True}
    writer.write_dataset(tmp_path / "out", {"train": make_records(0, 4)}, metadata, **options)
    summary = json.loads((tmp_path / "out" / "poet.json").read_text())
    assert summary["splits"]["train"]["num_records"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_empty_splits_are_left_out(make_records, metadata, tmp_path):
    splits = {"train": make_records(0, 3), "validation": []}
    summary = writer.write_dataset(tmp_path / "out", splits, metadata)
    assert list(summary["splits"]) == ["train"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual": np.zeros((5, 4), np.int32)}, "visual must be an integer array with 3 axes"),
        ({"visual": np.zeros((5, 2, 2))}, "visual must be an integer array with 3 axes"),
        ({"visual": np.full((1, 1, 1), -1)}, "holds ids from -1 to -1"),
        ({"visual": np.zeros((0, 2, 2), int)}, "has no visual ids"),
        ({"audio": np.zeros((2, 0), int)}, "has_audio=1 but audio ids have the shape"),
        ({"audio": np.zeros((0, 0), int), "has_audio": 0}, "expected at least one level"),
        ({"audio": np.zeros((3, 106), int)}, "has 3 audio levels"),
        ({"masked": np.zeros((4, 2, 2), int)}, "masked ids have the shape"),
        ({"region": ""}, "has region='' and masked ids"),
    ],
)
def test_refuses_unfit_records(change, message, make_records, metadata, tmp_path):
    good, bad = list(make_records(0, 3))[::2]
    with pytest.raises(ValueError, match=f"{bad['clip_id']}.*{message}"):
        writer.write_dataset(tmp_path / "out", {"train": [good, {**bad, **change}]}, metadata)
    assert list(tmp_path.iterdir()) == []


def test_refuses_unfit_arguments(make_records, metadata, tmp_path):
    record = next(make_records(0, 1))
    del record["caption"]
    for splits, options, message in (
        ({}, {}, "at least one split"),
        ({"train": []}, {}, "at least one record"),
        ({"train": [record]}, {}, r"lacks \['caption'\]"),
        ({"held-out": []}, {}, "letters, digits and underscores"),
        ({"train": []}, {"file_format": "riegeli"}, "file_format must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            writer.write_dataset(tmp_path / "out", splits, metadata, **options)
    with pytest.raises(ValueError, match="must hold 'fingerprints'"):
        writer.write_dataset(tmp_path / "out", {"train": []}, {})


def test_publishes_remotely_with_poet_json_last(monkeypatch, make_records, metadata, tmp_path):
    # Stands in for an object store: files are copied one by one, poet.json the last.
    copied = []
    monkeypatch.setattr(writer, "_is_local", lambda path: False)
    monkeypatch.setattr(writer, "_copy", lambda source, target: copied.append((source, target)))
    writer.write_dataset(tmp_path / "out", {"train": make_records(0, 3)}, metadata)
    names = [target.name for _, target in copied]
    assert names[-1] == "poet.json" and "train.crc32.npy" in names and "train.grid.npy" in names
    assert len(names) == 14


def test_encoding_is_exact(make_records):
    for record in make_records(0, 8):
        checked = features.check_record(record)
        decoded = features.decode_record(features.encode_record(checked), 2)
        assert decoded.keys() == set(features.FIELDS)
        for name in ("visual", "audio", "masked", "structure"):
            np.testing.assert_array_equal(decoded.pop(name), record[name])
        assert decoded == {name: checked[name] for name in decoded}


def test_writing_and_reading_need_no_tensorflow(tmp_path):
    script = f"""
import sys

class Hide:
    # As if neither was installed.
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ("tensorflow", "seqio"):
            return finder.find_spec(name, path, target)

at = [getattr(finder, "__name__", "") for finder in sys.meta_path].index("PathFinder")
finder, sys.meta_path[at] = sys.meta_path[at], Hide()
import numpy as np
from poet.data import batches, groups, records, registry, writer
ids = np.zeros((1, 2, 2), np.int32)
record = dict(clip_id="a", caption="b", visual=ids, audio=np.zeros((2, 0), np.int32),
              num_frames=1, has_audio=0)
out = {str(tmp_path / "out")!r}
writer.write_dataset(out, {{"train": [record]}}, {{"fingerprints": {{}}}})
assert records.open_dataset(out).read("train", 0)["clip_id"] == "a"
registry.load_task_modules(["tasks.paper", "tasks.mixtures"])
assert len(registry.resolve("poet_pretrain")) == 17
assert "seqio" not in sys.modules and "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
