"""Units of `prepare`: a fixed share of the files, tokenized together, kept in one part file.

A unit is a function of its files and the settings alone, so whoever computes it (this process, a
later one, a Beam worker) gets the same records, and a killed run loses at most one.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from absl import logging
from etils import epath

from poet.data.clips import Clip, ClipRules, cut_clips
from poet.data.conditions import Conditions
from poet.data.decode_process import DecodeLimits, DecodePool
from poet.data.decoding import in_order
from poet.data.features import CONDITIONS
from poet.data.filters import clip_hash
from poet.media.errors import MediaError
from poet.media.manifest import ManifestRow
from poet.media.opening import open_media, seeks_exactly
from poet.media.sources import is_remote, size_and_time
from poet.media.video import probe

# Compressed video of the sizes trained on rarely has fewer bytes a clip; a wrong guess moves the
# borders of units, never the records.
_BYTES_PER_CLIP = 2**18
# Only files that must fill several units are opened to be planned.
_PROBE_FROM_UNITS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """The clips first_clip, first_clip + 1, ... of one row; `limit` None is all the rest."""

    row_index: int
    first_clip: int = 0
    limit: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """Pieces that are tokenized together; `key` changes with the files and their captions."""

    number: int
    pieces: tuple[Piece, ...]
    key: str

    @property
    def file_name(self) -> str:
        """The part file of this unit."""
        return f"part-{self.number:05d}-{self.key}.npz"


def plan_units(
    rows: list[ManifestRow],
    rules: ClipRules,
    clips_per_unit: int,
    limits: DecodeLimits | None = None,
) -> list[Unit]:
    """Returns the units, in the order of the rows. Long files are spread over several."""
    units, pieces, num_clips = [], [], 0
    with DecodePool(limits or DecodeLimits()) as pool:
        for index, row in enumerate(rows):
            for piece, size in _pieces(index, row, rules, clips_per_unit, pool):
                pieces.append(piece)
                num_clips += size
                if num_clips >= clips_per_unit:
                    units.append(_unit(len(units), pieces, rows))
                    pieces, num_clips = [], 0
    if pieces:
        units.append(_unit(len(units), pieces, rows))
    return units


def _pieces(index: int, row: ManifestRow, rules: ClipRules, clips_per_unit: int, pool: DecodePool):
    """Yields (piece, guessed number of clips) of one row; the last piece is open-ended."""
    num_clips = 1 + _size(row) // _BYTES_PER_CLIP
    first = 0
    # Where scenes begin is known only once the file has been decoded from its start, and a copied
    # file would be copied for every piece.
    is_plain = row.part is None and not is_remote(row.path) and rules.scene_change is None
    if num_clips >= _PROBE_FROM_UNITS * clips_per_unit and is_plain:
        num_found, can_start_anywhere = _probed(row, rules, pool)
        num_clips = num_found or num_clips
        while num_clips - first > clips_per_unit and can_start_anywhere:
            yield Piece(row_index=index, first_clip=first, limit=clips_per_unit), clips_per_unit
            first += clips_per_unit
    yield Piece(row_index=index, first_clip=first), num_clips - first


def _size(row: ManifestRow) -> int:
    return row.part.size if row.part else (size_and_time(row.path) or [0])[0]


def _probed(row: ManifestRow, rules: ClipRules, pool: DecodePool) -> tuple[int, bool]:
    """(number of clips, whether a later one can be reached without decoding those before it)."""
    try:
        (found,) = pool.items(_probe, row, rules)
    except Exception:
        return 0, False  # cutting it will say what is wrong with it
    return found


def _probe(row: ManifestRow, rules: ClipRules):
    end_s = row.end_s or probe(row.path, rules.video_stream).duration_s or 0.0
    num_clips = max(0.0, end_s - row.start_s) * rules.frames_per_second / rules.stride
    with open_media(row.path) as container:
        yield int(num_clips), seeks_exactly(container)


def _unit(number: int, pieces: list[Piece], rows: list[ManifestRow]) -> Unit:
    facts = [[dataclasses.astuple(piece), _identity(rows[piece.row_index])] for piece in pieces]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return Unit(number=number, pieces=tuple(pieces), key=key)


def _identity(row: ManifestRow) -> list:
    """What tells a row's content from another's without reading the file."""
    file = size_and_time(row.path)
    part = row.part and dataclasses.astuple(row.part)
    return [str(row.path), row.clip_id, row.caption, row.split, row.start_s, row.end_s, file, part]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitWorker:
    """Computes units. `visual` and `audio` follow the tokenizers' protocol; audio may be None."""

    rows: Sequence[ManifestRow] | Mapping[int, ManifestRow]
    rules: ClipRules
    visual: object
    audio: object | None
    parts_dir: epath.Path
    batch_size: int
    num_workers: int
    strict: bool
    conditions: Conditions = Conditions()
    limits: DecodeLimits = DecodeLimits()

    def run(self, unit: Unit, on_piece: Callable[[int], None] | None = None) -> None:
        """Computes one unit and writes its part file; does nothing where that exists."""
        path = self.parts_dir / unit.file_name
        if path.exists():
            if on_piece is not None:
                on_piece(len(unit.pieces))
            return
        records, batches, outcomes = [], _Batches(self), {}
        num_done = 0
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(DecodePool(self.limits))
            jobs = [partial(self._cut, pool, piece) for piece in unit.pieces]
            clips = stack.enter_context(contextlib.closing(in_order(jobs, self.num_workers)))
            for number, clip in clips:
                if on_piece is not None and number > num_done:
                    on_piece(number - num_done)
                num_done = number
                outcome = outcomes.setdefault(
                    unit.pieces[number].row_index, _new_outcome(unit.pieces[number].row_index)
                )
                if isinstance(clip, Exception):
                    self._note_failure(outcome, clip)
                    continue
                reason = self.rules.filters.reason(clip, self.rules.sample_rate_hz)
                if reason:
                    _leave_out(outcome, reason)
                    continue
                _note_clip(outcome, clip)
                records.append(_record(clip, self.audio))
                region, pictures = self.conditions.pictures(clip, self.visual.frames_per_token)
                records[-1]["region"] = region
                if "duplicate" in self.rules.filters.names:
                    records[-1]["hashes"] = clip_hash(clip.frames)
                    records[-1]["row"] = outcome["row"]
                batches.add(clip, pictures, records[-1])
        batches.flush()
        save_part(path, records, list(outcomes.values()))
        if on_piece is not None:
            on_piece(len(unit.pieces) - num_done)

    def _cut(self, pool: DecodePool, piece: Piece):
        row = self.rows[piece.row_index]
        arguments = (row, self.rules, piece.first_clip, piece.limit)
        if self.num_workers == 0:
            return cut_clips(*arguments)
        return pool.items(cut_clips, *arguments)

    def _note_failure(self, outcome: dict, error: Exception) -> None:
        if self.strict:
            raise error
        if not isinstance(error, MediaError):
            # A decoder stumbled in a way of its own: that costs the row too, but is told loudly.
            path = self.rows[outcome["row"]].path
            logging.error("Cutting %s failed unexpectedly: %s", path, error)
            error = f"unexpected {type(error).__name__}: {str(error).strip().splitlines()[-1:]}"
        outcome["error"] = str(error)


