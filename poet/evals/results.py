"""Results of an evaluation: values with intervals from kept rows, as JSON, and as a table.

The mean is over repeats: groups of clips, each summed up by itself; its spread is their standard
deviation (of all, not N - 1, as papers print it). The interval is a bootstrap over clips, Wilson's
for shares: resampling clips that all agree would claim certainty.

Rows are in a file beside the JSON, so that two results can be compared clip by clip.
"""

import dataclasses
import hashlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poet.evals import resampling, shapes_scores
from poet.evals.measuring import Work
from poet.evals.metric import Metric, Side
from poet.evals.resampling import Groups, Statistics
from poet.evals.rows import Measured, Rows, arrays_of, rows_of
from poet.media.write import temporary_sibling
from poet.typing import Float

FORMAT = "poet evaluation 1"
RESULT_NAME, ROWS_NAME, TABLE_NAME = "result.json", "result.npz", "result.md"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """A result as it is on disk.

    Attributes:
      facts: The JSON.
      measured: The rows beside it.
    """

    facts: Mapping[str, Any]
    measured: Measured

    @property
    def groups(self) -> Groups:
        """Of its repeats."""
        counts = [len(self.measured.names[side]) for side in ("real", "generated")]
        statistics = Statistics(
            repeats=self.facts["repeats"],
            seed=self.facts["seed"],
            is_in_order=self.facts.get("is_in_order", False),
        )
        return resampling.groups_of(counts[0], counts[1], statistics)

    def rows(self, name: str) -> tuple[Rows | None, Rows]:
        """Real rows, where it has any, and generated rows of a metric."""
        source = self.facts["metrics"][name]["source"]
        return self.measured.rows.get((source, "real")), self.measured.rows[source, "generated"]


def _entry(metric: Metric, work: Work, measured: Measured, statistics: Statistics) -> dict:
    source = metric.source
    real = measured.rows.get((source.name, "real"))
    generated = measured.rows[source.name, "generated"]
    groups = resampling.groups_of(work.folders.real, work.folders.generated, statistics)
    found = resampling.values_of(metric.summary, real, generated, groups)
    value = float(np.mean(found))
    if metric.is_share:
        interval, (low, high) = "wilson", _wilson(generated.values)
    else:
        draws = resampling.resamples(groups, statistics.seed, is_paired=work.folders.is_paired)
        resampled = [
            np.mean(resampling.values_of(metric.summary, real, generated, drawn))
            for drawn in itertools.islice(draws, resampling.num_resamples(metric.summary))
        ]
        interval = "bootstrap"
        low, high = resampling.interval_around(value, np.array(resampled), metric.summary)
        if metric.summary == "frechet":
            low = max(0.0, low)
    counts = generated.values[:, 1] > 0 if metric.summary == "mean" else generated.counts > 0
    return {
        "protocol": protocol_of(metric, work, statistics),
        "mean": _number(value),
        "low": _number(low),
        "high": _number(high),
        "interval": interval,
        "spread": float(np.std(found)) if statistics.repeats > 1 else None,
        "num_real": work.folders.real if real is not None or source.needs.has_pairs else 0,
        "num_generated": work.folders.generated,
        "num_counted": int(counts.sum()),
        "better": metric.better,
        "summary": metric.summary,
        "source": source.name,
        "dtype": str(generated.values.dtype),
        **source.about,
    }


def _wilson(rows: Float[np.ndarray, "N D"]) -> tuple[float, float]:
    counted = rows[rows[:, 1] > 0]
    if not len(counted):
        return float("nan"), float("nan")
    score = shapes_scores.proportion([bool(value) for value in counted[:, 0] > 0])
    return float(score["low"]), float(score["high"])


def _number(value: float) -> float | None:
    """JSON has no NaN: None says that no clip counted."""
    return value if np.isfinite(value) else None


def protocol_of(metric: Metric, work: Work, statistics: Statistics) -> str:
    """Everything that changes a metric's number but the clips themselves.

    The metric's own protocol, frames (and those of the real clips where they are read otherwise),
    size if it is seen, and the number of clips if the value depends on it.
    """
    needs, made, real = metric.source.needs, work.generated, work.real
    looks_at_real = needs.has_pairs or "real" in metric.source.sides
    parts = [metric.protocol, made.when]
    if looks_at_real and real.when != made.when:
        parts[-1] += f"-real-{real.when}"
    if needs.is_seen:
        parts.append(made.size)
        if looks_at_real and real.size != made.size:
            parts[-1] += f"-real-{real.size}"
    if metric.depends_on_count:
        parts.append(f"N={work.folders.generated // statistics.repeats}x{statistics.repeats}")
    return "/".join(parts)


