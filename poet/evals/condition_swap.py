"""Does a model listen? Held-out loss with an example's own condition and with another example's.

For every task: the mean nats of the codes it writes, the entropy of those codes one by one (what a
model that knows only their frequencies would pay), and the loss when what is given comes from the
next example while what is asked for stays.
"""

import collections
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from poet.data import registry
from poet.data.batches import AgdBatches
from poet.data.groups import AgdConfig
from poet.data.records import Dataset
from poet.models.config import PrefixLMConfig
from poet.models.prefix_lm import PrefixLM
from poet.tokens.sequence import SequencePlan
from poet.train import lm

WHOLE = "everything"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a task, and what of its condition is exchanged.

    Attributes:
      task: registered name.
      part: field of the condition, `WHOLE`, or "" for a task that is given nothing.
      nats: mean over the codes asked for, own condition.
      entropy: of those codes one by one, in the examples at hand.
      swapped: the same mean with the other example's condition; NaN for a task given nothing.
      num_examples: how many.
    """

    task: str
    part: str
    nats: float
    entropy: float
    swapped: float
    num_examples: int

    @property
    def listens(self) -> bool:
        """Whether the loss rises by 0.1 nats or a tenth."""
        return self.swapped - self.nats >= min(0.1, 0.1 * self.nats)


def measure(
    params: Any,
    config: PrefixLMConfig,
    dataset: Dataset,
    tasks: list[tuple[registry.TaskEntry, float]],
    text_tokenizer: lm.TextTokenizer,
    *,
    split: str,
    num_examples: int = 96,
    batch_size: int = 16,
) -> list[Row]:
    """The rows of every task that the split serves.

    Args:
      params: of the model.
      config: of the model.
      dataset: whose records the model has not seen.
      tasks: from `registry.resolve`.
      text_tokenizer: the model's.
      split: of the dataset.
      num_examples: at most so many a task, in whole batches.
      batch_size: examples a call.
    """
    sizes = lm.sizes_of(dataset, text_tokenizer)
    agd = AgdBatches(dataset, tasks, sizes, text_tokenizer, AgdConfig(batch_tokens=1, split=split))
    rows = []
    for group in agd.groups.values():
        nats = _loss_of(config, group.plan)
        for task in group.task_names:
            made = [batch for _, batch in agd.eval_batches(task, split, num_examples)]
            whole = {name: np.concatenate([b[name] for b in made]) for name in made[0]}
            count = len(whole["text_ids"]) // batch_size * batch_size or len(whole["text_ids"])
            whole = {name: array[:count] for name, array in whole.items()}
            ask = functools.partial(_mean, nats, params, batch_size=batch_size)
            own, entropy = ask(whole), _entropy(group.plan, whole)
            for part in _parts(group.plan) or [""]:
                swapped = ask(_swapped(group.plan, whole, part)) if part else float("nan")
                rows.append(
                    Row(
                        task=task,
                        part=part,
                        nats=own,
                        entropy=entropy,
                        swapped=swapped,
                        num_examples=count,
                    )
                )
    return rows


def lines(rows: list[Row]) -> list[str]:
    """The rows as a Markdown table."""
    found = [
        "| task | exchanged | nats a token | unigram entropy | with another's | rise |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        rise = "" if not row.part else f"{row.swapped - row.nats:+.3f}"
        swapped = "" if not row.part else f"{row.swapped:.3f}"
        found.append(
            f"| {row.task} | {row.part or 'nothing'} | {row.nats:.3f} | {row.entropy:.3f} |"
            f" {swapped} | {rise} |"
        )
    return found


def _parts(plan: SequencePlan) -> list[str]:
    """Fields of the condition, after WHOLE where there are several."""
    fields = list(dict.fromkeys(slot.field for slot in plan.slots if not slot.is_output))
    return [WHOLE, *fields] if len(fields) > 1 else fields


def _swapped(plan: SequencePlan, batch: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """The batch with one part of the condition, or all of it, from the next example."""
    swapped = {name: array.copy() for name, array in batch.items()}
    for slot in plan.slots:
        if slot.is_output or part not in (WHOLE, slot.field):
            continue
        if slot.kind == "text":
            swapped["text_ids"] = np.roll(batch["text_ids"], 1, axis=0)
        else:
            at = np.s_[:, slot.start : slot.stop]
            swapped["decoder_input_tokens"][at] = np.roll(batch["decoder_input_tokens"][at], 1, 0)
    return swapped


def _entropy(plan: SequencePlan, batch: dict[str, np.ndarray]) -> float:
    """Mean nats of the codes asked for under their own frequencies, by kind of code."""
    total = count = 0.0
    for name in {slot.ids.name for slot in plan.slots if slot.is_output}:
        slots = [slot for slot in plan.slots if slot.is_output and slot.ids.name == name]
        codes = np.concatenate(
            [
                batch["decoder_target_tokens"][:, slot.start - 1 : slot.stop - 1].ravel()
                for slot in slots
            ]
        )
        times = np.unique(codes, return_counts=True)[1]
        total -= float((times * np.log(times / times.sum())).sum())
        count += codes.size
    return total / count


def _loss_of(config: PrefixLMConfig, plan: SequencePlan):
    """(params, batch) -> mean nats of the codes of a batch, delimiters left out."""
    counts = collections.Counter()
    for slot in plan.slots:
        if slot.is_output:
            counts[slot.ids.name] += slot.stop - slot.start

    @jax.jit
    def nats(params, batch):
        model = PrefixLM(config)
        applied: Any = model.apply({"params": params}, plan, batch, method="loss")
        _, measures = applied
        return sum(measures[f"nats_{name}"] * n for name, n in counts.items()) / sum(
            counts.values()
        )

    return nats


def _mean(nats, params, batch: dict[str, np.ndarray], batch_size: int) -> float:
    count = len(batch["text_ids"])
    means = [
        float(nats(params, {k: v[at : at + batch_size] for k, v in batch.items()}))
        for at in range(0, count, batch_size)
    ]
    return float(np.mean(means))
