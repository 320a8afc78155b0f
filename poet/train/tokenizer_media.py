"""Media files as arrays in memory, which is what the tokenizers are trained on.

Files are read once; the arrays are kept beside the run (as .npy, written whole or not at all), so
that a restarted run does not decode again.

Axes: W clips, T frames, Y rows, X columns, S samples.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from absl import logging

from poet.media import manifest, sound, sources
from poet.media.errors import MediaError
from poet.media.manifest import ManifestRow
from poet.typing import Float, UInt8

if TYPE_CHECKING:
    from poet.data import tfds_media

# What a row without a split counts as.
_DEFAULT_SPLIT = "train"
# Before the name of a TFDS dataset.
_TFDS = "tfds:"


def rows_of_split(media: str, split: str) -> "list[ManifestRow] | tfds_media.TfdsSplit":
    """Returns the rows of a manifest, folder or TFDS dataset ("tfds:NAME") of a split.

    Raises:
      ValueError: when there are none, naming the splits that there are.
    """
    if media.startswith(_TFDS):
        from poet.data import tfds_media

        return tfds_media.open_split(media.removeprefix(_TFDS), split)
    rows = manifest.read_manifest(media)
    kept = [row for row in rows if (row.split or _DEFAULT_SPLIT) == split]
    if not kept:
        names = ", ".join(sorted({row.split or _DEFAULT_SPLIT for row in rows}))
        raise ValueError(
            f"{media} has no clips of split {split!r}, only of {names}; choose one of them."
        )
    return kept


def splits(media: str) -> set[str]:
    """Names of the splits that the media have."""
    if media.startswith(_TFDS):
        from poet.data import tfds_media

        return tfds_media.splits(media.removeprefix(_TFDS))
    return {row.split or _DEFAULT_SPLIT for row in manifest.read_manifest(media)}


def first_rows(media: str, names: Sequence[str], number: int) -> Sequence | None:
    """The first rows of the first of these splits that the media have; None if of none."""
    there = splits(media)
    found = next((name for name in names if name in there), None)
    return None if found is None else rows_of_split(media, found)[:number]


def media_key(rows: "Sequence[ManifestRow] | tfds_media.TfdsSplit", facts: dict) -> str:
    """A name for what reading these rows with these settings gives; changes with the files."""
    listed = [] if isinstance(rows, Sequence) else [repr(rows)]
    for row in rows if isinstance(rows, Sequence) else ():
        part = [dataclasses.astuple(row.part)] if row.part else []
        size = sources.size_and_time(row.path)
        listed.append([str(row.path), row.start_s, row.end_s, size, *part])
    text = json.dumps([listed, facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_frames(
    rows: "Sequence[ManifestRow] | tfds_media.TfdsSplit",
    *,
    height_px: int,
    width_px: int,
    num_frames: int,
    frames_per_second: float,
    on_file: Callable[[int], None] = lambda done: None,
) -> UInt8[np.ndarray, "W T Y X 3"]:
    """Returns the clips of all rows, cut one after the other; stills and short files are left out.

    Raises:
      ValueError: when no file gives a clip.
    """
    if not isinstance(rows, Sequence):
        return rows.frames(height_px, width_px, num_frames, on_file)
    from poet.data.clips import ClipRules, cut_clips

    rules = ClipRules(
        height_px=height_px,
        width_px=width_px,
        num_frames=num_frames,
        frames_per_second=frames_per_second,
    )

    def read(row: ManifestRow) -> list[np.ndarray]:
        clips = (clip.frames for clip in cut_clips(row, rules))
        return [frames for frames in clips if len(frames) == num_frames]

    return _gather(rows, read, on_file, f"clip of {num_frames} frames")


def read_sounds(
    rows: "Sequence[ManifestRow] | tfds_media.TfdsSplit",
    *,
    num_samples: int,
    sample_rate_hz: int,
    on_file: Callable[[int], None] = lambda done: None,
) -> Float[np.ndarray, "W S"]:
    """Returns stretches of `num_samples` of all rows' sound; what is left over is dropped.

    Raises:
      ValueError: when no file has so much sound.
    """

    if not isinstance(rows, Sequence):
        raise ValueError(
            "Sound is read from media files, not from TFDS datasets; give a folder or a manifest."
        )

    def read(row: ManifestRow) -> Iterable[np.ndarray]:
        duration_s = None if row.end_s is None else row.end_s - row.start_s
        with sources.local_file(row.path, row.part) as path:
            if not sound.has_sound(path):
                return []
            wave = sound.read_sound(
                path, sample_rate_hz, start_s=row.start_s, duration_s=duration_s
            )
        num_whole = len(wave) // num_samples
        return list(wave[: num_whole * num_samples].reshape(num_whole, num_samples))

    return _gather(rows, read, on_file, f"stretch of {num_samples} samples")


def cached(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the array at `path`, made and stored first where it is not there yet."""
    if path.exists():
        return np.load(path)
    array = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of several processes that share the folder each writes its own; they are alike.
    partial = path.with_name(f".{path.name}.{jax.process_index()}.partial")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.rename(path)
    return array


def _gather(rows, read, on_file, wanted: str) -> np.ndarray:
    """All pieces of all rows in order; files that cannot be used are counted and left out."""
    pieces, problems = [], []

    def try_read(row):
        try:
            return read(row)
        except MediaError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done, found in enumerate(pool.map(try_read, rows), start=1):
            if isinstance(found, MediaError):
                problems.append(str(found))
            else:
                pieces.extend(found)
            on_file(done)
    if problems:
        logging.warning("%d files cannot be used, the first: %s", len(problems), problems[0])
    if not pieces:
        reason = f" ({problems[0]})" if problems else ""
        raise ValueError(
            f"None of {len(rows)} files gives a {wanted}{reason}; give longer clips, or ask for"
            " shorter ones in the gin file."
        )
    return np.stack(pieces)
