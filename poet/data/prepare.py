"""Media files to a dataset of token records: cut, tokenize in units, write.

OUT                     the dataset (poet.data.writer), with rejected.jsonl and files.jsonl
.OUT.parts              finished units of an unfinished run; a rerun goes on from them
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from etils import epath

from poet.data import beam_runner, card, prepare_report, units, writer
from poet.data.clips import ClipRules
from poet.data.conditions import Conditions
from poet.data.decode_process import DecodeLimits
from poet.data.filters import Duplicates
from poet.media import sources
from poet.media.errors import MediaError
from poet.media.manifest import ManifestRow, read_manifest
from poet.tokens.clip import ClipShape

# Raised when the same files and tokenizers would give other records.
PREPARE_VERSION = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What `prepare` reads, how it cuts, and where the dataset goes.

    `media` is a manifest file, a folder, tar shards, or `tfds:NAME` with captions in
    `caption_feature`; with `manifest` it is the folder where that file's names start. `batch_size`
    clips are tokenized at a time, `clips_per_unit` is what a killed run may lose, `num_workers`
    processes decode, each file within `limits` (0: this process does, without limits). Rows without
    a split go to `default_split`. `strict` makes the first unusable file an error. `conditions`
    says which masked clips, flow and depth are made. `runner` is "local" or one of `beam_runner`,
    with `beam_options`, and with the folder that its workers load the tokenizers from.
    """

    media: str | os.PathLike
    out_dir: str | os.PathLike
    rules: ClipRules
    manifest: str | os.PathLike | None = None
    default_split: str = "train"
    file_format: str = "array_record"
    batch_size: int = 16
    clips_per_unit: int = 64
    num_workers: int = min(4, os.cpu_count() or 1)
    strict: bool = False
    runner: str = "local"
    conditions: Conditions = Conditions()
    limits: DecodeLimits = DecodeLimits()
    beam_options: tuple[str, ...] = ()
    tokenizers_dir: str = ""
    caption_feature: str = ""

    def __post_init__(self):
        for name, least in (("batch_size", 1), ("clips_per_unit", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}.")
        if self.beam_options and self.runner == "local":
            raise ValueError(
                f"beam_options {list(self.beam_options)} are of no use to runner='local'; choose a"
                " runner of Apache Beam, or leave them out."
            )


class NothingUsableError(MediaError):
    """No file gave a record; `report` says why. rejected.jsonl is written all the same."""

    def __init__(self, message: str, report: prepare_report.PrepareReport):
        super().__init__(message)
        self.report = report


def prepare(
    config: PrepareConfig,
    visual,
    audio=None,
    progress: Callable[[int, int], None] | None = None,
) -> prepare_report.PrepareReport:
    """Writes the token dataset of all media files to config.out_dir, or finishes doing so.

    The records depend on the files, the rules and the tokenizers alone: neither the number of
    workers nor interruptions nor the runner changes a byte.

    Args:
      config: what to read and how.
      visual: a VisualTokenizer.
      audio: an AudioTokenizer; None for records without sound.
      progress: called with (files done, files in all); a long file counts as several.

    Raises:
      NothingUsableError: no file gave a record.
      MediaError: the manifest is unfit, or with `strict` a file cannot be used.
      ValueError: out_dir holds something else, or was begun with other tokenizers or rules.
    """
    out_dir = epath.Path(config.out_dir)
    settings = _settings(config, visual, audio)
    rules = config.rules
    ClipShape(  # refuses sizes that are no whole number of this tokenizer's tokens
        num_frames=rules.num_frames,
        height_px=rules.height_px,
        width_px=rules.width_px,
        px_per_token=visual.px_per_token,
        frames_per_token=visual.frames_per_token,
    )
    rows = _rows(config)
    plan = units.plan_units(rows, config.rules, config.clips_per_unit, config.limits)
    finished = _finished(out_dir, settings | {"file_format": config.file_format}, plan)
    if finished is not None:
        _remove_exported(config)
        return finished
    worker = units.UnitWorker(
        rows=rows,
        rules=config.rules,
        visual=visual,
        audio=audio,
        parts_dir=out_dir.parent / f".{out_dir.name}.parts",
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        strict=config.strict,
        conditions=config.conditions,
        limits=config.limits,
    )
    num_reused = _open_parts(worker.parts_dir, settings, plan)
    on_piece = _counter(plan, progress)
    if config.runner == "local":
        for unit in plan:
            worker.run(unit, on_piece)
    else:
        beam_runner.run_units(
            worker, plan, on_piece, config.runner, config.beam_options, config.tokenizers_dir
        )
    duplicates = _duplicates(worker, plan)
    report = prepare_report.PrepareReport(
        out_dir=str(out_dir),
        files=prepare_report.collect(worker.parts_dir, plan, rows, duplicates),
        num_units=len(plan),
        num_units_reused=num_reused,
    )
    if report.num_records:
        summary = _write_dataset(config, settings, worker, plan, duplicates)
        units.write_text(out_dir / "README.md", card.card(summary, report.files))
    prepare_report.write(out_dir, report, _media_key(plan))
    worker.parts_dir.rmtree()
    _remove_exported(config)
    if not report.num_records:
        raise NothingUsableError(
            f"None of the {len(rows)} files of {config.media} could be used; the reasons are in "
            f"{out_dir / 'rejected.jsonl'}.",
            report,
        )
    return report


def _rows(config: PrepareConfig) -> list[ManifestRow]:
    if str(config.media).startswith("tfds:"):
        from poet.data import tfds_media

        name = str(config.media).removeprefix("tfds:")
        return tfds_media.export(name, _media_dir(config), config.caption_feature)
    if config.manifest is None:
        rows = read_manifest(config.media)
    else:
        rows = read_manifest(config.manifest, media_dir=config.media)
    return [dataclasses.replace(row, split=row.split or config.default_split) for row in rows]


def _media_dir(config: PrepareConfig) -> Path:
    """Where the pictures of a TFDS dataset lie while they are tokenized."""
    if sources.is_remote(config.out_dir):
        name = hashlib.sha256(str(config.out_dir).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir(), f"poet-{name}.media")
    out_dir = Path(config.out_dir)
    return out_dir.parent / f".{out_dir.name}.media"


def _remove_exported(config: PrepareConfig) -> None:
    if str(config.media).startswith("tfds:"):
        shutil.rmtree(_media_dir(config), ignore_errors=True)


def _settings(config: PrepareConfig, visual, audio) -> dict:
    """What decides the records besides the files; becomes the dataset's metadata."""
    rules = config.rules
    levels = 0 if audio is None else audio.num_levels
    settings = {
        "fingerprints": {
            "visual": visual.fingerprint,
            "audio": None if audio is None else audio.fingerprint,
        },
        "num_codes": {
            "visual": visual.num_codes,
            "audio": [] if audio is None else [audio.codebook_size] * levels,
        },
        "preprocessing": dataclasses.asdict(rules)
        | {"stride_frames": rules.stride, "prepare_version": PREPARE_VERSION}
        | config.conditions.facts(),
    }
    return json.loads(json.dumps(settings))  # as it is read back: lists for tuples


def _media_key(plan: list[units.Unit]) -> str:
    """Names the files and captions that a run was given."""
    return hashlib.sha256("".join(unit.key for unit in plan).encode()).hexdigest()[:32]


def _finished(
    out_dir: epath.Path, settings: dict, plan: list[units.Unit]
) -> prepare_report.PrepareReport | None:
    """The report of a finished run over the same files; an error where OUT is something else."""
    if not out_dir.exists():
        return None
    if not (out_dir / "poet.json").exists():
        others = {path.name for path in out_dir.iterdir()} - set(prepare_report.FILES)
        if others:
            raise ValueError(
                f"{out_dir} holds {sorted(others)[0]!r} and no dataset, expected a new directory; "
                "choose another --out."
            )
        return None
    summary = json.loads((out_dir / "poet.json").read_text())
    found = summary["metadata"] | {"file_format": summary["file_format"]}
    _check_settings(f"The dataset {out_dir}", found, settings)
    files = prepare_report.read(out_dir, _media_key(plan))
    if files is None:
        return None
    return prepare_report.PrepareReport(
        out_dir=str(out_dir), files=files, num_units=len(plan), num_units_reused=len(plan)
    )


def _check_settings(where: str, found: dict, expected: dict) -> None:
    """Refuses to mix records of two tokenizers or two ways of cutting; names both."""
    for group in expected:
        old, new = found.get(group), expected[group]
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            name = next(key for key in sorted({*old, *new}) if old.get(key) != new.get(key))
            group, old, new = f"{group} of {name!r}", old.get(name), new.get(name)
        raise ValueError(
            f"{where} was made with the {group} {old!r}, this run has {new!r}; choose another "
            "--out, or delete it and its hidden .parts folder."
        )


def _open_parts(parts_dir: epath.Path, settings: dict, plan: list[units.Unit]) -> int:
    """Makes the folder of unfinished work, or checks it; returns how many units are done."""
    path = parts_dir / "settings.json"
    if path.exists() and any(parts_dir.glob("part-*")):
        _check_settings(
            f"The unfinished work in {parts_dir}", json.loads(path.read_text()), settings
        )
    else:
        parts_dir.mkdir(parents=True, exist_ok=True)
        units.write_text(path, json.dumps(settings, indent=1))
    return sum((parts_dir / unit.file_name).exists() for unit in plan)


def _counter(plan: list[units.Unit], progress) -> Callable[[int], None]:
    """A function that is told how many more pieces are done, and tells `progress`."""
    num_pieces = sum(len(unit.pieces) for unit in plan)
    num_done = 0

    def on_piece(count: int) -> None:
        nonlocal num_done
        num_done += count
        if progress is not None:
            progress(num_done, num_pieces)

    return on_piece


def _write_dataset(config: PrepareConfig, settings: dict, worker, plan, duplicates) -> dict:
    splits = {
        split: _records(worker.parts_dir, plan, split, duplicates)
        for split in dict.fromkeys(row.split for row in worker.rows)
    }
    # Not settings to compare: they follow from the tokenizers, which have fingerprints.
    hop = None if worker.audio is None else worker.audio.samples_per_frame
    metadata = settings | {
        "samples_per_audio_frame": hop,
        "px_per_token": worker.visual.px_per_token,
        "frames_per_token": worker.visual.frames_per_token,
    }
    return writer.write_dataset(
        config.out_dir, splits, metadata, file_format=config.file_format, overwrite=True
    )


def _records(parts_dir, plan, split: str, duplicates: dict[str, dict]) -> Iterator[dict]:
    """Yields the records of one split in the order of the rows."""
    for unit in plan:
        records, _ = units.load_part(parts_dir / unit.file_name)
        for record in records:
            record.pop("hashes", None)
            record.pop("row", None)
            if record.pop("split") == split and record["clip_id"] not in duplicates:
                yield record


def _duplicates(worker: units.UnitWorker, plan) -> dict[str, dict]:
    """{clip id: its record} of the clips that show what an earlier one shows, over all splits."""
    filters, found = worker.rules.filters, {}
    if "duplicate" not in filters.names:
        return found
    seen = Duplicates(filters.duplicate_bits)
    for unit in plan:
        for record in units.load_part(worker.parts_dir / unit.file_name)[0]:
            if not seen.is_new(record["hashes"]):
                found[record["clip_id"]] = record
    return found
