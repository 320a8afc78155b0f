"""The settings of a checkpoint's evaluation, and its claim on the folder it writes to."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poet.evals.protocol import Protocol
from poet.evals.teacher_forced import TeacherForced
from poet.media.write import temporary_sibling
from poet.sample.requests import SamplingRequest
from poet.train.meta import first_difference

CLAIM_NAME = "evaluation.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointEvaluation:
    """An evaluation of one checkpoint.

    Attributes:
      checkpoint: MODEL_DIR of `poet train`; its newest step.
      out: Folder for everything that is made.
      losses: What is measured teacher-forced.
      protocols: What is generated and scored.
      tokenizers: Folder with visual/ and audio/, for protocols.
      sampling: How tokens are drawn, its seed included; guidance counts for tasks with words.
      then_temperature: Of the tasks that follow in a protocol; None is the temperature of sampling.
      weights: Kind of a metric's network -> its file.
      plugins: Modules or files with metrics of your own, as `poet.evals.plugins` says.
      batch_size: Requests decoded together.
      metric_batch_size: Clips that are measured together.
      seed: Of what a protocol draws of its files, of groups and of intervals.
    """

    checkpoint: str
    out: str
    losses: TeacherForced = TeacherForced()
    protocols: Sequence[Protocol] = ()
    tokenizers: str = ""
    sampling: SamplingRequest = SamplingRequest()
    then_temperature: float | None = None
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
    plugins: Sequence[str] = ()
    batch_size: int = 32
    metric_batch_size: int = 8
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "protocols", tuple(self.protocols))
        named = [self.plugins] if isinstance(self.plugins, str) else self.plugins
        object.__setattr__(self, "plugins", tuple(named))
        names = [protocol.name for protocol in self.protocols]
        if len(set(names)) < len(names):
            raise ValueError(f"Protocols need different names, got {', '.join(names)}.")
        if not (names or self.losses.splits):
            raise ValueError(
                "There is nothing to evaluate; give splits for the losses, or a protocol such as"
                " --gin_file gin/protocols/shapes_world.gin."
            )
        if names and not self.tokenizers:
            raise ValueError(
                f"Protocol {names[0]!r} makes clips, which needs the tokenizers that the dataset"
                " was prepared with; give their folder (TOKENIZERS)."
            )
        if min(self.batch_size, self.metric_batch_size) < 1 or self.seed < 0:
            raise ValueError(
                f"Expected batches of 1 or more and a seed of 0 or more, got batch_size="
                f"{self.batch_size}, metric_batch_size={self.metric_batch_size}, seed={self.seed}."
            )


def claim(out: Path, facts: Mapping[str, Any]) -> None:
    """Keeps a folder to one evaluation: whoever shares or continues it has the same facts.

    Args:
      out: The folder; made if needed.
      facts: What every file in it follows from, as JSON.

    Raises:
      ValueError: The folder holds another evaluation, saying what differs.
    """
    path = out / CLAIM_NAME
    facts = json.loads(json.dumps(facts))
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != facts:
            name, was, is_now = first_difference(before, facts)
            raise ValueError(
                f"{out} holds an evaluation whose {name} was {was}, now it is {is_now}; choose"
                " another folder (OUT)."
            )
        return
    with temporary_sibling(path, is_shared=True) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
