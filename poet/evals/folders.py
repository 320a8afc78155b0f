"""The files of two folders, and which belong together.

A folder is anything that `poet.media.manifest` reads (media files, a manifest, tar shards), or
holds a folder of numbered pictures for each clip. Files pair by name: the id in the manifest, else
the file's name without its ending, "/" written as "_".
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePath

from etils import epath

from poet.media import images, manifest, sources
from poet.media.manifest import ManifestRow
from poet.shapes_world import world

_LAW_WORDS = ("shape", "colour", "motion", "speed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """The files of one name, of one folder or of both, with the words and the law behind them."""

    name: str
    real: ManifestRow | None = None
    generated: ManifestRow | None = None
    caption: str = ""
    spec: world.ClipSpec | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folders:
    """What is to be measured.

    Attributes:
      items: By name; if the folders do not pair, the real files first.
      is_paired: Whether every item has both files.
      real, generated: How many files of each.
    """

    items: tuple[Item, ...]
    is_paired: bool
    real: int
    generated: int


def pair(
    real: str | os.PathLike | None,
    generated: str | os.PathLike,
    *,
    split: str | None = None,
    only_common: bool = False,
    num_clips: int | None = None,
) -> Folders:
    """Finds the files of two folders.

    Args:
      real: None where no metric looks at real clips.
      generated: See the module.
      split: Rows of manifests to take; rows that name no split are always taken.
      only_common: Leave out names that only one folder has.
      num_clips: At most so many of each, the first by name.

    Raises:
      ValueError: A folder is empty or missing, or the two have no name in common.
    """
    truth = rows_of(real, split) if real is not None else {}
    made = rows_of(generated, split)
    if only_common:
        common = set(made) & set(truth)
        if not common:
            raise ValueError(
                f"Expected files of one name in {real} and {generated}, found none; the first"
                f" names are {min(truth, default='none')} and {min(made)}."
            )
        made, truth = ({name: side[name] for name in common} for side in (made, truth))
    if num_clips is not None and num_clips < 1:
        raise ValueError(f"Expected at least 1 clip, got num_clips={num_clips}.")
    return pair_rows(truth, made, num_clips)


def pair_rows(
    truth: Mapping[str, ManifestRow], made: Mapping[str, ManifestRow], num_clips: int | None = None
) -> Folders:
    """Of real and generated files by name, at most so many of each, the first by name."""
    is_paired = set(made) == set(truth)
    made_names, real_names = (sorted(side)[:num_clips] for side in (made, truth))
    if is_paired:
        items = [_item(name, truth, truth[name], made[name]) for name in made_names]
    else:
        items = [_item(name, truth, truth[name], None) for name in real_names]
        items += [_item(name, truth, None, made[name]) for name in made_names]
    return Folders(
        items=tuple(items),
        is_paired=is_paired,
        real=len(real_names),
        generated=len(made_names),
    )


def _item(name, truth: Mapping[str, ManifestRow], real, generated) -> Item:
    row = truth.get(name)
    return Item(
        name=name,
        real=real,
        generated=generated,
        caption=_words(row, generated),
        spec=_spec(row) if row else None,
    )


def _words(*rows: ManifestRow | None) -> str:
    """The caption of the first row that has one, or what `poet generate` noted of its request."""
    known = [row for row in rows if row is not None]
    for row in known:
        if row.caption:
            return row.caption
    for row in known:
        beside = epath.Path(row.path.with_suffix(".json"))
        if row.part is None and beside.is_file():
            with contextlib.suppress(ValueError, AttributeError):
                return str(json.loads(beside.read_text()).get("prompt", ""))
    return ""


def _spec(row: ManifestRow) -> world.ClipSpec | None:
    facts = row.extra
    if not {*_LAW_WORDS, "start_x", "start_y"} <= set(facts):
        return None
    return world.ClipSpec(
        clip_id=row.clip_id,
        split=row.split,
        caption=row.caption,
        start_x=float(facts["start_x"]),
        start_y=float(facts["start_y"]),
        **{word: facts[word] for word in _LAW_WORDS},
    )


def rows_of(folder: str | os.PathLike, split: str | None = None) -> dict[str, ManifestRow]:
    """Name -> row of a folder's clips (see the module), in its order.

    Raises:
      ValueError: It is empty or missing, or has none of that split.
    """
    rows = _picture_folders(folder) or manifest.read_manifest(folder)
    kept = {
        row.clip_id.replace("/", "_"): row
        for row in rows
        if split is None or row.split in ("", split)
    }
    if not kept:
        splits = ", ".join(sorted({row.split for row in rows}))
        raise ValueError(f"{folder} has no clip of split {split!r}; its splits are {splits}.")
    return kept


def _picture_folders(folder: str | os.PathLike) -> list[ManifestRow]:
    """A row for each folder of pictures, unless there is a file beside them that is a clip."""
    if sources.is_remote(folder) or not Path(folder).is_dir():
        return []
    entries = sorted(Path(folder).iterdir())
    is_media = any(entry.suffix.lower() in manifest.MEDIA_SUFFIXES for entry in entries)
    if is_media or any(entry.name.lower().startswith("manifest.") for entry in entries):
        return []
    return [
        ManifestRow(path=entry, clip_id=entry.name)
        for entry in entries
        if entry.is_dir() and pictures_of(entry)
    ]


def pictures_of(folder: PurePath) -> list[Path]:
    """Pictures of a folder by name, the frames of one clip; empty for anything else."""
    if not (isinstance(folder, Path) and folder.is_dir()):
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in images.IMAGE_SUFFIXES)


def identity(row: ManifestRow | None) -> list:
    """What changes when a row's file, or the part of it that is meant, does."""
    if row is None:
        return []
    files = pictures_of(row.path) or [row.path]
    part = dataclasses.astuple(row.part) if row.part else None
    seen = [[str(path), *(sources.size_and_time(path) or [])] for path in files]
    return [seen, part, row.start_s, row.end_s]
