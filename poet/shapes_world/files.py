"""Writes clips as mp4 files with a manifest; a killed run continues where it stopped."""

import csv
import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from poet.shapes_world import render, sampling, world

MANIFEST_NAME = "manifest.tsv"
SETTINGS_NAME = "world.json"
MANIFEST_COLUMNS = (
    "file",
    "clip_id",
    "split",
    "caption",
    "shape",
    "colour",
    "motion",
    "speed",
    "start_x",
    "start_y",
    "hit_times_s",
)
_WORDS = ("clip_id", "split", "caption", "shape", "colour", "motion", "speed")
# Part of the settings: raise it when the same seed gives other files.
_LAWS_VERSION = 4


def write_clips(
    out_dir: str | os.PathLike,
    seed: int,
    counts: Mapping[str, int],
    size_px: int = 64,
    progress: Callable[[int, int], None] | None = None,
    num_threads: int = 2,
) -> Path:
    """Writes the first `counts[split]` clips of each split; returns the manifest's path.

    Files already there are kept (each is renamed into place when whole), so an interrupted call
    repeated gives the files of an undisturbed one. The manifest is written last.

    Args:
      out_dir: gets SPLIT/NAME.mp4, manifest.tsv and world.json.
      seed: of the clips.
      counts: clips for each split, e.g. {"train": 2000, "validation": 64, "held_out": 128}.
      size_px: side of the pictures; even, at least 32.
      progress: called with (clips finished, clips in all).
      num_threads: encoders side by side.

    Raises:
      ValueError: no clips asked for, a bad size, or a folder holding clips of other settings.
    """
    if size_px < render.MIN_SIZE_PX or size_px % 2:
        raise ValueError(
            f"size_px must be even and at least {render.MIN_SIZE_PX}, got {size_px}; try 64."
        )
    specs = [
        spec
        for split, count in counts.items()
        for spec in sampling.sample_clips(seed, split, count)
    ]
    if not specs:
        raise ValueError(f"No clips to write: the counts are {dict(counts)}; ask for at least one.")
    out_dir = Path(out_dir)
    _check_settings(out_dir, {"laws_version": _LAWS_VERSION, "seed": seed, "size_px": size_px})
    waiting = [spec for spec in specs if not clip_path(out_dir, spec).exists()]
    num_finished = len(specs) - len(waiting)
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in pool.map(lambda spec: _write_clip(out_dir, spec, size_px), waiting):
            num_finished += 1
            if progress is not None:
                progress(num_finished, len(specs))
    return _write_manifest(out_dir, specs)


def clip_path(out_dir: str | os.PathLike, spec: world.ClipSpec) -> Path:
    """Where `write_clips` puts this clip."""
    return Path(out_dir) / spec.split / f"{spec.clip_id}.mp4"


def read_specs(manifest: str | os.PathLike) -> dict[str, world.ClipSpec]:
    """{file as written in the manifest: ClipSpec} of a manifest of `write_clips`, in its order."""
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if not rows or set(MANIFEST_COLUMNS) - set(rows[0]):
        raise ValueError(
            f"{manifest} is not a manifest of the shapes world: expected rows with the columns "
            f"{', '.join(MANIFEST_COLUMNS)}; write one with `poet render`."
        )
    return {
        row["file"]: world.ClipSpec(
            **{name: row[name] for name in _WORDS},
            start_x=float(row["start_x"]),
            start_y=float(row["start_y"]),
        )
        for row in rows
    }


def _check_settings(out_dir: Path, settings: dict) -> None:
    path = out_dir / SETTINGS_NAME
    if path.exists():
        found = json.loads(path.read_text())
        if found != settings:
            raise ValueError(
                f"{out_dir} holds clips made with {found}, asked for {settings}; choose another "
                "folder or delete this one."
            )
        return
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_text(path, json.dumps(settings) + "\n")


def _write_clip(out_dir: Path, spec: world.ClipSpec, size_px: int) -> None:
    from poet.media import write  # PyAV is needed only here

    frames, sound = render.render_clip(spec, size_px)
    write.write_video(
        clip_path(out_dir, spec), frames, world.FRAMES_PER_SECOND, sound, world.SAMPLE_RATE_HZ
    )


def _write_manifest(out_dir: Path, specs: list[world.ClipSpec]) -> Path:
    lines = ["\t".join(MANIFEST_COLUMNS)]
    for spec in specs:
        # repr gives the shortest digits that read back as the same number.
        values = dataclasses.asdict(spec) | {
            "file": clip_path("", spec).as_posix(),
            "start_x": repr(spec.start_x),
            "start_y": repr(spec.start_y),
            "hit_times_s": ",".join(f"{hit_s:.6f}" for hit_s in world.hit_times_s(spec)),
        }
        lines.append("\t".join(values[column] for column in MANIFEST_COLUMNS))
    path = out_dir / MANIFEST_NAME
    _write_text(path, "\n".join(lines) + "\n")
    return path


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
