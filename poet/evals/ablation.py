"""Models that differ in one thing, trained equally long and scored by the same protocols.

The miniature of VideoPoet's Table 1 (arXiv 2312.14125, section 5.2) and of its comparison of sizes
are such sets: `gin/runs/ablation.gin` and `gin/runs/ablation_sizes.gin`.

    OUT/NAME/model        MODEL_DIR of a variant
    OUT/NAME/evaluation   its evaluation, see `poet.evals.checkpoint_run`
    OUT/ablation.json     every cell with its interval
    OUT/ablation.md       the table

A run that was stopped goes on with the same command.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from poet.evals import checkpoint_run
from poet.evals.checkpoint_evaluation import CheckpointEvaluation
from poet.media.write import temporary_sibling
from poet.train import lm
from poet.train.lm import LMRun

FORMAT = "poet ablation 1"
JSON_NAME, TABLE_NAME = "ablation.json", "ablation.md"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One of the models.

    Attributes:
      name: Of its folder and its row.
      run: How it is trained; the model's folder is set by the comparison.
    """

    name: str
    run: LMRun

    def __post_init__(self):
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"A variant needs a name that can be a folder, got {self.name!r}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One number of each model.

    Attributes:
      title: Head of the column.
      number: PROTOCOL/MEASURE/METRIC, by their names in the evaluation.
    """

    title: str
    number: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablation:
    """What is compared.

    Attributes:
      out: Folder for everything.
      variants: The models, in the order of the rows.
      evaluation: How each is scored; its checkpoint and folder are set by the comparison.
      columns: Of the table.
    """

    out: str
    variants: Sequence[Variant]
    evaluation: CheckpointEvaluation
    columns: Sequence[Column]

    def __post_init__(self):
        for name in ("variants", "columns"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"A comparison needs variants of different names, got {names}.")
        steps = {variant.run.loop.num_steps for variant in self.variants}
        tokens = {variant.run.batch_tokens for variant in self.variants}
        if len(steps) > 1 or len(tokens) > 1:
            raise ValueError(
                f"Variants must be trained equally long to be compared, got {sorted(steps)} steps"
                f" of {sorted(tokens)} tokens; give all the same."
            )
        known = {
            f"{protocol.name}/{measure.name}/{metric}"
            for protocol in self.evaluation.protocols
            for measure in protocol.measures
            for metric in measure.metrics
        }
        for column in self.columns:
            if column.number not in known:
                raise ValueError(
                    f"Column {column.title!r} is {column.number}, which no protocol measures; there"
                    f" are {', '.join(sorted(known))}."
                )


def run(
    ablation: Ablation,
    operative_config: Callable[[], str] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains, scores and compares; returns the facts of OUT/ablation.json.

    Args:
      ablation: What to do.
      operative_config: Text of the configuration, saved with every checkpoint.
      say: Told which variant is at work.
    """
    out = Path(ablation.out)
    rows = []
    for variant in ablation.variants:
        say(f"{variant.name}: training")
        folder = out / variant.name
        loop = dataclasses.replace(variant.run.loop, model_dir=str(folder / "model"))
        lm.train(dataclasses.replace(variant.run, loop=loop), operative_config)
        say(f"{variant.name}: scoring")
        evaluation = dataclasses.replace(
            ablation.evaluation, checkpoint=str(folder / "model"), out=str(folder / "evaluation")
        )
        found = checkpoint_run.CheckpointRun(evaluation).run()
        assert found is not None, "one host makes everything"
        rows.append(_row(ablation, variant, found))
    facts = {"format": FORMAT, "columns": [vars(each) for each in ablation.columns], "rows": rows}
    write(out, facts)
    return facts


def _row(ablation: Ablation, variant: Variant, found: Mapping[str, Any]) -> dict[str, Any]:
    cells = []
    for column in ablation.columns:
        protocol, measure, metric = column.number.split("/")
        entry = found["protocols"][protocol]["measures"][measure]["metrics"][metric]
        names = ("mean", "low", "high", "better", "num_counted", "protocol")
        cells.append({name: entry[name] for name in names})
    return {
        "name": variant.name,
        "num_steps": variant.run.loop.num_steps,
        "checkpoint": found["checkpoint"],
        "losses": found.get("losses", {}).get("rows", []),
        "cells": cells,
    }


def write(out: Path, facts: Mapping[str, Any]) -> None:
    """Writes the JSON and the table, each whole or not at all."""
    for name, text in (
        (TABLE_NAME, table(facts)),
        (JSON_NAME, json.dumps(facts, indent=1, allow_nan=False) + "\n"),
    ):
        with temporary_sibling(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def table(facts: Mapping[str, Any]) -> str:
    """Markdown: a row a model, a column a metric, each value with its 95 % interval."""
    titles = ["model"]
    for at, column in enumerate(facts["columns"]):
        better = {row["cells"][at]["better"] for row in facts["rows"]}
        titles.append(f"{column['title']} ({better.pop()} is better)" if len(better) == 1 else "")
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in facts["rows"]:
        cells = [row["name"], *map(_shown, row["cells"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _shown(cell: Mapping[str, Any]) -> str:
    if cell.get("mean") is None:
        return "-"
    mean, low, high = (_digits(cell[name]) for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _digits(value: float) -> str:
    """Three that count: intervals of a hundred clips are no narrower."""
    return f"{value:#.3g}".rstrip(".")
