"""Teacher-forced loss and accuracy of a language model on what it is not trained on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from poet.data.batches import AgdBatches
from poet.train import partitioning
from poet.train.state import TrainState

# {part of the output: {"nats", "correct", "num_tokens": sums over a batch}}.
PartSums = dict[str, dict[str, Any]]


class HeldOut:
    """Loss and accuracy on the first examples of each task and split, the same at every look.

    Args:
      batches: Of the run.
      splits: That are not trained on.
      num_examples: At most so many a task and split.
      compiled: Group -> compiled (params, batch) -> sums by part (`LMPrograms.compile_loss`).
      mesh: Of the parameters.
    """

    def __init__(
        self,
        batches: AgdBatches,
        splits: Sequence[str],
        num_examples: int,
        compiled: Callable[[str], Any],
        mesh: Mesh,
    ):
        self._batches, self._splits, self._num_examples = batches, tuple(splits), num_examples
        self._compiled, self._mesh = compiled, mesh
        self._cache: dict[tuple[str, str], list[Any]] = {}

    def __call__(self, state: TrainState, step: int) -> dict[str, float]:
        """Means over tokens, by name; step is not used.

        "loss_nats/SPLIT" and "accuracy/SPLIT" over all tasks, ".../SPLIT/TASK" of each, and
        ".../SPLIT/by_part/PART" over all tasks again, of each modality and audio level and of each
        latent frame (`PrefixLM.loss_by_part`). A state with averaged weights has
        "loss_nats_ema/..." and "accuracy_ema/..." besides.
        """
        del step
        found = self._measured(state.params, "")
        if state.ema:
            found |= self._measured(state.params | state.ema, "_ema")
        return found

    def _measured(self, params: Any, suffix: str) -> dict[str, float]:
        found: dict[str, float] = {}

        def add(place: str, row: Mapping[str, float]) -> None:
            found[f"loss_nats{suffix}/{place}"] = row["nats"]
            found[f"accuracy{suffix}/{place}"] = row["accuracy"]

        for split in self._splits:
            measured: list[PartSums] = []
            for task in self._tasks():
                sums = self._measure(params, task, split)
                measured += sums
                if means := means_by_part(sums):
                    add(f"{split}/{task}", means["all"])
            for part, row in means_by_part(measured).items():
                add(split if part == "all" else f"{split}/by_part/{part}", row)
        return found

    def _tasks(self) -> list[str]:
        return [name for group in self._batches.groups.values() for name in group.task_names]

    def _measure(self, params: Any, task: str, split: str) -> list[PartSums]:
        key = (task, split)
        if key not in self._cache:
            made = self._batches.eval_batches(task, split, self._num_examples)
            self._cache[key] = [
                (group, partitioning.shard_batch(batch, self._mesh)) for group, batch in made
            ]
        found = [self._compiled(group)(params, batch) for group, batch in self._cache[key]]
        return jax.device_get(found)


def means_by_part(measured: Sequence[PartSums]) -> dict[str, dict[str, float]]:
    """{part: {"nats": mean, "accuracy": mean, "num_tokens": sum}} over batches of any tasks.

    Args:
      measured: What `LMPrograms.compile_loss` gives for each batch; parts are those of
        `PrefixLM.loss_by_part`.

    Returns:
      Parts that have tokens, in the order in which they come first.
    """
    totals: dict[str, np.ndarray] = {}
    for sums in measured:
        for part, row in sums.items():
            new = np.array([float(row[name]) for name in ("nats", "correct", "num_tokens")])
            totals[part] = totals.get(part, 0.0) + new
    return {
        part: {"nats": nats / tokens, "accuracy": correct / tokens, "num_tokens": tokens}
        for part, (nats, correct, tokens) in totals.items()
        if tokens
    }
