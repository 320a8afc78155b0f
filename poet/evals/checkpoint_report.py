"""The result of a checkpoint's evaluation as files: OUT/result.json and OUT/result.md."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poet.evals import results
from poet.media.write import temporary_sibling

FORMAT = "poet checkpoint evaluation 1"


def write(out: Path, facts: Mapping[str, Any]) -> None:
    """Writes the JSON and the page, each whole or not at all."""
    for name, text in (
        (results.TABLE_NAME, page(facts)),
        (results.RESULT_NAME, json.dumps(facts, indent=1, allow_nan=False) + "\n"),
    ):
        with temporary_sibling(out / name, is_shared=True) as temporary:
            temporary.write_text(text, encoding="utf-8")


def page(facts: Mapping[str, Any]) -> str:
    """Markdown of everything: the checkpoint, a table of losses, one of each measure."""
    trained = facts["checkpoint"]
    lines = [
        f"# Step {trained['step']:,} of {trained['model_dir']}",
        "",
        f"Parameters {trained['fingerprint'][:12]}, computed in {trained['dtype']}; seed"
        f" {facts['seed']}.",
    ]
    if "sampling" in facts:
        asked = [f"{name} {value}" for name, value in facts["sampling"].items()]
        lines[-1] += f" Sampling: {', '.join(asked)}."
    if "losses" in facts:
        lines += ["", "## Losses", "", *_losses(facts["losses"])]
    for name, protocol in facts["protocols"].items():
        lines += ["", f"## {name}", "", _asked(protocol)]
        for measure, result in protocol["measures"].items():
            lines += ["", f"### {measure}", "", results.table({"": result}).rstrip("\n")]
    return "\n".join(lines) + "\n"


def _losses(losses: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Teacher-forced, on {losses['dataset']} ({losses['dataset_fingerprint'][:12]}).",
        "",
        "| split | task | nats a token | accuracy | examples | tokens |",
        "|---|---|---|---|---|---|",
    ]
    for row in losses["rows"]:
        numbers = [results.shown(row[name]) for name in ("loss_nats", "accuracy")]
        counts = [f"{row[name]:,}" for name in ("num_examples", "num_tokens")]
        cells = [row["split"], row["task"], *numbers, *counts]
        lines.append("| " + " | ".join(cells) + " |")
    if losses["left_out"]:
        reasons = [f"{name} ({reason})" for name, reason in losses["left_out"].items()]
        lines += ["", f"Left out: {'; '.join(reasons)}."]
    return lines


def _asked(protocol: Mapping[str, Any]) -> str:
    settings = protocol["settings"]
    chain = " then ".join([settings["task"], *settings["then"]])
    return (
        f"{protocol['num_requests']:,} clips by {chain}, {settings['num_frames']} frames of each"
        " scored."
    )


def measures(path: Path) -> dict[str, Path]:
    """ "PROTOCOL/MEASURE" -> its result.json beside a checkpoint's; {} for any other file."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        return {}
    return {
        f"{name}/{measure}": path.parent / name / measure / results.RESULT_NAME
        for name, protocol in facts["protocols"].items()
        for measure in protocol["measures"]
    }
