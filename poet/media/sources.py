"""Where media lie besides local files: in tar shards (WebDataset) and behind URLs.

Decoders open local files only, so that a row's bytes are copied to a temporary one while it is cut.
"""

import contextlib
import dataclasses
import glob
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath

from etils import epath

from poet.media.errors import MediaError

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclasses.dataclass(frozen=True)
class TarPart:
    """A member of an uncompressed tar file: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path needs a file system of its own, such as gs:// or s3://."""
    return "://" in os.fspath(path)


def open_path(path: str | os.PathLike) -> PurePath:
    """The path as an object that can be opened, local or remote."""
    return epath.Path(path) if is_remote(path) else Path(path)


def size_and_time(path: PurePath) -> list[int] | None:
    """[bytes, time of change in ns] of a file; None where there is none."""
    try:
        if isinstance(path, Path):
            stat = path.stat()
            return [stat.st_size, stat.st_mtime_ns]
        stat = path.stat()
        return [int(stat.length), int((stat.mtime or 0) * 1e9)]
    except OSError:
        return None


@contextlib.contextmanager
def local_file(path: PurePath, part: TarPart | None = None) -> Iterator[Path]:
    """A local file with the bytes of a row, the file itself where that is one.

    Raises MediaError if the bytes cannot be had; errors of the block name the row, not the copy.
    """
    if part is None and isinstance(path, Path):
        yield path
        return
    name = f"{path}:{part.name}" if part else str(path)
    suffix = Path(part.name).suffix if part else path.suffix
    folder = tempfile.mkdtemp(prefix="poet-media-")
    copy = Path(folder, f"copy{suffix}")
    try:
        try:
            with path.open("rb") as source, copy.open("wb") as target:
                if part is None:
                    shutil.copyfileobj(source, target, 2**20)
                else:
                    source.seek(part.offset)
                    _copy_bytes(source, target, part.size)
        except (OSError, EOFError) as error:
            raise MediaError(
                f"{name} cannot be read ({error}); check it or leave it out."
            ) from error
        try:
            yield copy
        except MediaError as error:
            raise MediaError(str(error).replace(str(copy), name)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy_bytes(source, target, size: int) -> None:
    while size:
        block = source.read(min(size, 2**20))
        if not block:
            raise EOFError(f"{size} bytes are missing at the end")
        target.write(block)
        size -= len(block)


def tar_files(pattern: str | os.PathLike) -> list[PurePath]:
    """The shards that a name means: one .tar, a {000..012} range, a glob, or a folder of them.

    Empty if the name has nothing to do with tar files. Raises MediaError for a pattern of tar files
    that there are none of.
    """
    pattern = os.fspath(pattern)
    if not pattern.endswith(".tar"):
        folder = Path(pattern)
        found = sorted(folder.glob("*.tar")) if folder.is_dir() else []
        return list(found)
    span = _BRACES.search(pattern)
    if span:
        first, last = span.groups()
        numbers = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
        names = [pattern[: span.start()] + n + pattern[span.end() :] for n in numbers]
    elif any(sign in pattern for sign in "*?["):
        parent, name = os.path.split(pattern)
        if is_remote(pattern):
            names = sorted(os.fspath(path) for path in epath.Path(parent).glob(name))
        else:
            names = sorted(glob.glob(pattern))
    else:
        names = [pattern]
    paths = [open_path(name) for name in names]
    missing = [path for path in paths if not path.exists()]
    if missing or not paths:
        raise MediaError(f"There is no file {missing[0] if missing else pattern}; check the name.")
    return paths


def tar_samples(path: PurePath) -> Iterator[tuple[str, dict[str, TarPart], dict]]:
    """Yields (key, {suffix: member}, facts) of the samples of one WebDataset shard.

    Members whose names agree up to the first dot are a sample. `facts` are those of its .json,
    with "caption" from its .txt or .caption.

    Raises MediaError if the file is no tar file, or is cut off in the middle of a header.
    """
    key, parts, facts = None, {}, {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                folder, name = os.path.split(member.name)
                stem, _, suffix = name.partition(".")
                if not member.isfile() or not stem:
                    continue
                if key not in (None, os.path.join(folder, stem)):
                    yield key, parts, facts
                    parts, facts = {}, {}
                key, suffix = os.path.join(folder, stem), suffix.lower()
                if suffix in ("txt", "caption", "json"):
                    text = archive.extractfile(member).read().decode("utf-8-sig")
                    facts |= json.loads(text) if suffix == "json" else {"caption": text}
                else:
                    parts[suffix] = TarPart(member.name, member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise MediaError(
            f"{path} cannot be read as a WebDataset shard ({error}); give uncompressed tar files."
        ) from error
    if key is not None:
        yield key, parts, facts
