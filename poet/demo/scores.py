"""The demo's scores: what the checker found, with the time and memory of all stages."""

import dataclasses
import json
from pathlib import Path

from poet.demo.runner import StageRecord, write_json
from poet.demo.stages import DemoSize


def claim_folder(out: Path, size: DemoSize, seed: int) -> None:
    """Notes what `out` is for, or refuses a folder that holds a demo of other settings.

    Raises:
      ValueError: naming the settings that differ.
    """
    path = out / "demo.json"
    settings = dataclasses.asdict(size) | {"seed": seed}
    if not path.exists():
        write_json(path, settings)
        return
    known = json.loads(path.read_text())
    changed = sorted(name for name in settings if known.get(name) != settings[name])
    if changed:
        words = ", ".join(f"{name} {known.get(name)} -> {settings[name]}" for name in changed)
        raise ValueError(
            f"Expected {out} to hold a demo of these settings, but it was started with others"
            f" ({words}). Choose another --out, or remove the folder to start over."
        )


def write_scores(out: Path, records: dict[str, StageRecord]) -> dict[str, dict]:
    """Joins the evaluation's scores with time and memory into `out/scores.json`."""
    scores = json.loads((out / "evaluation" / "scores.json").read_text())
    seconds = sum(record.seconds for record in records.values())
    peak_gib = max(record.peak_bytes for record in records.values()) / 2**30
    for name, value in (("total_seconds", seconds), ("peak_gib", peak_gib)):
        value = round(value, 3)
        scores[name] = {"value": value, "clips": 0, "low": value, "high": value}
    write_json(out / "scores.json", scores)
    return scores


def table(scores: dict[str, dict]) -> str:
    """The scores as aligned lines for a terminal."""
    width = max(len(name) for name in scores)
    lines = [f"{'score':<{width}}     value      low     high   clips"]
    for name, score in scores.items():
        value, low, high = (f"{score[key]:8.3f}" for key in ("value", "low", "high"))
        lines.append(f"{name:<{width}}  {value} {low} {high} {score['clips']:>7}")
    return "\n".join(lines)
