"""Runs an evaluation of a checkpoint: losses, clips of the protocols, their metrics, one result.

Everything is checked before anything is made. What is made lies under OUT, whole or not at all, and
what is there is kept: a killed run goes on, and hosts that see the folder share the work.

    OUT/evaluation.json                 which checkpoint and settings the folder belongs to
    OUT/losses/SPLIT/TASK.json          a task's losses
    OUT/PROTOCOL/generated/             clips, each beside its JSON
    OUT/PROTOCOL/parts/                 what was measured so far
    OUT/PROTOCOL/MEASURE/result.json    one measure, for `poet evaluate --compare`
    OUT/result.json, OUT/result.md      everything
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import poet
from poet.evals import checkpoint_report, protocol_run
from poet.evals.checkpoint_evaluation import CheckpointEvaluation, claim
from poet.evals.protocol_run import Planned
from poet.evals.teacher_forced import Losses
from poet.media.write import temporary_sibling
from poet.sample import loading
from poet.sample.decode import Decoding
from poet.sample.engine import Engine
from poet.tokens.tasks import Task
from poet.train import checkpoint
from poet.train.meta import from_json, to_json
from poet.train.progress import Progress


class CheckpointRun:
    """An evaluation whose every need was found.

    Args:
      evaluation: What to do.

    Raises:
      ValueError: Something is missing or does not fit; nothing has been written then.
    """

    def __init__(self, evaluation: CheckpointEvaluation):
        self._evaluation = evaluation
        self._out = Path(evaluation.out)
        folder = Path(evaluation.checkpoint)
        if not folder.exists() and "://" not in evaluation.checkpoint:
            raise ValueError(
                f"Expected a trained model in {folder}, found nothing there; give the MODEL_DIR of"
                " `poet train` (CHECKPOINT)."
            )
        meta = checkpoint.read_meta(evaluation.checkpoint)
        self._losses = None
        if evaluation.losses.splits:
            self._losses = Losses(evaluation.losses, meta, evaluation.checkpoint)
        trained = {name: from_json(Task, task) for name, task in meta["task_values"].items()}
        checked = [
            protocol_run.check(protocol, evaluation, trained) for protocol in evaluation.protocols
        ]
        self._engine: Engine | None = None
        self._planned: list[Planned] = []
        if evaluation.protocols:
            order = loading.trained_schedule(evaluation.checkpoint)
            engine = loading.load_engine(
                evaluation.checkpoint, evaluation.tokenizers, Decoding(schedule=order)
            )
            self._planned = [
                protocol_run.plan(protocol, evaluation, found, engine)
                for protocol, found in zip(evaluation.protocols, checked, strict=True)
            ]
            self._engine = engine
        self._about = self._facts(meta)

    def _facts(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """What results say of the checkpoint and of how it was asked."""
        evaluation = self._evaluation
        facts: dict[str, Any] = {
            "checkpoint": {
                "model_dir": evaluation.checkpoint,
                "step": meta["step"],
                "fingerprint": checkpoint.fingerprint(evaluation.checkpoint, meta["step"]),
                "dtype": meta["model"]["dtype"],
                "trained_by": meta["poet_version"],
                "trained_on": meta["dataset_fingerprint"],
                "tokenizers": meta["tokenizers"],
            },
            "poet_version": poet.__version__,
        }
        if self._engine is not None:
            facts["sampling"] = to_json(evaluation.sampling)
            facts["then_temperature"] = evaluation.then_temperature
            facts["decoding"] = self._engine.facts["decoding"]
        return facts

    def run(self, shard: int = 0, num_shards: int = 1) -> dict[str, Any] | None:
        """Does a share of the work; the result where that was the last of it, else None.

        Args:
          shard: Of 0 .. num_shards - 1: takes every num_shards-th task, request and part.
          num_shards: How many share the folder.

        Raises:
          ValueError: The folder belongs to another evaluation, or requests failed.
        """
        kept = {name: self._about["checkpoint"][name] for name in ("step", "fingerprint")}
        asked = {name: self._about.get(name) for name in ("sampling", "decoding")}
        claim(self._out, {"checkpoint": kept, **asked, "seed": self._evaluation.seed})
        self._measure_losses(shard, num_shards)
        for planned in self._planned:
            assert self._engine is not None
            protocol_run.generate(planned, self._engine, shard, num_shards)
        if self.missing():
            return None
        for planned in self._planned:
            protocol_run.measure(planned, shard, num_shards)
        return self.sum_up()

    def missing(self) -> list[str]:
        """What other hosts have yet to make, in words."""
        found = []
        if self._losses is not None:
            tasks = [key for key in self._losses.names if self._read_loss(*key) is None]
            if tasks:
                found.append(f"the losses of {len(tasks)} tasks")
        for planned in self._planned:
            assert self._engine is not None
            if count := protocol_run.unanswered(planned, self._engine):
                found.append(f"{count:,} clips of {planned.protocol.name}")
        return found

    def sum_up(self) -> dict[str, Any]:
        """Writes the results of what is there, and returns OUT/result.json.

        Raises:
          ValueError: Something is missing.
        """
        if missing := self.missing():
            raise ValueError(
                f"{' and '.join(missing)} are missing in {self._out}; run the other shards first."
            )
        facts: dict[str, Any] = {"format": checkpoint_report.FORMAT, **self._about}
        facts["seed"] = self._evaluation.seed
        if self._losses is not None:
            facts["losses"] = {
                "dataset": str(self._losses.dataset.directory),
                "dataset_fingerprint": self._losses.dataset.fingerprint,
                "num_examples": self._evaluation.losses.num_examples,
                "rows": [self._read_loss(*key) for key in self._losses.names],
                "left_out": self._losses.left_out,
            }
        facts["protocols"] = {
            planned.protocol.name: {
                "settings": planned.protocol.facts,
                "folder": planned.protocol.folder,
                "num_requests": len(planned.brought.asks),
                "measures": protocol_run.sum_up(planned, self._about),
            }
            for planned in self._planned
        }
        facts = json.loads(json.dumps(facts, allow_nan=False))
        checkpoint_report.write(self._out, facts)
        return facts

    def _measure_losses(self, shard: int, num_shards: int) -> None:
        if self._losses is None:
            return
        mine = self._losses.names[shard::num_shards]
        todo = [key for key in mine if self._read_loss(*key) is None]
        if not todo:
            return
        measure = self._losses.measurer(self._losses.load_params())
        with Progress("losses", len(mine), len(mine) - len(todo), unit="tasks") as progress:
            for number, (split, task) in enumerate(todo, start=len(mine) - len(todo) + 1):
                row = measure(split, task)
                whole = {"follows_from": self._loss_facts(split, task), "row": row}
                with temporary_sibling(self._loss_path(split, task)) as temporary:
                    temporary.write_text(json.dumps(whole), encoding="utf-8")
                progress.update(number)

    def _loss_path(self, split: str, task: str) -> Path:
        return self._out / "losses" / split / f"{task}.json"

    def _loss_facts(self, split: str, task: str) -> dict[str, Any]:
        assert self._losses is not None
        return self._losses.facts(split, task)

    def _read_loss(self, split: str, task: str) -> dict[str, Any] | None:
        """A row that follows from the same facts; None where it has yet to be measured."""
        try:
            whole = json.loads(self._loss_path(split, task).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return whole["row"] if whole["follows_from"] == self._loss_facts(split, task) else None
