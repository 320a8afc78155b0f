import shutil
import subprocess
import sys

import numpy as np
import pytest

from poet.data import records


@pytest.fixture
def copy(dataset_dir, tmp_path):
    """A copy that the test may damage."""
    return shutil.copytree(dataset_dir, tmp_path / "copy")


def _shard(directory, number=0):
    return sorted(directory.glob("*-train.*"))[number]


def test_reads_what_was_written(dataset, make_records, metadata):
    assert dataset.splits == {"train": 43, "validation": 11}
    assert dataset.metadata == metadata and dataset.fingerprints == metadata["fingerprints"]
    # Backwards, so that reading does not depend on an order.
    for index, want in reversed(list(enumerate(make_records(0, 43)))):
        got = dataset.read("train", index)
        assert (got["clip_id"], got["caption"]) == (want["clip_id"], want["caption"])
        np.testing.assert_array_equal(got["visual"], want["visual"])
        np.testing.assert_array_equal(got["audio"], want["audio"])


def test_capabilities_index_the_records_that_have_them(dataset, make_records):
    have = {
        "caption": lambda record: record["caption"] != "",
        "audio": lambda record: record["has_audio"],
        "video": lambda record: record["visual"].shape[0] > 1,
    }
    for name, test in have.items():
        want = [index for index, record in enumerate(make_records(0, 43)) if test(record)]
        assert dataset.capability("train", name).tolist() == want
    both = set(dataset.capability("train", "audio")) & set(dataset.capability("train", "caption"))
    assert set(dataset.having("train", {"audio", "caption"}).tolist()) == both
    assert dataset.having("train", set()).tolist() == list(range(43))


def test_reads_without_the_cache(monkeypatch, dataset_dir, make_records):
    monkeypatch.setattr(records, "_CACHE_BYTES", 0)
    dataset = records.open_dataset(dataset_dir)
    for index, want in enumerate(make_records(0, 43)):
        np.testing.assert_array_equal(dataset.read("train", index)["visual"], want["visual"])


def test_reading_a_record_imports_no_tfds(dataset_dir):
    """Records are read in threads; TFDS, while it is imported, breaks imports of other threads."""
    program = (
        "import sys; from poet.data import records;"
        f"dataset = records.open_dataset({str(dataset_dir)!r});"
        "before = set(sys.modules); dataset.read('train', 0);"
        "print(sorted(name for name in set(sys.modules) - before if 'tensorflow' in name))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_refuses_what_is_no_dataset(dataset_dir, copy, tmp_path):
    with pytest.raises(ValueError, match="does not exist.*poet prepare --media"):
        records.open_dataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a prepared dataset: expected poet.json"):
        records.open_dataset(tmp_path)
    (copy / "poet.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as a dataset's description"):
        records.open_dataset(copy)
    (copy / "poet.json").write_text('{"format_version": 99}')
    with pytest.raises(ValueError, match="format version 99.*Update Poet"):
        records.open_dataset(copy)


def test_refuses_a_dataset_with_a_file_missing(copy):
    name = _shard(copy, 1).name
    _shard(copy, 1).unlink()
    with pytest.raises(ValueError, match=f"incomplete: {name} is missing"):
        records.open_dataset(copy)


def test_refuses_unknown_splits_capabilities_and_indices(dataset):
    with pytest.raises(ValueError, match=r"no split 'test', only \['train', 'validation'\]"):
        dataset.read("test", 0)
    with pytest.raises(ValueError, match="Unknown capability 'depth'"):
        dataset.capability("train", "depth")
    with pytest.raises(ValueError, match="Record 43 is outside split 'train'.*from 0 to 42"):
        dataset.read("train", 43)


def test_names_the_damaged_record_and_reads_the_others(copy):
    path = _shard(copy, 1)
    data = bytearray(path.read_bytes())
    # In the midst of the records, which take the file's first 8 kB.
    data[4000] ^= 0xFF
    path.write_bytes(bytes(data))
    dataset = records.open_dataset(copy)
    damaged = []
    for index in range(43):
        try:
            assert dataset.read("train", index)["clip_id"] == f"clip_0_{index}"
        except ValueError as error:
            damaged.append((index, str(error)))
    [(index, message)] = damaged
    assert f"Record {index - 20} of {path} is corrupt" in message and "poet prepare" in message


def test_refuses_a_shard_cut_short(copy):
    path = _shard(copy, 2)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{path.name} is corrupt: reading it failed"):
        records.open_dataset(copy).read("train", 40)


def test_refuses_a_shard_of_another_dataset(copy):
    shutil.copy(_shard(copy, 2), _shard(copy, 1))
    with pytest.raises(ValueError, match="the file has 3 records, 20 were written"):
        records.open_dataset(copy).read("train", 20)


def test_refuses_a_damaged_index(copy):
    (copy / "index" / "train.audio.npy").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="Index file .*train.audio.npy cannot be read"):
        records.open_dataset(copy).capability("train", "audio")