def write(
    out: Path, work: Work, measured: Measured, statistics: Statistics, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Sums rows up and writes result.json, result.npz and result.md; returns the JSON.

    Args:
      out: Folder; made if needed.
      work: What was measured.
      measured: Its rows.
      statistics: How they are summed up.
      about: What else belongs into the JSON, such as the folders' names.
    """
    entries = {metric.name: _entry(metric, work, measured, statistics) for metric in work.metrics}
    stored = io.BytesIO()
    names = {f"names.{side}": np.array(each, str) for side, each in measured.names.items()}
    arrays: dict[str, Any] = {**names, **arrays_of(measured.rows)}
    np.savez(stored, **arrays)
    facts = {
        "format": FORMAT,
        **about,
        "is_paired": work.folders.is_paired,
        "num_real": work.folders.real,
        "num_generated": work.folders.generated,
        "repeats": statistics.repeats,
        "seed": statistics.seed,
        "is_in_order": statistics.is_in_order,
        "rows": ROWS_NAME,
        "rows_sha256": hashlib.sha256(stored.getvalue()).hexdigest(),
        "metrics": entries,
    }
    # Rows first: a JSON that is there has its rows.
    _write(out / ROWS_NAME, stored.getvalue())
    _write(out / TABLE_NAME, table({"": facts}).encode())
    _write(out / RESULT_NAME, (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode())
    return facts


def _write(path: Path, content: bytes) -> None:
    with temporary_sibling(path, is_shared=True) as temporary:
        temporary.write_bytes(content)


def read(path: str | Path) -> Result:
    """A result that `write` wrote, with its rows.

    Raises:
      ValueError: The file is something else, or its rows are missing or another result's.
    """
    path = Path(path)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON ({error}); give a {RESULT_NAME}.") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no result of this version ({FORMAT!r}); give the {RESULT_NAME} that"
            " `poet evaluate --real ... --generated ...` wrote."
        )
    beside = path.with_name(facts["rows"])
    if not beside.is_file():
        raise ValueError(
            f"The rows of {path} are in {beside.name}, which is not beside it; copy it."
        )
    content = beside.read_bytes()
    if hashlib.sha256(content).hexdigest() != facts["rows_sha256"]:
        raise ValueError(f"{beside} holds the rows of another result than {path}; copy both again.")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        names: dict[Side, tuple[str, ...]] = {
            "real": tuple(arrays["names.real"]),
            "generated": tuple(arrays["names.generated"]),
        }
        return Result(facts=facts, measured=Measured(names=names, rows=rows_of(arrays)))


def check_protocols(results: Mapping[str, Mapping[str, Any]], name: str) -> None:
    """Refuses to put numbers of different protocols side by side.

    Raises:
      ValueError: With both protocols.
    """
    found = {
        label: facts["metrics"][name]["protocol"]
        for label, facts in results.items()
        if name in facts["metrics"]
    }
    (first, protocol), *others = found.items()
    for label, other in others:
        if other != protocol:
            raise ValueError(
                f"{name} of {first} and of {label} are not of one protocol, {protocol} and {other};"
                " measure both alike, or leave it out."
            )


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown of results by name: a row a metric, its protocol at the end.

    Raises:
      ValueError: Two results measured a metric by different protocols.
    """
    heads = [word for label in results for word in (f"{label} mean".strip(), "95 %", "spread")]
    lines = [_line(["metric", "better", *heads, "clips", "protocol"])]
    lines.append("|" + "---|" * (len(heads) + 4))
    for name in dict.fromkeys(name for facts in results.values() for name in facts["metrics"]):
        check_protocols(results, name)
        entries = [facts["metrics"].get(name) for facts in results.values()]
        known = [entry for entry in entries if entry]
        cells = [cell for entry in entries for cell in (_cells(entry) if entry else [""] * 3)]
        counts = " ".join(dict.fromkeys(str(entry["num_counted"]) for entry in known))
        lines.append(_line([name, known[0]["better"], *cells, counts, known[0]["protocol"]]))
    return "\n".join(lines) + "\n"


def _cells(entry: Mapping[str, Any]) -> list[str]:
    if entry["mean"] is None:
        return ["no clip counts", "", ""]
    interval = ""
    if entry["low"] is not None:
        interval = f"{shown(entry['low'])} to {shown(entry['high'])}"
    return [
        shown(entry["mean"]),
        interval,
        "" if entry["spread"] is None else shown(entry["spread"]),
    ]


def shown(value: float) -> str:
    """A number with five digits that count."""
    # Rounding noise around 0 is not a number to show.
    return f"{0.0 if abs(value) < 1e-9 else value:.5g}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
