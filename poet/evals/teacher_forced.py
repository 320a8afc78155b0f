"""Teacher-forced loss and accuracy of a checkpoint, by task and split of a prepared dataset.

Batches are those of training's evaluation (`AgdBatches.eval_batches`: the first examples of each
task in a fixed order, texts kept), the compiled loss is training's too (`LMPrograms.compile_loss`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

from poet.data import registry
from poet.data.batches import AgdBatches
from poet.data.groups import AgdConfig
from poet.data.records import Dataset, open_dataset
from poet.models.prefix_lm import PrefixLM
from poet.tokens.schedule import RASTER, Schedule
from poet.train import checkpoint, lm, partitioning
from poet.train.held_out import means_by_part
from poet.train.lm_program import LMPrograms
from poet.train.meta import from_json, to_json
from poet.train.partitioning import MeshConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherForced:
    """What of a checkpoint's tasks is measured, and on what.

    Attributes:
      data_dir: A prepared dataset; "" is the one that the checkpoint was trained on.
      splits: Of it; none leaves the losses out.
      tasks: Registered names; none stands for all that the checkpoint was trained for.
      num_examples: At most so many a task and split, each once.
      batch_tokens: Of a batch, over all devices; 0 is as in training.
      task_modules: Modules or files that register the tasks.
      mesh: How the devices are laid out.
    """

    data_dir: str = ""
    splits: Sequence[str] = ("validation",)
    tasks: Sequence[str] = ()
    num_examples: int = 1024
    batch_tokens: int = 0
    task_modules: Sequence[str] = ("tasks.paper", "tasks.mixtures")
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        for name in ("splits", "tasks", "task_modules"):
            if isinstance(getattr(self, name), str):
                raise ValueError(
                    f"{name} is a list of names, got {getattr(self, name)!r}; write it as"
                    f" ('{getattr(self, name)}',)."
                )
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.num_examples < 1 or self.batch_tokens < 0:
            raise ValueError(
                f"num_examples={self.num_examples} must be 1 or more and batch_tokens="
                f"{self.batch_tokens} 0 or more; no splits leave the losses out."
            )


class Losses:
    """The losses of one checkpoint, checked and ready to be measured task by task.

    Args:
      config: What is measured.
      meta: Facts of the checkpoint (`checkpoint.read_meta`).
      model_dir: Where it lies.

    Attributes:
      dataset: What it is measured on.
      left_out: "SPLIT/TASK" -> why it has no loss.

    Raises:
      ValueError: The dataset is missing, was made by other tokenizers or lacks a split, or a task
        is unknown, was not trained or is not what was trained.
    """

    def __init__(self, config: TeacherForced, meta: Mapping[str, Any], model_dir: str):
        self._config, self._meta, self._model_dir = config, meta, model_dir
        tasks = _tasks(config, meta)
        self.dataset = _dataset(config, meta)
        self._mesh = partitioning.make_mesh(config.mesh)
        self._text = lm.text_tokenizer_from_meta(meta)
        sizes = lm.sizes_of(self.dataset, self._text)
        if sizes.vocabulary.to_dict() != meta["vocabulary"]:
            raise ValueError(
                f"The ids of {self.dataset.directory} are not those of {model_dir}; give the"
                " dataset that its tokenizers prepared."
            )
        self.left_out: dict[str, str] = {}
        self._batches: dict[str, AgdBatches] = {}
        self._programs: dict[str, LMPrograms] = {}
        for split in config.splits:
            agd = AgdConfig(
                batch_tokens=config.batch_tokens or meta["batch"]["batch_tokens"],
                split=split,
                data_parallel_size=partitioning.batch_ways(self._mesh),
            )
            batches = AgdBatches(self.dataset, tasks, sizes, self._text, agd)
            self._batches[split] = batches
            self.left_out |= {f"{split}/{name}": why for name, why in batches.left_out.items()}

    @property
    def names(self) -> list[tuple[str, str]]:
        """(split, task) of everything that has a loss."""
        return [
            (split, name)
            for split, batches in self._batches.items()
            for group in batches.groups.values()
            for name in group.task_names
        ]

    def facts(self, split: str, task: str) -> dict[str, Any]:
        """What a row follows from besides the checkpoint, as JSON."""
        return {
            "split": split,
            "task": task,
            "value": self._meta["task_values"][_value_name(task, self._meta)],
            "dataset_fingerprint": self.dataset.fingerprint,
            "num_examples": self._config.num_examples,
        }

    def load_params(self) -> Any:
        """The checkpoint's parameters, on the mesh."""
        like = self._programs_of(next(iter(self._batches))).state_shapes.params
        return checkpoint.load_params(self._model_dir, self._meta["step"], like=like)

    def measurer(self, params: Any) -> Callable[[str, str], dict[str, Any]]:
        """(split, task) -> row: loss_nats and accuracy, means over tokens, and the counts.

        Programs of tasks with one plan are compiled once.
        """
        compiled: dict[tuple[str, str], Any] = {}

        def measure(split: str, task: str) -> dict[str, Any]:
            made = self._batches[split].eval_batches(task, split, self._config.num_examples)
            measured, num_examples = [], 0
            for group, batch in made:
                if (split, group) not in compiled:
                    compiled[split, group] = self._programs_of(split).compile_loss(group)
                num_examples += int((batch["decoder_loss_weights"] > 0).any(axis=1).sum())
                placed = partitioning.shard_batch(batch, self._mesh)
                measured.append(compiled[split, group](params, placed))
            parts = means_by_part(measured)
            row = {"split": split, "task": task, "num_examples": num_examples, "num_tokens": 0}
            if whole := parts.pop("all", None):
                row |= {"num_tokens": int(whole["num_tokens"]), "loss_nats": whole["nats"]}
                row |= {"accuracy": whole["accuracy"], "parts": parts}
            return row

        return measure

    def _programs_of(self, split: str) -> LMPrograms:
        if split not in self._programs:
            schedule = from_json(Schedule, self._meta.get("schedule", to_json(RASTER)))
            model = PrefixLM(lm.model_from_meta(self._meta), schedule)
            self._programs[split] = LMPrograms(
                model, optax.identity(), self._mesh, self._batches[split]
            )
        return self._programs[split]


