"""What the measures of finished steps lead to: rows, warnings, and the end of a run gone wrong."""

import collections
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from poet.train import bad_batch, skips
from poet.train.checkpoint import Checkpoints
from poet.train.pace import Pace
from poet.train.prefetch import Prefetch
from poet.train.progress import Progress
from poet.train.state import TrainState
from poet.train.step import WATCHED
from poet.train.stragglers import KIND as HOSTS
from poet.train.stragglers import Stragglers

# Losses are looked at this many steps late, so that the host never waits for the device.
_LAG_STEPS = 4

# Batches kept of steps whose update was left out: the first ones say enough.
_MAX_BATCHES = 20


class NonFiniteLossError(ValueError):
    """The loss or the parameters are not finite any more; says where and what to do."""


@dataclasses.dataclass(kw_only=True)
class LateMeasures:
    """Reads measures a few steps late: rows for the writer, and the alarm for a bad loss.

    Attributes:
      program: A `loop.Program`.
      config: A `loop.LoopConfig`.
      first_step: Steps done when the run began.
      pace: Rates of the rows.
      writer: Of the rows.
      progress: Told of losses and warnings.
      checkpoints: For the words of an error.
      batches: How long the run waited for data.
      hosts: How long each host takes.
    """

    program: Any
    config: Any
    first_step: int
    pace: Pace
    writer: Any
    progress: Progress
    checkpoints: Checkpoints
    batches: Prefetch
    hosts: Stragglers

    def __post_init__(self):
        config = self.config
        self._skips = skips.Skips(
            config.model_dir, config.max_skips, config.skip_window, self.first_step
        )
        self._said: set[str] = set()
        self._waiting: collections.deque[tuple[int, str, Any]] = collections.deque()
        self._window: Any = collections.defaultdict(list)

    def compare_hosts(self, step: int) -> None:
        """Writes how long each host takes, and names the slow ones."""
        row, slow = self.hosts.compare()
        self.writer.write(step, HOSTS, row)
        for host in slow:
            self.progress.say(f"WARNING at step {step:,}: {host.in_words()}")

    def add(self, step: int, group: str, measures: dict[str, Any]) -> None:
        """Measures of one more step, still on the device."""
        self._waiting.append((step, group, measures))
        while len(self._waiting) > _LAG_STEPS:
            self._read_oldest()

    def drain(self) -> None:
        """Reads all that are left."""
        while self._waiting:
            self._read_oldest()

    def check_state(self, state: TrainState, step: int) -> None:
        """Nothing that is not finite is ever saved, even where the loss does not show it yet."""
        if not bool(_is_finite((state.params, state.opt_state, state.extra))):
            raise NonFiniteLossError(
                f"The parameters are not finite after step {step}, though the loss still was."
                f" {self._way_out()}"
            )

    def _read_oldest(self) -> None:
        step, group, measures = self._waiting.popleft()
        self.pace.add(group)
        with self.hosts.waiting():
            measures = jax.device_get(measures)
        values = {name: float(value) for name, value in measures.items()}
        was_skipped = values.pop("skipped", 0.0)
        wrong = [name for name in WATCHED if not math.isfinite(values.get(name, 0.0))]
        if wrong:
            self._look_at(step, group, wrong[0], values[wrong[0]], bool(was_skipped))
        else:
            self._add_to_window(step, group, values)
        if step % self.config.log_period == 0 or step == self.config.num_steps:
            self._write_window(step)

    def _look_at(self, step: int, group: str, name: str, value: float, was_skipped: bool) -> None:
        """Raises, unless the update was left out and may be."""
        number = self._skips.add(step) if was_skipped else 0
        kept = "was not kept, there are enough"
        if number <= _MAX_BATCHES:
            # Batches are functions of the step: this is the one that the device had.
            batch = self.program.batch_at(step - 1)[1]
            kept = f"is in {bad_batch.save(self.config.model_dir, step, group, batch)}"
        said = f"{name} is {value} at step {step} (group {group})"
        if not was_skipped:
            raise NonFiniteLossError(
                f"{said}; steps up to {step - 1} were finite. Its batch {kept}. {self._way_out()}"
            )
        self.writer.write(step, skips.KIND, {"group": group, "measure": name, "was": str(value)})
        if self._skips.are_too_many:
            self.writer.flush()
            raise NonFiniteLossError(
                f"{said}; with it the updates of {self._skips.in_words} were left out, more than"
                f" max_skips={self.config.max_skips}. Its batch {kept}. {self._way_out()}"
            )
        self.progress.say(
            f"WARNING: {said}; its update was left out, {self._skips.in_words}. Its batch {kept}."
        )

    def _add_to_window(self, step: int, group: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._window[name].append(value)
        loss = values.get("loss_nats", values.get("loss"))
        task = self.program.task_at(step - 1) if self.program.task_at else group
        self._window[f"loss/{task}"].append(loss)
        words = [] if loss is None else [f"loss {loss:.4f}"]
        if self.program.note is not None:
            words.append(self.program.note(values))
        self.progress.update(step, ", ".join(words))

    def _write_window(self, step: int) -> None:
        # A measure that a group does not have is averaged over the steps that have it; a NaN of a
        # step where it is undefined is left out.
        row = {}
        for name, values in self._window.items():
            known = [value for value in values if value is not None and math.isfinite(value)]
            if known:
                row[name] = sum(known) / len(known)
        if self.config.max_skips:
            row["num_skipped"] = self._skips.number
        if self.program.rate:
            row["learning_rate"] = self.program.rate(step - 1)
        row |= self.pace.row(step, self.batches.waited_s)
        self._window.clear()
        self.writer.write(step, "train", row)
        alarms = self.program.alarms(step, row) if self.program.alarms else {}
        for name, sentence in alarms.items():
            if name not in self._said:
                self._said.add(name)
                self.progress.say(f"WARNING at step {step:,}: {sentence}")

    def _way_out(self) -> str:
        self.checkpoints.wait()
        good = self.checkpoints.latest_step()
        kept = "There is no checkpoint yet"
        if good is not None:
            kept = f"The last good checkpoint is step {good} in {self.checkpoints.folder}"
        return f"{kept}; lower the learning rate or the clip_norm and start again."


@jax.jit
def _is_finite(tree: Any) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    checks = [jnp.isfinite(x).all() for x in leaves]
    return jnp.stack(checks).all() if checks else jnp.asarray(True)
