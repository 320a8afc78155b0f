"""Local copies of remote shards, kept while they fit: record readers open local files only."""

import collections
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from etils import epath

# Bytes of local copies that a process keeps; POET_SHARD_CACHE_GB changes it.
_DEFAULT_GB = 32.0


class ShardCache:
    """Readers of the copies used last; an older copy goes when the next would not fit."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._readers: collections.OrderedDict[str, tuple[Any, str, int]] = (
            collections.OrderedDict()
        )
        self._lock = threading.RLock()

    def reader(self, path: epath.Path, open_reader: Callable[[str], Any]) -> Any:
        """The reader of a remote file: of its copy, made at the first call for it."""
        name = os.fspath(path)
        with self._lock:
            if name in self._readers:
                self._readers.move_to_end(name)
                return self._readers[name][0]
            folder = tempfile.mkdtemp(prefix="poet-shard-")
            try:
                copy = os.path.join(folder, path.name)
                path.copy(copy)
                reader = open_reader(copy)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._readers[name] = (reader, folder, os.path.getsize(copy))
            self._make_room()
            return reader

    def num_bytes(self) -> int:
        """Of the copies that are kept."""
        return sum(size for _, _, size in self._readers.values())

    def _make_room(self) -> None:
        while len(self._readers) > 1 and self.num_bytes() > self._max_bytes:
            _, (reader, folder, _) = self._readers.popitem(last=False)
            if hasattr(reader, "close"):
                reader.close()
            shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Closes all readers and removes the copies."""
        with self._lock:
            while self._readers:
                _, (reader, folder, _) = self._readers.popitem()
                if hasattr(reader, "close"):
                    reader.close()
                shutil.rmtree(folder, ignore_errors=True)


def make() -> ShardCache:
    """A cache of the size that POET_SHARD_CACHE_GB says."""
    text = os.environ.get("POET_SHARD_CACHE_GB", str(_DEFAULT_GB))
    try:
        return ShardCache(int(float(text) * 2**30))
    except ValueError as error:
        raise ValueError(f"POET_SHARD_CACHE_GB must be a number, got {text!r}.") from error
