"""Batches by alternating gradient descent: one task a step, groups of equal plan, no padding.

Each step draws one task by its weight; tasks with the same plan form a group, which has its own
static shapes, its own batch size and its own compiled step. Batch sizes keep the tokens of a step
level across groups. (AGD: paper, section on training; spec/videopoet.md section 4.5.)

Everything about step s follows from (seed, s): the task, the records, the dropped texts. Two runs,
or a run and its resumption, or hosts of one run, never need to agree on anything else.
"""

import numpy as np
from absl import logging

from poet.data import order
from poet.data.groups import (
    AgdConfig,
    SequenceSizes,
    SharedTasks,
    SizedTask,
    make_groups,
    phase_shares,
    size_task,
)
from poet.data.records import CorruptRecordError, Dataset
from poet.tokens import sequence

Batch = dict[str, np.ndarray]
_STEPS_PER_BLOCK = 4096


class AgdBatches:
    """The batches of a run, by step.

    Tasks that no record serves, or that do not fit the clips, are refused, or left out with a
    warning (`AgdConfig.on_unserved_task`). Clips of several sizes give a task a group for each; the
    task's share is divided by their records.

    Args:
      dataset: from `open_dataset`.
      tasks: (task, share) pairs, from `registry.resolve`.
      sizes: what plans are made of; its clip must be one that the dataset holds.
      text_tokenizer: `.encode(caption) -> int32 [text_slots]`; may be None without text tasks.
      config: how batches are drawn.

    Attributes:
      groups: name -> Group, most frequent first.
      left_out: task name -> why it is not trained.
      bad_records: (split, record) -> what is wrong with it, of those skipped so far.
    """

    def __init__(
        self,
        dataset: Dataset,
        tasks: SharedTasks,
        sizes: SequenceSizes,
        text_tokenizer,
        config: AgdConfig,
    ):
        _check_dataset(dataset, sizes, config.split)
        self._dataset, self._config = dataset, config
        self._text_tokenizer = text_tokenizer
        self.left_out: dict[str, str] = {}
        self.bad_records: dict[tuple[str, int], str] = {}
        tasks = self._tasks_with_records(tasks, sizes)
        if text_tokenizer is None and any(task.task.has_text for task, _ in tasks):
            raise ValueError(
                "Tasks with text need a text tokenizer, got None. Pass the model's, or choose"
                " tasks without text."
            )
        self._tasks = [task for task, _ in tasks]
        self._cumulative = np.cumsum(phase_shares(tasks, config.curriculum), axis=1)
        self.groups, self._group_of = make_groups(tasks, config)
        # _draw_counts[b][k]: draws of task k before step b * _STEPS_PER_BLOCK.
        self._draw_counts = [np.zeros(len(tasks), np.int64)]

    def group_at(self, step: int) -> str:
        """Name of the group that trains at a step; equal on all hosts."""
        return self._group_of[self.task_at(step)]

    def task_at(self, step: int) -> str:
        """Name of the task that trains at a step, with its size where tasks have several."""
        return self._tasks[self._draws(step, step + 1)[0]].name

    def batch_at(self, step: int) -> tuple[str, Batch]:
        """(group name, this process's rows of the batch) of a step, as numpy.

        The batch holds decoder_input_tokens and decoder_target_tokens int32 [B, L-1],
        decoder_loss_weights float32 [B, L-1], text_ids int32 [B, slots] (no slots for a task
        without text) and text_is_dropped bool [B].
        """
        number = int(self._draws(step, step + 1)[0])
        task = self._tasks[number]
        group = self.groups[self._group_of[task.name]]
        first = int(self._count_before(step)[number]) * group.batch_size
        positions = self._rows(group.batch_size) + first
        return group.name, self._batch(task, group, positions)

    def positions(self, step: int) -> dict[str, dict[str, int]]:
        """Where each task stands before a step: examples seen, epochs finished (JSON-able)."""
        found = {}
        for task, count in zip(self._tasks, self._count_before(step), strict=True):
            seen = int(count) * self.groups[self._group_of[task.name]].batch_size
            num_records = len(task.records[self._config.split])
            found[task.name] = {"examples": seen, "epochs": seen // num_records}
        return found

    def examples(
        self, task_name: str, split: str, count: int
    ) -> tuple[SizedTask, dict[str, np.ndarray], list[str]]:
        """A task, fields and captions of its first examples, each once, as `eval_batches` has them.

        Fields are local codes with a row an example, as `sequence.assemble` takes them; all hosts
        get all of them. There may be fewer than `count`, or none: then there are no fields.
        """
        task = self._task(task_name)
        count = min(count, len(task.records_of(split)))
        at = self._order(task, split, np.arange(count), 0) if count else []
        records = [self._record(task, split, int(number)) for number in at]
        fields = [self._objective(task, record) for record in records]
        captions = [record["caption"] for record in records]
        return task, _stack(task.name, fields) if fields else {}, captions

    def eval_batches(self, task_name: str, split: str, count: int) -> list[tuple[str, Batch]]:
        """The first `count` examples of a task in a fixed order, each once, texts kept.

        Every batch has the group's training shape, so that no new program is compiled; rows past
        the last example repeat earlier ones with loss weights of 0. No examples, no batches.
        """
        task = self._task(task_name)
        num_records = len(task.records_of(split))
        count = min(count, num_records)
        group, batches = self.groups[self._group_of[task_name]], []
        for first in range(0, count, group.batch_size):
            positions = first + self._rows(group.batch_size)
            batch = self._batch(task, group, positions % count, split=split)
            batch["decoder_loss_weights"][positions >= count] = 0
            batches.append((group.name, batch))
        return batches

    def describe(self) -> list[dict[str, object]]:
        """One row a group: sizes, share of the steps early and late, records, token level."""
        shares = np.diff(self._cumulative, axis=1, prepend=0)
        index = {task.name: at for at, task in enumerate(self._tasks)}
        rows = []
        for group in self.groups.values():
            members = [index[name] for name in group.task_names]
            early, late = shares[0, members].sum(), shares[-1, members].sum()
            num_records = [len(self._tasks[k].records[self._config.split]) for k in members]
            rows.append(
                {
                    "group": group.name,
                    "tasks": ", ".join(group.task_names),
                    "prefix": group.plan.prefix_length,
                    "length": group.plan.length,
                    "batch": group.batch_size,
                    "tokens": group.tokens_per_step,
                    "off_level": group.tokens_per_step / self._config.batch_tokens - 1,
                    "share": float(late) if early == late else (float(early), float(late)),
                    "records": sum(num_records),
                }
            )
        return rows

    def _task(self, name: str) -> SizedTask:
        found = next((task for task in self._tasks if task.name == name), None)
        if found is None:
            names = [task.name for task in self._tasks]
            raise ValueError(f"Task {name!r} is not trained here, expected one of {names}.")
        return found

    def _order(self, task: SizedTask, split: str, positions, seed: int) -> np.ndarray:
        """Numbers of the records at positions of a task's order."""
        num_records = len(task.records_of(split))
        return order.index_at(seed, order_stream(task.name, split), positions, num_records)

    def _tasks_with_records(self, tasks: SharedTasks, sizes: SequenceSizes) -> list:
        """(SizedTask, share) of every task that the split's records serve."""
        kept, split = [], self._config.split
        for entry, share in tasks:
            try:
                sized = size_task(entry, self._dataset, sizes)
            except ValueError as error:
                self.left_out[entry.name] = str(error)
                continue
            counts = np.array([len(task.records[split]) for task in sized])
            if not counts.sum():
                wants = " and ".join(sorted(entry.needs)) or "anything"
                self.left_out[entry.name] = f"no record of split {split!r} has {wants}"
            shares = share * counts / max(1, counts.sum())
            kept += [pair for pair in zip(sized, shares.tolist(), strict=True) if pair[1]]
        if self.left_out and kept and self._config.on_unserved_task == "raise":
            name, reason = next(iter(self.left_out.items()))
            raise ValueError(
                f"Task {name!r} of the mixture cannot be trained on {self._dataset.directory}:"
                f" {reason}. Prepare clips that have it, give the task the weight 0 (task_weights),"
                " or leave such tasks out (lm.LMRun.on_unserved_task = 'leave_out')."
            )
        if not kept:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.left_out.items())
            raise ValueError(
                f"No task can be trained on {self._dataset.directory} ({reasons})."
                " Choose tasks that fit the data, or prepare clips that have what they need."
            )
        for name, reason in self.left_out.items():
            logging.warning("Task %s is left out: %s.", name, reason)
        return kept

    def _draws(self, start, stop) -> np.ndarray:
        """Index of the task drawn at each of the steps [start, stop)."""
        steps = np.arange(start, stop)
        draws = order.uniform_at(self._config.seed, "task", steps)
        curriculum, phase = self._config.curriculum, np.zeros(len(steps), np.int64)
        if curriculum is not None:
            phase = (steps >= curriculum.switch_at * curriculum.num_steps).astype(np.int64)
        tasks = (draws[:, None] >= self._cumulative[phase]).sum(axis=1)
        # The last sum may miss 1 by rounding.
        return np.minimum(tasks, len(self._tasks) - 1)

    def _count_before(self, step) -> np.ndarray:
        """How often each task was drawn before a step."""
        num_tasks = len(self._tasks)
        block = step // _STEPS_PER_BLOCK
        while len(self._draw_counts) <= block:
            start = (len(self._draw_counts) - 1) * _STEPS_PER_BLOCK
            drawn = self._draws(start, start + _STEPS_PER_BLOCK)
            counts = np.bincount(drawn, minlength=num_tasks)
            self._draw_counts.append(self._draw_counts[-1] + counts)
        drawn = self._draws(block * _STEPS_PER_BLOCK, step)
        return self._draw_counts[block] + np.bincount(drawn, minlength=num_tasks)

    def _rows(self, batch_size) -> np.ndarray:
        """Rows of the global batch that belong to this process."""
        num_rows = batch_size // self._config.process_count
        return np.arange(num_rows) + num_rows * self._config.process_index

    def _batch(self, task, group, positions, split=None) -> Batch:
        """Assembles the examples at positions of a task's order; `split` means evaluation."""
        seed = self._config.seed if split is None else 0
        split_name = split or self._config.split
        at = self._order(task, split_name, positions, seed)
        value = task.task
        records = (self._record(task, split_name, int(number)) for number in at)
        fields = [self._objective(task, record) for record in records]
        batch = sequence.assemble(group.plan, _stack(task.name, fields))
        batch = {name: np.array(values) for name, values in batch.items()}
        batch["text_is_dropped"] = np.zeros(len(positions), bool)
        if split is None and value.has_text:
            batch["text_is_dropped"] = text_is_dropped(
                seed, task.name, positions, self._config.text_dropout
            )
        return batch

    def _objective(self, task, record) -> dict[str, np.ndarray]:
        return task.entry.objective(record, task.task, self._text_tokenizer)

    def _record(self, task, split: str, number: int) -> dict:
        """A record of a task; if that is damaged and may be skipped, the next one."""
        records = task.records[split]
        for step in range(len(records)):
            index = int(records[(number + step) % len(records)])
            try:
                return self._dataset.read(split, index)
            except CorruptRecordError as error:
                if self._config.on_bad_record == "raise":
                    raise
                if (split, index) not in self.bad_records:
                    self.bad_records[split, index] = str(error)
                    logging.warning("Skipped (%d so far): %s", len(self.bad_records), error)
        raise CorruptRecordError(
            f"All {len(records)} records of task {task.name!r} are corrupt, the last because:"
            f" {self.bad_records[split, index]}"
        )


