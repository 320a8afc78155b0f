"""Scores of several runs over all tasks in one table: what changed, and how fast each decoded."""

from collections.abc import Mapping, Sequence
from typing import Any

Scores = Mapping[str, Any]


def table(runs: Mapping[str, Scores]) -> str:
    """Markdown: the scores, a line of passes and speed-up, and both by task.

    Args:
      runs: Name -> what `tools.score_tasks` wrote: "rows" of scores, "decoding" of timed programs.
        Changes and speed-ups are from the first.
    """
    return "\n".join([*_scores(runs), "", *_totals(runs), "", *_programs(runs)]) + "\n"


def _scores(runs: Mapping[str, Scores]) -> list[str]:
    base, *others = runs
    values = {
        name: {(row["task"], row["score"]): row["value"] for row in scores["rows"]}
        for name, scores in runs.items()
    }
    lines = _head(["task", "score", base, *(word for name in others for word in (name, "change"))])
    for key in dict.fromkeys(key for found in values.values() for key in found):
        cells = [_number(values[base].get(key))]
        for name in others:
            now, before = values[name].get(key), values[base].get(key)
            change = "" if now is None or before is None else f"{now - before:+.3f}"
            cells += [_number(now), change]
        lines.append(_line([*key, *cells]))
    return lines


def _totals(runs: Mapping[str, Scores]) -> list[str]:
    """A line a run over the programs that all of them have timed."""
    timed = {name: _timed(scores) for name, scores in runs.items()}
    common = [
        key for key in next(iter(timed.values())) if all(key in rows for rows in timed.values())
    ]
    if not common:
        return ["No program was timed in all of these runs."]
    lines, base = (
        [f"One batch of each of {len(common)} programs that all runs have timed:", ""],
        None,
    )
    for name, rows in timed.items():
        passes = sum(rows[key]["passes"] for key in common)
        seconds = sum(rows[key]["seconds"] for key in common)
        base = base or (passes, seconds)
        lines.append(
            f"- {name}: {passes:,} passes ({base[0] / passes:.2f} times fewer), {seconds:.2f} s"
            f" ({base[1] / seconds:.2f} times faster)"
        )
    return lines


def _programs(runs: Mapping[str, Scores]) -> list[str]:
    timed = {name: _timed(scores) for name, scores in runs.items()}
    words = [f"{name}, {what}" for name in runs for what in ("passes", "s")]
    lines = _head(["task", "asked of the model", "clips", *words])
    for key in dict.fromkeys(key for rows in timed.values() for key in rows):
        cells = []
        for rows in timed.values():
            row = rows.get(key)
            cells += ["", ""] if row is None else [f"{row['passes']:,}", f"{row['seconds']:.2f}"]
        lines.append(_line([*map(str, key), *cells]))
    return lines


def _timed(scores: Scores) -> dict[tuple[str, str, int], Any]:
    """(what was asked, the model's task, clips) -> a timed program; none in older files."""
    return {(row["asked"], row["task"], row["batch"]): row for row in scores.get("decoding", ())}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _head(words: Sequence[str]) -> list[str]:
    return [_line(words), "|" + "---|" * len(words)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
