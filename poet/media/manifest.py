"""Manifests: which media files there are, and what they show.

A manifest is a TSV, CSV or JSONL file with one row a clip. Columns: `file` (or `path`; relative
names start at the manifest's folder) and, where wanted, `caption`, `start_s`, `end_s`, `split`,
`clip_id`, `licence`, `source`; other columns are kept in `extra`. A folder is a manifest too: its
manifest.tsv, or else its media files with captions in .txt files of the same name. So are tar
shards of WebDataset: NAME.mp4 (or .jpg, ...) with NAME.txt or NAME.json, whose fields are columns.
Files and shards may be remote.
"""

import collections
import csv
import dataclasses
import io
import json
import os
from pathlib import PurePath

from poet.media import sources
from poet.media.errors import MediaError
from poet.media.images import IMAGE_SUFFIXES
from poet.media.sources import TarPart

MEDIA_SUFFIXES = IMAGE_SUFFIXES | frozenset(
    ".avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()
)
_NAMES_IN_FOLDER = tuple(
    f"{stem}.{suffix}" for suffix in ("tsv", "csv", "jsonl") for stem in ("manifest", "MANIFEST")
)
_COLUMNS = (
    *("file", "path", "caption", "start_s", "end_s", "split", "clip_id"),
    *("licence", "license", "source"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """One row: a file, or the part of it between start_s and end_s (None: to the end).

    `part` says which member of the tar file `path` it is. `clip_id` is the row's own id, else the
    file's name as written in the manifest, without its ending. `split` is "" where the manifest
    names none.
    """

    path: PurePath
    clip_id: str
    caption: str = ""
    start_s: float = 0.0
    end_s: float | None = None
    split: str = ""
    licence: str = ""
    source: str = ""
    extra: dict = dataclasses.field(default_factory=dict)
    part: TarPart | None = None

    @property
    def suffix(self) -> str:
        """Ending of the media file's name, lower case."""
        return PurePath(self.part.name if self.part else self.path).suffix.lower()


def read_manifest(
    path: str | os.PathLike, media_dir: str | os.PathLike | None = None
) -> list[ManifestRow]:
    """Returns the rows of a manifest file or folder, in order (a folder: by name).

    Args:
      path: the manifest, or a folder.
      media_dir: where relative file names start; None for the manifest's own folder.

    Raises:
      MediaError: there is no such file, a row is unfit, or there are no rows; the text names the
        file, the row and the remedy. Media files themselves are not opened.
    """
    shards = sources.tar_files(path)
    if shards:
        return _read_shards(shards)
    path = sources.open_path(path)
    if path.is_dir():
        for name in _NAMES_IN_FOLDER:
            if (path / name).is_file():
                return read_manifest(path / name, media_dir)
        return _read_folder(path)
    if not path.is_file():
        raise MediaError(f"There is no manifest or folder {path}; check the name.")
    readers = {".tsv": _read_table, ".csv": _read_table, ".jsonl": _read_jsonl}
    if path.suffix.lower() not in readers:
        raise MediaError(
            f"A manifest is a .tsv, .csv or .jsonl file or a folder, got {path}; "
            "to use one media file, name its folder."
        )
    folder = sources.open_path(media_dir) if media_dir is not None else path.parent
    lines = readers[path.suffix.lower()](path)
    rows = [_row(f"{path}, line {number}", folder, fields) for number, fields in lines]
    if not rows:
        raise MediaError(f"{path} has no rows; add one line a clip below the column names.")
    _check_ids(path, rows)
    return rows


def _read_shards(shards: list[PurePath]) -> list[ManifestRow]:
    rows = []
    for shard in shards:
        for key, parts, facts in sources.tar_samples(shard):
            part = next((p for suffix, p in parts.items() if "." + suffix in MEDIA_SUFFIXES), None)
            if part is not None:
                fields = {"file": part.name, "clip_id": f"{shard.stem}/{key}"} | facts
                row = _row(f"{shard}, sample {key}", shard.parent, fields)
                rows.append(dataclasses.replace(row, path=shard, part=part))
    if not rows:
        raise MediaError(
            f"{shards[0]} and {len(shards) - 1} more shards hold no media; a sample is NAME.mp4 (or"
            " .jpg, ...) with NAME.txt or NAME.json."
        )
    _check_ids(shards[0], rows)
    return rows


def _read_folder(folder: PurePath) -> list[ManifestRow]:
    rows = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in MEDIA_SUFFIXES or path.name.startswith("."):
            continue
        text = path.with_suffix(".txt")
        caption = " ".join(_read_text(text).split()) if text.is_file() else ""
        rows.append(ManifestRow(path=path, clip_id=path.stem, caption=caption))
    if not rows:
        raise MediaError(
            f"The folder {folder} holds no media files and no manifest.tsv; name a folder with "
            "mp4 files (and same-named .txt captions), or a manifest file."
        )
    return _with_distinct_ids(rows)


def _with_distinct_ids(rows: list[ManifestRow]) -> list[ManifestRow]:
    """Rows whose ids collide (a.mp4 beside a.mov) take the file's whole name."""
    times = collections.Counter(row.clip_id for row in rows)
    return [
        dataclasses.replace(row, clip_id=row.path.name) if times[row.clip_id] > 1 else row
        for row in rows
    ]


def _read_text(path: PurePath) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MediaError(f"{path} is not UTF-8 text; save it as UTF-8.") from error


def _read_table(path: PurePath):
    """Yields (line number, fields) of a TSV or CSV file."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), delimiter=delimiter)
    if not {"file", "path"} & set(reader.fieldnames or ()):
        raise MediaError(
            f"{path}, line 1: expected column names with 'file' or 'path', got "
            f"{reader.fieldnames or 'nothing'}; add that line."
        )
    for fields in reader:
        if None in fields:
            raise MediaError(
                f"{path}, line {reader.line_num}: more fields than the {len(reader.fieldnames)} "
                "column names; quote fields that hold the separator."
            )
        yield reader.line_num, {name: value for name, value in fields.items() if value}


def _read_jsonl(path: PurePath):
    """Yields (line number, fields) of a file with one JSON object a line."""
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise MediaError(f"{path}, line {number}: not JSON ({error.msg}); fix it.") from error
        if not isinstance(fields, dict):
            raise MediaError(f"{path}, line {number}: expected a JSON object, got {line[:40]}.")
        yield number, fields


def _row(where: str, folder: PurePath, fields: dict) -> ManifestRow:
    name = fields.get("file") or fields.get("path")
    if not name:
        raise MediaError(f"{where}: the row names no file; fill 'file' or delete the row.")
    start_s = _seconds(where, "start_s", fields.get("start_s")) or 0.0
    end_s = _seconds(where, "end_s", fields.get("end_s"))
    if end_s is not None and end_s <= start_s:
        raise MediaError(f"{where}: end_s {end_s:g} is not after start_s {start_s:g}; fix the row.")
    clip_id = fields.get("clip_id") or os.path.splitext(str(name))[0]
    if start_s and not fields.get("clip_id"):
        clip_id += f"@{start_s:g}s"
    return ManifestRow(
        path=sources.open_path(name) if sources.is_remote(name) else folder / str(name),
        clip_id=str(clip_id),
        caption=" ".join(str(fields.get("caption") or "").split()),
        start_s=start_s,
        end_s=end_s,
        split=str(fields.get("split") or ""),
        licence=str(fields.get("licence") or fields.get("license") or ""),
        source=str(fields.get("source") or ""),
        extra={key: value for key, value in fields.items() if key not in _COLUMNS},
    )


def _seconds(where: str, column: str, value) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise MediaError(f"{where}: {column} must be seconds from 0 on, got {value!r}; fix it.")
    return seconds


def _check_ids(manifest: PurePath, rows: list[ManifestRow]) -> None:
    seen = set()
    for number, row in enumerate(rows, 1):
        if row.clip_id in seen:
            raise MediaError(
                f"{manifest}, row {number}: the id {row.clip_id!r} appears twice; give each row a "
                "clip_id of its own."
            )
        seen.add(row.clip_id)