def _new_outcome(row_index: int) -> dict:
    return {
        "row": row_index,
        "num_clips": 0,
        "num_images": 0,
        "num_with_sound": 0,
        "left_out": {},
        "notes": [],
        "error": "",
    }


def _leave_out(outcome: dict, reason: str) -> None:
    outcome["left_out"][reason] = outcome["left_out"].get(reason, 0) + 1


def _note_clip(outcome: dict, clip: Clip) -> None:
    outcome["num_images" if len(clip.frames) == 1 else "num_clips"] += 1
    outcome["num_with_sound"] += clip.sound is not None
    if clip.note and clip.note not in outcome["notes"]:
        outcome["notes"].append(clip.note)


def _record(clip: Clip, audio) -> dict:
    """A token record whose ids are still to come."""
    has_audio = clip.sound is not None and audio is not None
    return {
        "clip_id": clip.clip_id,
        "caption": clip.caption,
        "split": clip.split,
        "visual": None,
        "audio": np.zeros((1 if audio is None else audio.num_levels, 0), np.int32),
        **{name: np.zeros((0, 0, 0), np.int32) for name in CONDITIONS},
        "num_frames": len(clip.frames),
        "has_audio": int(has_audio),
    }


class _Batches:
    """Collects arrays into full batches: one compiled program for clips, stills and sound each."""

    def __init__(self, worker: UnitWorker):
        self._size, self._visual, self._audio = worker.batch_size, worker.visual, worker.audio
        # Arrays of one shape, with the record and the field that get their ids.
        self._waiting: dict[str, list[tuple[np.ndarray, dict, str]]] = {}

    def add(self, clip: Clip, pictures: dict[str, np.ndarray], record: dict) -> None:
        kind = "image" if len(clip.frames) == 1 else "clip"
        self._add(kind, clip.frames, record, "visual")
        for field, frames in pictures.items():
            self._add(kind, frames, record, field)
        if record["has_audio"]:
            self._add("sound", clip.sound, record, "audio")

    def _add(self, kind: str, array: np.ndarray, record: dict, field: str) -> None:
        waiting = self._waiting.setdefault(kind, [])
        waiting.append((array, record, field))
        if len(waiting) == self._size:
            self._encode(kind)

    def flush(self) -> None:
        for kind, waiting in self._waiting.items():
            if waiting:
                self._encode(kind)

    def _encode(self, kind: str) -> None:
        waiting, self._waiting[kind] = self._waiting[kind], []
        arrays = [array for array, _, _ in waiting]
        # Short batches are filled up, since another batch size would compile another program.
        arrays += [arrays[-1]] * (self._size - len(arrays))
        batch = np.stack(arrays).astype(np.float32)
        if kind == "sound":
            codes = self._audio.encode(batch)
        else:
            codes = self._visual.encode(batch / 255.0)
        for row, (_, record, field) in zip(np.asarray(codes, np.int32), waiting, strict=False):
            record[field] = row


