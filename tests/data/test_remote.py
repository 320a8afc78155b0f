"""Media, datasets and shards in an object store."""

import numpy as np
import pytest
import remote
from etils import epath
from tiny_prepare import RULES, Loudness, MeanColour, write_clip

from poet.data import records, shard_cache, writer
from poet.data.prepare import PrepareConfig, prepare
from poet.media.manifest import read_manifest


@pytest.fixture
def store(monkeypatch):
    """An empty s3://."""
    monkeypatch.setattr(records, "_shards", lambda: shard_cache.ShardCache(2**30))
    return remote.install(monkeypatch)


def _upload(folder, url):
    for path in sorted(folder.iterdir()):
        epath.Path(url, path.name).write_bytes(path.read_bytes())


@pytest.fixture
def media(tmp_path):
    """Two clips with captions."""
    folder = tmp_path / "media"
    folder.mkdir()
    for name, level in (("a", 60), ("b", 150)):
        write_clip(folder / f"{name}.mp4", level)
        (folder / f"{name}.txt").write_text(f"level {level}")
    return folder


def test_from_store_to_store(store, media, tmp_path):
    _upload(media, "s3://bucket/in")
    rows = read_manifest("s3://bucket/in")
    assert [(row.clip_id, row.caption) for row in rows] == [("a", "level 60"), ("b", "level 150")]
    # The store lives in this process, so that decoding has to as well.
    there = PrepareConfig(
        media="s3://bucket/in", out_dir="s3://bucket/out/ds", rules=RULES, num_workers=0
    )
    report = prepare(there, MeanColour(), Loudness())
    assert report.num_records == 2 and not report.rejected
    here = PrepareConfig(media=media, out_dir=tmp_path / "ds", rules=RULES, num_workers=0)
    prepare(here, MeanColour(), Loudness())
    one, two = records.open_dataset("s3://bucket/out/ds"), records.open_dataset(tmp_path / "ds")
    assert one.fingerprint == two.fingerprint
    for index in range(2):
        np.testing.assert_array_equal(
            one.read("train", index)["visual"], two.read("train", index)["visual"]
        )
    names = {path.name for path in epath.Path("s3://bucket/out").iterdir()}
    assert names == {"ds"}, "no unfinished work is left"
    # Nothing is done twice.
    assert prepare(there, MeanColour(), Loudness()).num_units_reused == 1


def test_a_missing_object_costs_its_row(store, media):
    _upload(media, "s3://bucket/in")
    epath.Path("s3://bucket/in/list.tsv").write_text("file\na.mp4\nnone.mp4\n")
    config = PrepareConfig(
        media="s3://bucket/in/list.tsv", out_dir="s3://bucket/ds", rules=RULES, num_workers=0
    )
    report = prepare(config, MeanColour(), Loudness())
    (rejected,) = report.rejected
    assert "none.mp4 cannot be read" in rejected["reason"]


def test_shards_are_copied_once_and_only_so_many_stay(store, make_records, metadata, monkeypatch):
    splits = {"train": make_records(0, 40)}
    writer.write_dataset("s3://bucket/ds", splits, metadata, records_per_shard=10)
    store.opened.clear()
    monkeypatch.setattr(records, "_CACHE_BYTES", 0)
    dataset = records.open_dataset("s3://bucket/ds")

    def copied(cache, positions):
        monkeypatch.setattr(records, "_shards", lambda: cache)
        store.opened.clear()
        for position in positions:
            dataset.read("train", position)
        return [name[-14:-9] for name in store.opened if "array_record" in name]

    large = shard_cache.ShardCache(2**30)
    assert copied(large, (0, 15, 1, 16, 2)) == ["00000", "00001"]
    size = large.num_bytes() // 2
    large.clear()
    assert large.num_bytes() == 0
    # Room for two: the one read longest ago goes.
    small = shard_cache.ShardCache(int(2.5 * size))
    assert copied(small, (0, 15, 25, 16, 2)) == ["00000", "00001", "00002", "00000"]
    assert small.num_bytes() <= 2.5 * size
    small.clear()