def order_stream(task_name: str, split: str) -> str:
    """The name of a task's order over a split (see `order.index_at`)."""
    return f"order/{split}/{task_name}"


def text_is_dropped(seed: int, task_name: str, positions, text_dropout: float) -> np.ndarray:
    """Bool of each position in a task's order: whether this example loses its text."""
    draws = order.uniform_at(seed, f"text_dropout/{task_name}", positions)
    return np.asarray(draws < text_dropout)


def _stack(task_name, fields: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    stacked = {}
    for name in fields[0]:
        arrays = [example[name] for example in fields]
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise ValueError(
                f"Records of one batch of {task_name!r} have {name} ids of different shapes"
                f" {sorted(shapes)}, expected one shape. Prepare all clips at one size."
            )
        stacked[name] = np.stack(arrays)
    return stacked


def _check_dataset(dataset: Dataset, sizes: SequenceSizes, split: str):
    """ValueError unless the split has clips or images of the plan's size, and its levels."""
    grid = sizes.clip.grid
    fits = {"x".join(map(str, grid)), "x".join(map(str, (1, *grid[1:])))}
    dataset.having(split, ())  # refuses a split that there is not
    shapes = dataset.summary["splits"][split]["visual_shapes"]
    if not fits & set(shapes):
        raise ValueError(
            f"Split {split!r} of {dataset.directory} holds visual ids of shape"
            f" {', '.join(shapes)}, the model's clips have {' or '.join(sorted(fits))} (frames x"
            " rows x columns). Prepare the clips at the model's size, or choose the model's clip"
            " size to fit."
        )
    has_sound = any(facts["num_with_audio"] for facts in dataset.summary["splits"].values())
    num_levels = dataset.summary["audio_levels"]
    if sizes.sound is not None and has_sound and num_levels != sizes.sound.num_levels:
        raise ValueError(
            f"{dataset.directory} has {num_levels} audio levels, the model"
            f" {sizes.sound.num_levels}. Use the audio tokenizer that the model was made for."
        )