_ARRAYS = ("visual", "audio", *CONDITIONS)


def save_part(path: epath.Path, records: list[dict], outcomes: list[dict]) -> None:
    """Writes a part file under a temporary name and renames it."""
    arrays = {f"{name}_{i}": record[name] for i, record in enumerate(records) for name in _ARRAYS}
    plain = [
        {name: value for name, value in record.items() if name not in _ARRAYS} for record in records
    ]
    text = json.dumps({"records": plain, "outcomes": outcomes})
    buffer = io.BytesIO()
    np.savez(buffer, json=np.frombuffer(text.encode(), np.uint8), **arrays)
    temporary = path.parent / f".{path.name}.partial"
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(path)


def write_text(path: epath.Path, text: str) -> None:
    """Writes a text file under a temporary name and renames it."""
    temporary = path.parent / f".{path.name}.partial"
    temporary.write_text(text)
    temporary.replace(path)


def load_part(path: epath.Path) -> tuple[list[dict], list[dict]]:
    """Returns (records, outcomes of the rows) of a part file."""
    with np.load(io.BytesIO(path.read_bytes())) as part:
        content = json.loads(part["json"].tobytes().decode())
        for i, record in enumerate(content["records"]):
            record.update({name: part[f"{name}_{i}"] for name in _ARRAYS})
    return content["records"], content["outcomes"]
