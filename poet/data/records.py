"""Random access to the records of a prepared dataset, without TensorFlow.

dataset = open_dataset("out/demo/dataset")
dataset.read("train", 7)["visual"]            # int32 [t, h, w], local codes
dataset.capability("train", "audio")          # positions of the records with sound
"""

import atexit
import dataclasses
import functools
import json
import os
import threading
import zlib

import numpy as np
from etils import epath

from poet.data import features, shard_cache, writer
from poet.data.tfrecord import TfrecordReader

# Splits up to this size are kept in memory (as stored) after their first record is read.
_CACHE_BYTES = 512 * 2**20


class CorruptRecordError(ValueError):
    """A record whose bytes are damaged; the text names file, record and remedy."""


def open_dataset(directory) -> "Dataset":
    """The prepared dataset in a directory, local or remote; "A,B" is several as one.

    Raises ValueError if the directory does not exist, is no prepared dataset, was written by a
    newer Poet, or lacks one of its files.
    """
    if "," in os.fspath(directory):
        from poet.data import joined

        names = [name for name in os.fspath(directory).split(",") if name]
        return joined.join([open_dataset(name) for name in names])
    directory = epath.Path(directory)
    if not directory.exists():
        raise ValueError(
            f"Dataset {directory} does not exist, expected the --out of `poet prepare`."
            f" Make it with: poet prepare --media FOLDER --out {directory}"
        )
    summary_path = directory / "poet.json"
    if not summary_path.exists():
        raise ValueError(
            f"{directory} is not a prepared dataset: expected poet.json in it."
            " Give the --out of `poet prepare`, or run it first."
        )
    try:
        summary = json.loads(summary_path.read_text())
        version = summary["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{summary_path} cannot be read as a dataset's description ({error!r})."
            " Run `poet prepare` again."
        ) from error
    if version > writer.FORMAT_VERSION:
        raise ValueError(
            f"{directory} has format version {version}, this Poet reads up to"
            f" {writer.FORMAT_VERSION}. Update Poet, or run `poet prepare` again."
        )
    dataset = Dataset(directory=directory, summary=summary)
    dataset.check_files()
    features.import_protos()
    return dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A prepared dataset; made by `open_dataset`. Reading is safe from several threads.

    Attributes:
      directory: where it lies; for several, their names with commas.
      summary: content of its poet.json.
    """

    directory: epath.Path | str
    summary: dict

    @property
    def splits(self) -> dict[str, int]:
        """Number of records by split."""
        return {name: facts["num_records"] for name, facts in self.summary["splits"].items()}

    @property
    def metadata(self) -> dict:
        """What `poet prepare` wrote down: fingerprints, vocabulary, sizes, preprocessing."""
        return self.summary["metadata"]

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each tokenizer that made the ids."""
        return self.metadata["fingerprints"]

    @property
    def fingerprint(self) -> str:
        """Names the records and their metadata."""
        return self.summary["fingerprint"]

    def read(self, split: str, index: int | np.integer) -> dict:
        """The record: clip_id, caption, visual [t, h, w], audio [levels, frames], facts."""
        return self._split(split).read(index)

    def capability(self, split: str, name: str) -> np.ndarray:
        """Sorted positions (int64, read-only) of the records that have a capability."""
        if name not in writer.CAPABILITIES:
            raise ValueError(
                f"Unknown capability {name!r}, expected one of {list(writer.CAPABILITIES)}."
            )
        return self._split(split).capability(name)

    def grids(self, split: str) -> np.ndarray:
        """Shape (t, h, w) of every record's visual ids: int32 [records, 3], read-only."""
        return self._split(split).grids

    def having(self, split: str, names) -> np.ndarray:
        """Sorted positions (int64) of the records that have all the named capabilities."""
        indices = np.arange(self._split(split).num_records)
        for name in sorted(names):
            indices = np.intersect1d(indices, self.capability(split, name), assume_unique=True)
        return indices

    def check_files(self):
        """ValueError naming the first file of the dataset that is not there."""
        for split in self.splits:
            for path in self._split(split).paths():
                if not path.exists():
                    raise ValueError(
                        f"Dataset {self.directory} is incomplete: {path.name} is missing."
                        " Copy it again from where it was made, or run `poet prepare` again."
                    )

    def _split(self, name: str) -> "_Split":
        if name not in self.summary["splits"]:
            raise ValueError(
                f"Dataset {self.directory} has no split {name!r}, only {sorted(self.splits)}."
                " Choose one of them, or prepare the split."
            )
        return self._splits[name]

    @functools.cached_property
    def _splits(self) -> dict[str, "_Split"]:
        return {name: _Split(self.directory, name, self.summary) for name in self.splits}


