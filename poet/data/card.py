"""The card of a prepared dataset: what it holds and where it came from, for people."""

import collections
from collections.abc import Sequence
from typing import Any

_LARGEST = 20


def card(summary: dict[str, Any], files: Sequence[dict]) -> str:
    """Markdown text.

    Args:
      summary: what `writer.write_dataset` returned.
      files: `PrepareReport.files`: one dict a file or row, with licence and source.
    """
    facts, rules = summary["metadata"], summary["metadata"]["preprocessing"]
    lines = [
        "# Token dataset",
        "",
        f"Made by `poet prepare`; fingerprint {summary['fingerprint']}, {summary['file_format']}.",
        "It holds ids of visual and audio tokenizers and captions, no pictures and no sound.",
        "",
        "| split | records | stills | caption | sound | masked | flow and depth | bytes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, split in sorted(summary["splits"].items()):
        counts = [split[f"num_with_{what}"] for what in ("caption", "audio", "masked", "structure")]
        cells = [split["num_records"], split["num_images"], *counts, split["num_bytes"]]
        lines.append(f"| {name} | " + " | ".join(f"{cell:,}" for cell in cells) + " |")
    lines += ["", "## How it was made", ""]
    lines += [f"- {kind} tokenizer: {name}" for kind, name in facts["fingerprints"].items()]
    lines += [f"- {name}: {value}" for name, value in rules.items()]
    rejected = sum(not file["num_clips"] + file["num_images"] for file in files)
    lines += [
        "",
        "## Where it came from",
        "",
        f"{len(files):,} files or rows, {rejected:,} of them rejected (`rejected.jsonl` says why).",
    ]
    for field in ("licence", "source"):
        counts = collections.Counter(
            file[field] or "(not said)" for file in files if file["num_clips"] + file["num_images"]
        )
        lines += ["", f"| {field} | files |", "|---|---|"]
        lines += [f"| {name} | {count:,} |" for name, count in counts.most_common(_LARGEST)]
        more = sum(counts.values()) - sum(n for _, n in counts.most_common(_LARGEST))
        if more:
            lines.append(f"| {len(counts) - _LARGEST} others | {more:,} |")
    lines += ["", "Ids stand for the works they were made from: the licences above go with them."]
    return "\n".join(lines) + "\n"