def _tasks(
    config: TeacherForced, meta: Mapping[str, Any]
) -> list[tuple[registry.TaskEntry, float]]:
    registry.load_task_modules(config.task_modules)
    unknown = [name for name in config.tasks if name not in meta["tasks"]]
    if unknown:
        raise ValueError(
            f"The checkpoint was not trained for {', '.join(unknown)}; it was trained for"
            f" {', '.join(meta['tasks'])}."
        )
    found = []
    for name in config.tasks or meta["tasks"]:
        entry = registry.get(name)
        assert isinstance(entry, registry.TaskEntry)
        if to_json(entry.task) != meta["task_values"].get(entry.task.name):
            raise ValueError(
                f"{name} is no longer what the checkpoint was trained for; give the task modules"
                " of its run (TASK_MODULES)."
            )
        found.append((entry, 1.0))
    return found


def _value_name(task: str, meta: Mapping[str, Any]) -> str:
    """The task value behind a registered name, which may end in @ and a size."""
    entry = registry.get(task.partition("@")[0])
    assert isinstance(entry, registry.TaskEntry) and entry.task.name in meta["task_values"]
    return entry.task.name


def _dataset(config: TeacherForced, meta: Mapping[str, Any]) -> Dataset:
    try:
        dataset = open_dataset(config.data_dir or meta["data_dir"])
    except ValueError as error:
        if config.data_dir:
            raise
        raise ValueError(
            f"The dataset of the checkpoint is not there: {error} Give another for the losses"
            " (DATA_DIR), or leave them out (SPLITS=())."
        ) from error
    for kind, trained in meta["tokenizers"].items():
        made = dataset.fingerprints.get(kind)
        if made not in (None, trained):
            raise ValueError(
                f"The {kind} codes of {dataset.directory} were made by tokenizer {made[:12]}, but"
                f" the checkpoint reads those of {trained[:12]}; prepare the clips with its"
                " tokenizers."
            )
    lacking = [split for split in config.splits if not dataset.splits.get(split)]
    if lacking:
        raise ValueError(
            f"{dataset.directory} has no split {' or '.join(lacking)}, only"
            f" {', '.join(dataset.splits)}; choose among them (SPLITS)."
        )
    return dataset
