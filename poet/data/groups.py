"""The groups of a run: sizes, plans, batch sizes and shares, all known before the first step."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from poet.data import registry
from poet.data.objectives import is_image_task
from poet.tokens import sequence
from poet.tokens.clip import ClipShape, SoundShape
from poet.tokens.sequence import SequencePlan
from poet.tokens.tasks import Task
from poet.tokens.vocabulary import Vocabulary

SharedTasks = Sequence[tuple[registry.TaskEntry, float]]
Grid = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceSizes:
    """The sizes that turn a task into a plan; they come from the tokenizers in use."""

    clip: ClipShape
    sound: SoundShape | None
    text_slots: int
    vocabulary: Vocabulary

    def plan(self, task: Task) -> SequencePlan:
        """The plan of a task at these sizes."""
        return sequence.plan(task, self.clip, self.sound, self.text_slots, self.vocabulary)

    def at(self, grid: Grid) -> "SequenceSizes":
        """These sizes for clips whose visual ids have the shape (t, h, w)."""
        if grid == self.clip.grid:
            return self
        frames, rows, columns = grid
        clip = dataclasses.replace(
            self.clip,
            num_frames=self.clip.frames_of(frames),
            height_px=rows * self.clip.px_per_token,
            width_px=columns * self.clip.px_per_token,
        )
        sound = self.sound and SoundShape.for_clip(
            clip, self.sound.num_levels, self.sound.samples_per_frame, self.sound.sample_rate_hz
        )
        return dataclasses.replace(self, clip=clip, sound=sound)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizedTask:
    """A registered task over the records of one size.

    Attributes:
      name: the registered name; with `@FRAMESxHEIGHTxWIDTH` where clips of several sizes serve it.
      entry: the registered task.
      sizes: of its clips.
      records: split -> positions of the records that serve it, sorted.
    """

    name: str
    entry: registry.TaskEntry
    sizes: SequenceSizes
    records: Mapping[str, np.ndarray]

    @property
    def task(self) -> Task:
        """What is given and asked for."""
        return self.entry.task

    def records_of(self, split: str) -> np.ndarray:
        """Positions of the records of a split; ValueError if there is no such split."""
        if split not in self.records:
            raise ValueError(
                f"There is no split {split!r}, only {sorted(self.records)}. Choose one of them, or"
                " prepare the split."
            )
        return self.records[split]

    @functools.cached_property
    def plan(self) -> SequencePlan:
        """Of the task at the size."""
        return self.sizes.plan(self.task)


SizedTasks = Sequence[tuple[SizedTask, float]]


def size_task(entry: registry.TaskEntry, dataset, sizes: SequenceSizes) -> list[SizedTask]:
    """The task once for every size of clip that the dataset holds for it.

    A task of single frames takes stills and first frames of equal height and width together, at
    the run's own length of clip, since an image is the head of a video.

    Raises ValueError if the task cannot be laid out at a size it would have.
    """
    served, grids = {}, {}
    for split in dataset.splits:
        served[split] = dataset.having(split, entry.needs)
        grids[split] = dataset.grids(split)[served[split]]
    takes_clips = "video" in entry.needs
    if not takes_clips:
        for split in grids:
            grids[split] = grids[split] * np.array([0, 1, 1], np.int32)
    kinds = np.unique(np.concatenate(list(grids.values())), axis=0)
    found = []
    for kind in kinds:
        grid = tuple(int(n) for n in kind)
        if not takes_clips:
            is_own = grid[1:] == sizes.clip.grid[1:]
            grid = sizes.clip.grid if is_own else (1, *grid[1:])
        clip = sizes.at(grid).clip
        suffix = f"@{clip.num_frames}x{clip.height_px}x{clip.width_px}" if len(kinds) > 1 else ""
        sized = SizedTask(
            name=entry.name + suffix,
            entry=entry,
            sizes=sizes.at(grid),
            records={split: served[split][(grids[split] == kind).all(axis=1)] for split in served},
        )
        _ = sized.plan
        found.append(sized)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Shares of image and video steps: `early_image_share` first, `late_image_share` after.

    The paper trains 90 % on images during the first quarter of the steps, then 10 %.
    """

    num_steps: int
    switch_at: float = 0.25
    early_image_share: float = 0.9
    late_image_share: float = 0.1

    def __post_init__(self):
        for name in ("switch_at", "early_image_share", "late_image_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"Curriculum.{name} must be a share from 0 to 1, got {getattr(self, name)}."
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgdConfig:
    """How batches are drawn.

    Attributes:
      batch_tokens: tokens of a step over all hosts; each group's batch size comes near it.
      seed: of tasks, order and text dropout.
      split: of the dataset.
      data_parallel_size: batch sizes are multiples of this.
      process_index: this host; it gets its rows of each global batch.
      process_count: hosts; divides data_parallel_size.
      text_dropout: share of the examples of a text task that lose their text.
      curriculum: schedule over image and video tasks; None keeps the weights as they are.
      on_bad_record: "raise", or "skip" to take the next good record of the task's order instead.
      on_unserved_task: "raise" when a task of the mixture finds no records, or does not fit the
        clips; "leave_out" trains the others.
      batch_sizes: rows of groups by name, of a run that goes on: where other devices would round
        its batches to other multiples, the order of its data would change. Others follow from
        batch_tokens.
    """

    batch_tokens: int
    seed: int = 0
    split: str = "train"
    data_parallel_size: int = 1
    process_index: int = 0
    process_count: int = 1
    text_dropout: float = 0.1
    curriculum: Curriculum | None = None
    on_bad_record: str = "raise"
    on_unserved_task: str = "leave_out"
    batch_sizes: Mapping[str, int] | None = None

    def __post_init__(self):
        for name, choices in (
            ("on_bad_record", ("raise", "skip")),
            ("on_unserved_task", ("raise", "leave_out")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {list(choices)}, got {getattr(self, name)!r}."
                )
        if self.batch_tokens < 1 or self.data_parallel_size < 1:
            raise ValueError(
                f"batch_tokens={self.batch_tokens} and data_parallel_size="
                f"{self.data_parallel_size} must be at least 1."
            )
        if not 0 <= self.text_dropout <= 1:
            raise ValueError(
                f"text_dropout must be a share from 0 to 1, got {self.text_dropout}."
                " The paper's classifier-free guidance uses 0.1."
            )
        if (
            not 0 <= self.process_index < self.process_count
            or self.data_parallel_size % self.process_count
        ):
            raise ValueError(
                f"Process {self.process_index} of {self.process_count} cannot get equal rows of"
                f" batches that are multiples of {self.data_parallel_size}. Choose a"
                " data_parallel_size that the number of processes divides."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Tasks with one plan, one batch size and one compiled step."""

    name: str
    plan: SequencePlan
    batch_size: int
    task_names: tuple[str, ...]

    @property
    def tokens_per_step(self) -> int:
        """Tokens of the global batch, prefix included."""
        return self.batch_size * self.plan.length


def group_batch_size(batch_tokens: int, length: int, data_parallel_size: int) -> int:
    """The multiple of data_parallel_size, at least one, whose tokens come nearest batch_tokens."""
    multiples = round(batch_tokens / (length * data_parallel_size))
    return max(1, multiples) * data_parallel_size


def make_groups(tasks: SizedTasks, config: AgdConfig) -> tuple[dict[str, Group], dict[str, str]]:
    """Groups by name, most frequent first, and the group of each task."""
    members: dict[tuple[Task, ClipShape], list[tuple[SizedTask, float]]] = {}
    for sized, share in tasks:
        # A plan depends on the size and on everything in a task but its name.
        key = (dataclasses.replace(sized.task, name=""), sized.sizes.clip)
        members.setdefault(key, []).append((sized, share))
    groups, group_of = {}, {}
    by_share = sorted(members.values(), key=lambda group: -sum(share for _, share in group))
    for group in by_share:
        first = group[0][0]
        groups[first.name] = Group(
            name=first.name,
            plan=first.plan,
            batch_size=_batch_size(first.name, first.plan.length, config),
            task_names=tuple(sized.name for sized, _ in group),
        )
        group_of.update({sized.name: first.name for sized, _ in group})
    return groups, group_of


def _batch_size(name: str, length: int, config: AgdConfig) -> int:
    ways = config.data_parallel_size
    size = (config.batch_sizes or {}).get(name)
    if size is None:
        return group_batch_size(config.batch_tokens, length, ways)
    if size % ways:
        raise ValueError(
            f"The run that goes on has batches of {size} rows ({name}), which do not divide into"
            f" {ways} parts (replica x fsdp x num_micro_batches); choose a mesh and micro-batches"
            f" whose product divides {size}, or another MODEL_DIR to start anew."
        )
    return size


def phase_shares(tasks: SharedTasks | SizedTasks, curriculum: Curriculum | None) -> np.ndarray:
    """Float64 [phases, tasks]: share of the steps; two phases with a curriculum, else one."""
    shares = np.array([share for _, share in tasks], np.float64)
    is_image = np.array([is_image_task(entry.task) for entry, _ in tasks])
    if curriculum is None:
        return shares[None] / shares.sum()
    rows = []
    for image_share in (curriculum.early_image_share, curriculum.late_image_share):
        row = shares / shares.sum()
        # With only one of the two kinds there is nothing to schedule.
        if is_image.any() and not is_image.all():
            row = np.where(
                is_image,
                image_share * shares / shares[is_image].sum(),
                (1 - image_share) * shares / shares[~is_image].sum(),
            )
        rows.append(row)
    return np.stack(rows)