class _Split:
    """Records and indices of one split; files are opened at first use."""

    def __init__(self, directory, name, summary):
        facts = summary["splits"][name]
        self._directory, self._name = directory, name
        self._num_levels = summary["audio_levels"]
        self._capabilities = summary.get("capabilities", writer.CAPABILITIES_OF_VERSION_1)
        self._has_grids = summary["format_version"] > 1
        self._file_format = summary["file_format"]
        self._lengths = facts["shard_lengths"]
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)])
        self._is_cached = facts["num_bytes"] <= _CACHE_BYTES
        self._readers: dict[int, object] = {}
        self._cache: dict[int, list[bytes]] = {}
        self._capability: dict[str, np.ndarray] = {}
        self._lock = threading.RLock()
        self.num_records = facts["num_records"]

    def paths(self):
        names = (*self._capabilities, "crc32", *["grid"] * self._has_grids)
        index = [self._index_path(name) for name in names]
        return index + [self._shard_path(number) for number in range(len(self._lengths))]

    def capability(self, name) -> np.ndarray:
        if name not in self._capability:
            is_known = name in self._capabilities
            self._capability[name] = self._load_index(name) if is_known else np.zeros(0, np.int64)
        return self._capability[name]

    def read(self, index: int | np.integer) -> dict:
        index = int(index)
        if not 0 <= index < self.num_records:
            raise ValueError(
                f"Record {index} is outside split {self._name!r} of {self._directory}, which has"
                f" {self.num_records} records. Use an index from 0 to {self.num_records - 1}."
            )
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        at = index - int(self._starts[shard])
        data = self._bytes(shard, at)
        if zlib.crc32(data) != int(self._crc32[index]):
            raise self._corrupt(shard, at, "its checksum does not match")
        try:
            return features.decode_record(data, self._num_levels)
        except (ValueError, KeyError, IndexError) as error:
            raise self._corrupt(shard, at, f"it cannot be decoded ({error})") from error

    def _bytes(self, shard, at) -> bytes:
        """The stored bytes of a record; a corrupt file gives an error that names the record."""
        with self._lock:
            if shard in self._cache:
                return self._cache[shard][at]
            try:
                reader = self._reader(shard)
                if self._is_cached:
                    try:
                        self._cache[shard] = reader.read_all()
                        return self._cache[shard][at]
                    except Exception:
                        # Some record of the shard is damaged, maybe not this one.
                        self._is_cached = False
                return reader.read([at])[0]
            except Exception as error:
                raise self._corrupt(shard, at, f"reading it failed: {error}") from error

    def _reader(self, shard):
        path = self._shard_path(shard)
        if "://" in os.fspath(path):
            return _shards().reader(path, functools.partial(self._open, shard))
        if shard not in self._readers:
            self._readers[shard] = self._open(shard, os.fspath(path))
        return self._readers[shard]

    def _open(self, shard: int, path: str):
        if self._file_format == "tfrecord":
            reader = TfrecordReader(path)
        else:
            from array_record.python import array_record_module

            reader = array_record_module.ArrayRecordReader(path, "readahead_buffer_size:0")
        if reader.num_records() != self._lengths[shard]:
            raise OSError(
                f"the file has {reader.num_records()} records, {self._lengths[shard]} were written"
            )
        return reader

    def _corrupt(self, shard, at, reason):
        return CorruptRecordError(
            f"Record {at} of {self._shard_path(shard)} is corrupt: {reason}. Copy the file again"
            " from where it was made, or run `poet prepare` again; `poet train"
            " --on_bad_record=skip` goes on without it."
        )

    @functools.cached_property
    def _crc32(self) -> np.ndarray:
        return self._load_index("crc32")

    @functools.cached_property
    def grids(self) -> np.ndarray:
        if self._has_grids:
            return self._load_index("grid")
        grids = np.array(
            [self.read(at)["visual"].shape for at in range(self.num_records)], np.int32
        )
        grids.setflags(write=False)
        return grids

    def _load_index(self, name) -> np.ndarray:
        path = self._index_path(name)
        try:
            with path.open("rb") as file:
                array = np.load(file)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"Index file {path} cannot be read ({error}). Copy it again from where it was"
                " made, or run `poet prepare` again."
            ) from error
        array.setflags(write=False)
        return array

    def _index_path(self, name):
        return self._directory / "index" / f"{self._name}.{name}.npy"

    def _shard_path(self, number):
        name = writer.shard_name(self._name, self._file_format, number, len(self._lengths))
        return self._directory / name


@functools.cache
def _shards() -> shard_cache.ShardCache:
    """The copies of remote shards that this process keeps."""
    made = shard_cache.make()
    atexit.register(made.clear)
    return made
