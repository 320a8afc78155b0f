"""A plan as JSON and as a Markdown table: no number without the settings it holds for."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from poet.plan import exchanges, roofline
from poet.plan.measure import Result, Row
from poet.train.chips import GIB

_COLUMNS = (
    "group", "share", "batch", "GiB a chip", "model TFLOP", "done TFLOP", "HBM GB", "exchanged GB",
    "optimistic s", "calibrated s", "MFU optimistic", "MFU calibrated", "limited by",
)  # fmt: skip


def to_json(result: Result) -> dict[str, Any]:
    """Everything as JSON-able values; bytes and FLOPs are of one chip and one step."""
    chip = result.topology.chip
    return {
        "topology": result.topology.name,
        "chip": dataclasses.asdict(chip),
        "settings": dict(result.facts),
        "fits": result.fits,
        "memory_bytes": dataclasses.asdict(result.memory) | {"total": result.memory.total},
        "capacity_bytes": chip.hbm_bytes,
        "mixture": result.average(),
        "replicated_arrays": dict(result.replicated),
        "notes": list(result.notes),
        "groups": [_row_json(result, row) for row in result.rows],
    }


def _row_json(result: Result, row: Row) -> dict[str, Any]:
    prediction = row.prediction
    found = {
        "group": row.part.name,
        "share": row.part.share,
        "batch_size": row.part.batch_size,
        "tokens": row.part.tokens,
        "is_compiled": row.costs is not None,
        "model_flops": row.part.model_flops,
        "prediction": {**dataclasses.asdict(prediction), "limit": prediction.limit},
        "mfu_optimistic": row.mfu(result.topology, prediction.optimistic_s),
        "mfu_calibrated": row.mfu(result.topology, prediction.calibrated_s),
        "compile_s": row.compile_s,
    }
    if row.costs is not None:
        found |= {
            "memory_bytes": dataclasses.asdict(row.memory) | {"total": row.memory.total},
            "memory_of": row.memory_of,
            "executed_flops": row.costs.flops,
            "executed_flops_of_8_bits": row.costs.eight_bit_flops,
            "hbm_bytes": row.costs.hbm_bytes,
            "kernels_not_counted": list(row.costs.unknown),
            "collectives": exchanges.by_kind(row.costs.collectives),
            "largest_collectives": _largest_collectives(row),
            "slowest": [
                {"seconds": seconds, "kind": kind, "what": what}
                for seconds, kind, what in roofline.slowest(row.costs, result.topology)
            ],
            "largest_arrays": [{"bytes": size, "what": what} for size, what in row.largest],
        }
    return found


def _largest_collectives(row: Row, count: int = 8) -> list[dict[str, Any]]:
    ordered = sorted(row.costs.collectives, key=lambda c: -c.total_bytes)
    return [dataclasses.asdict(one) for one in ordered[:count]]


def to_markdown(results: Sequence[Result]) -> str:
    """One section a topology: the settings, the table, memory, exchanges."""
    return "\n\n".join(_section(result) for result in results) + "\n"


def summary(results: Sequence[Result]) -> str:
    """One row a topology."""
    lines = [
        "| topology | chips | mesh | batch tokens | optimizer | remat | GiB a chip | of | step s"
        " | MFU calibrated | MFU optimistic |",
        "|" + "---|" * 11,
    ]
    for result in results:
        facts, mean, memory = result.facts, result.average(), result.memory
        mesh = " ".join(f"{name}={size}" for name, size in facts.get("mesh", {}).items())
        cells = (
            result.topology.name,
            result.topology.num_chips,
            mesh,
            f"{facts.get('batch_tokens', 0):,}",
            facts.get("optimizer", "-"),
            facts.get("remat_policy", "-"),
            f"{memory.total / GIB:.1f}",
            f"{result.topology.chip.hbm_bytes / GIB:.1f}",
            f"{mean['calibrated_s']:.3f}",
            _percent(mean["calibrated_mfu"] or None),
            _percent(mean["optimistic_mfu"] or None),
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _section(result: Result) -> str:
    facts, memory, mean = result.facts, result.memory, result.average()
    settings = ", ".join(
        f"{name.replace('_', ' ')} {_words(value)}"
        for name, value in facts.items()
        if name not in ("factors", "topology")
    )
    lines = [
        f"## {result.topology.name}, {result.topology.num_chips} chips",
        "",
        f"Settings: {settings}.",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "|" + "---|" * len(_COLUMNS),
        *(_row(result, row) for row in result.rows),
        "",
        f"Memory: {_gib(memory.total)} of {_gib(result.topology.chip.hbm_bytes)} GiB a chip (state"
        f" {_gib(memory.resident)}, other arguments {_gib(memory.arguments)}, results"
        f" {_gib(memory.outputs)}, temporaries {_gib(memory.temporaries)}, code"
        f" {_gib(memory.code)}): it {'fits' if result.fits else 'does NOT fit'}.",
        "",
        f"Mixture: {mean['calibrated_s']:.3f} s a step (optimistic {mean['optimistic_s']:.3f}),"
        f" {mean['tokens_per_s']:,.0f} tokens a second, MFU"
        f" {_percent(mean['calibrated_mfu'] or None)} (optimistic"
        f" {_percent(mean['optimistic_mfu'] or None)}).",
    ]
    if result.replicated:
        names = ", ".join(
            f"{name} {size / GIB:.2f} GiB" for name, size in result.replicated.items()
        )
        lines += ["", f"Whole on every chip: {names}."]
    first = next((row for row in result.rows if row.costs is not None), None)
    if first is not None:
        lines += ["", *_exchanges(first), "", *_slowest(result, first)]
    lines += [line for note in _notes(result, first) for line in ("", note)]
    unknown = {name for row in result.rows if row.costs for name in row.costs.unknown}
    if unknown:
        lines += ["", f"Kernels whose products are not known and not counted: {_names(unknown)}."]
    return "\n".join(lines)


def _notes(result: Result, row: Row | None) -> list[str]:
    """The result's own, and what TPU's compiler makes of exchanges over whole slices
    (docs/scale.md)."""
    topology, notes = result.topology, list(result.notes)
    if topology.loses_rings:
        notes.append(
            "libtpu seems to describe several slices without the closed rings of each: gathers over"
            " a whole slice are compiled as sums, at twice the bytes. If so, a real slice exchanges"
            " what the plan for one slice says; groups smaller than a slice are not concerned."
        )
    if row is not None and (eight_bit := row.costs.eight_bit_flops):
        notes.append(
            f"Of {row.part.name}, {eight_bit / 1e12:.2f} of {row.costs.flops / 1e12:.2f} TFLOP"
            " multiply numbers of 8 bits. They are timed at the peak of bf16, as MFU is counted:"
            " the table of chips has no other, so that a chip that multiplies 8 bits faster takes"
            " less."
        )
    collectives = () if row is None or topology.is_here else row.costs.collectives
    copies = topology.num_slices * topology.scattering_copies
    # Only training has gradients, and with so many copies already it has done what can be done.
    is_asked = "step" not in result.facts and result.facts["mesh"].get("replica", 1) < copies
    largest = topology.num_chips // copies
    summed = [
        one.total_bytes
        for one in collectives
        if one.kind == "all-reduce" and one.group_size // one.num_slices > largest
    ]
    if is_asked and sum(summed) > 0.1 * sum(one.total_bytes for one in collectives):
        notes.append(
            f"{sum(summed) / 1e9:.1f} GB are summed over more than {largest} chips. If these are"
            " gradients: TPU's compiler scatters most of them, at half the bytes, over smaller"
            f" groups. Try mesh replica = {copies}, which needs memory for as many copies of the"
            " state."
        )
    return notes


def _exchanges(row: Row) -> list[str]:
    lines = [
        f"Exchanges of a step of {row.part.name}, a chip:",
        "",
        "| kind | count | GB |",
        "|---|---|---|",
    ]
    for kind, found in exchanges.by_kind(row.costs.collectives).items():
        lines.append(f"| {kind} | {found['count']:.0f} | {found['bytes'] / 1e9:.3f} |")
    return lines


def _slowest(result: Result, row: Row) -> list[str]:
    lines = [
        f"Where a step of {row.part.name} spends its time (calibrated):",
        "",
        "| s | kind | place |",
        "|---|---|---|",
    ]
    for seconds, kind, what in roofline.slowest(row.costs, result.topology):
        lines.append(f"| {seconds:.4f} | {kind} | {what} |")
    return lines


def _row(result: Result, row: Row) -> str:
    chips, costs, prediction = result.topology.num_chips, row.costs, row.prediction
    exchanged = sum(c.total_bytes for c in costs.collectives) if costs else 0.0
    model = row.part.model_flops
    cells = (
        row.part.name + ("" if costs else " (not compiled)"),
        f"{row.part.share:.1%}",
        f"{row.part.batch_size} ({row.part.tokens:,})",
        f"{row.memory.total / GIB:.2f}" if row.memory else "-",
        f"{model / chips / 1e12:.2f}" if model else "-",
        f"{costs.flops / 1e12:.2f}" if costs else "-",
        f"{costs.hbm_bytes / 1e9:.1f}" if costs else "-",
        f"{exchanged / 1e9:.2f}" if costs else "-",
        f"{prediction.optimistic_s:.3f}",
        f"{prediction.calibrated_s:.3f}",
        _percent(row.mfu(result.topology, prediction.optimistic_s)),
        _percent(row.mfu(result.topology, prediction.calibrated_s)),
        prediction.limit,
    )
    return "| " + " | ".join(cells) + " |"


def _names(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={size}" for name, size in value.items())
    if isinstance(value, (list, tuple)):
        return " + ".join(f"{part:,}" for part in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}"


def dumps(results: Sequence[Result]) -> str:
    """The JSON file."""
    return json.dumps([to_json(result) for result in results], indent=2) + "\n"
