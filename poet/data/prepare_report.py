"""What became of every file that `prepare` was given."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping

from etils import epath

from poet.data import units
from poet.media.manifest import ManifestRow

# Written in this order: the last one marks a finished run.
FILES = ("rejected.jsonl", "files.jsonl", "prepare.json")
_COUNTS = ("num_clips", "num_images", "num_with_sound")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What became of the files. `files` has one dict a row, as in files.jsonl."""

    out_dir: str
    files: list[dict]
    num_units: int
    num_units_reused: int

    @property
    def rejected(self) -> list[dict]:
        """The rows without a single record, with the reason."""
        return [file for file in self.files if not file["num_clips"] + file["num_images"]]

    @property
    def num_records(self) -> int:
        """Clips and still images together."""
        return sum(file["num_clips"] + file["num_images"] for file in self.files)

    def lines(self) -> list[str]:
        """The report as lines to print: totals, still images, notes, the table of rejects."""
        total = {name: sum(file[name] for file in self.files) for name in _COUNTS}
        lines = [
            f"{len(self.files)} files gave {total['num_clips']} clips "
            f"({total['num_with_sound']} with sound) and {total['num_images']} still images; "
            f"{len(self.rejected)} rejected."
        ]
        noted = [file for file in self.files if file["notes"] and file not in self.rejected]
        lines += _table("image or note", noted, lambda file: "; ".join(file["notes"]))
        return lines + _table("rejected", self.rejected, lambda file: file["reason"])


def collect(
    parts_dir: epath.Path,
    plan: list[units.Unit],
    rows: list[ManifestRow],
    duplicates: Mapping[str, dict],
) -> list[dict]:
    """One dict a row, its pieces added up; `duplicates` are records that are not written."""
    files = [
        {
            "path": str(row.path),
            "clip_id": row.clip_id,
            "split": row.split,
            "licence": row.licence,
            "source": row.source,
            **dict.fromkeys(_COUNTS, 0),
            "left_out": {},
            "notes": [],
            "reason": "",
        }
        for row in rows
    ]
    for unit in plan:
        _, outcomes = units.load_part(parts_dir / unit.file_name)
        for outcome in outcomes:
            file = files[outcome["row"]]
            for name in _COUNTS:
                file[name] += outcome[name]
            for reason, count in outcome["left_out"].items():
                file["left_out"][reason] = file["left_out"].get(reason, 0) + count
            file["notes"] += [note for note in outcome["notes"] if note not in file["notes"]]
            file["reason"] = file["reason"] or outcome["error"]
    for record in duplicates.values():
        file, left_out = files[record["row"]], files[record["row"]]["left_out"]
        file["num_images" if record["num_frames"] == 1 else "num_clips"] -= 1
        file["num_with_sound"] -= record["has_audio"]
        left_out["duplicate"] = left_out.get("duplicate", 0) + 1
    for file in files:
        if file["left_out"]:
            words = ", ".join(f"{count} {reason}" for reason, count in file["left_out"].items())
            file["notes"].append(f"left out: {words}")
            if not file["num_clips"] + file["num_images"]:
                file["reason"] = file["reason"] or f"all left out: {words}"
        if file["reason"] and file["num_clips"]:
            file["notes"].append(f"used up to a fault: {file['reason']}")
    return files


def write(out_dir: epath.Path, report: PrepareReport, media_key: str) -> None:
    """Writes rejected.jsonl, files.jsonl and the key of the files that the run was given."""
    out_dir.mkdir(parents=True, exist_ok=True)
    rejected = [
        {name: file[name] for name in ("path", "clip_id", "reason")} for file in report.rejected
    ]
    for name, rows in zip(FILES, (rejected, report.files), strict=False):
        units.write_text(out_dir / name, "".join(json.dumps(row) + "\n" for row in rows))
    units.write_text(out_dir / FILES[-1], json.dumps({"media_key": media_key}) + "\n")


def read(out_dir: epath.Path, media_key: str) -> list[dict] | None:
    """The `files` of a finished run over the same media; None where there is none."""
    mark = out_dir / FILES[-1]
    if not mark.exists() or json.loads(mark.read_text())["media_key"] != media_key:
        return None
    return [json.loads(line) for line in (out_dir / "files.jsonl").read_text().splitlines()]


def _table(title: str, files: list[dict], words: Callable[[dict], str]) -> list[str]:
    if not files:
        return []
    names = [os.path.basename(file["path"]) for file in files]
    width = max(map(len, [title, *names]))
    rows = [f"  {name:<{width}}  {words(file)}" for name, file in zip(names, files, strict=True)]
    return [f"  {title:<{width}}  why", *rows]
