"""The training loop: every effect of a run, and none of its mathematics.

The language model and both tokenizers are trained by `run`. What differs between them is a
`Program`: how a state begins, what the batch of a step is, and the compiled step.

A run is a function of its settings: batches and keys are computed from (seed, step), so a run that
was killed anywhere and started again ends with the parameters of an undisturbed one.
"""

import collections
import contextlib
import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from poet.train import agreement, bad_batch, skips
from poet.train.checkpoint import Checkpoints
from poet.train.goodput import Goodput
from poet.train.metrics import MetricsWriter, NoMetrics
from poet.train.prefetch import Prefetch
from poet.train.progress import Progress
from poet.train.state import TrainState
from poet.train.step import WATCHED, StepFn
from poet.train.stragglers import KIND as HOSTS
from poet.train.stragglers import Stragglers
from poet.train.watchdog import Watchdog

# Losses are looked at this many steps late, so that the host never waits for the device.
_LAG_STEPS = 4

# Batches kept of steps whose update was left out: the first ones say enough.
_MAX_BATCHES = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What is trained. All functions are deterministic in their arguments.

    Attributes:
      name: A word for the progress line, such as "train".
      init: key -> TrainState before step 0.
      batch_at: step -> (group, batch of numpy arrays). Called in a background thread.
      step_for: group -> compiled (state, batch, key) -> (state, measures). Called once a group; the
        state is donated; it folds `state.step` into the key itself. Measures are scalars; one is
        called "loss_nats" or "loss".
      evaluate: (state, step) -> {name: number}, or None. Must not donate the state. A value may
        also be a picture, uint8 [rows, columns, 3], or a clip of them: those go to TensorBoard.
      place: batch -> batch on the devices. The default puts it on the default device.
      state_shapes: State of ShapeDtypeStructs with shardings, to restore into. None: a fresh state
        is made and serves as the pattern, which costs its memory for a moment.
      warm_up: Called once before the first step, for example to compile in the background.
      clean_up: Called when the run ends, however it ends.
      describe: Rows (what, value) printed when the run starts.
      note: Measures of a step -> words for the progress line after the loss.
      alarms: (step, means of a row of measures) -> {name: sentence} of what goes wrong. A sentence
        is printed once a run.
    """

    name: str
    init: Callable[[Any], TrainState]
    batch_at: Callable[[int], tuple[str, dict[str, np.ndarray]]]
    step_for: Callable[[str], StepFn]
    evaluate: Callable[[TrainState, int], Mapping[str, Any] | None] | None = None
    place: Callable[[dict[str, Any]], dict[str, Any]] = jax.device_put
    state_shapes: TrainState | None = None
    warm_up: Callable[[], None] | None = None
    clean_up: Callable[[], None] | None = None
    describe: tuple[tuple[str, str], ...] = ()
    note: Callable[[Mapping[str, float]], str] | None = None
    alarms: Callable[[int, Mapping[str, float]], Mapping[str, str]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long to train and when to look up.

    Attributes:
      model_dir: Checkpoints, metrics and the config used; may be remote.
      num_steps: Steps in all, counted from step 0 and not from a restart.
      save_period: Steps between checkpoints; the last step is always saved.
      eval_period: Steps between evaluations; 0 evaluates at the end only.
      log_period: Steps between rows of metrics.
      num_kept: Checkpoints kept.
      seed: Of the one key of the run.
      check_period: Steps between comparisons of the parameters' copies on all devices
        (`poet.train.agreement`); 0 never compares.
      straggler_period: Steps between comparisons of how long all hosts of a job take by themselves
        (`poet.train.stragglers`); 0 never compares.
      straggler_factor: A host that takes so many times what the others take is named.
      max_skips: Steps of any `skip_window` whose update may be left out because loss or gradients
        were not finite; one more stops the run. 0 stops at the first. The program has to leave them
        out (`step.skip_non_finite`); `LMRun` sees to it.
      skip_window: Steps that `max_skips` is about.
      stall_minutes: Without a step for so long the process ends with exit code 1 and the stacks of
        its threads (`poet.train.watchdog`); 0 waits forever.
    """

    model_dir: epath.PathLike
    num_steps: int
    save_period: int = 500
    eval_period: int = 0
    log_period: int = 10
    num_kept: int = 2
    seed: int = 0
    check_period: int = 0
    straggler_period: int = 0
    straggler_factor: float = 1.2
    max_skips: int = 0
    skip_window: int = 1000
    stall_minutes: float = 0.0

    def __post_init__(self):
        for name in ("num_steps", "save_period", "log_period", "num_kept"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("eval_period", "check_period", "straggler_period", "max_skips"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more.")
        if not self.straggler_factor > 1:
            raise ValueError(
                f"straggler_factor={self.straggler_factor} must be above 1; 1.2 names hosts that"
                " take a fifth longer than the others."
            )
        if not self.max_skips < self.skip_window:
            raise ValueError(
                f"max_skips={self.max_skips} must be less than skip_window={self.skip_window};"
                " otherwise no number of skipped steps would stop the run."
            )
        if not self.model_dir:
            raise ValueError("model_dir is empty; name the folder for checkpoints and metrics.")


class Stopped(SystemExit):
    """SIGTERM came and the state is saved. Exit code 0: start again to continue."""

    def __init__(self, step: int):
        super().__init__(0)
        self.step = step


class NonFiniteLossError(ValueError):
    """The loss or the parameters are not finite any more; says where and what to do."""


def run(
    program: Program,
    config: LoopConfig,
    meta: Callable[[int], Mapping[str, Any]] | None = None,
) -> TrainState:
    """Trains to the last step, or from where a killed run left off, and returns the final state.

    Args:
      program: What is trained.
      config: Where to, how long.
      meta: step -> JSON facts saved with that step's checkpoint (config, vocabulary, data
        positions), read back by `checkpoint.read_meta`.

    Raises:
      NonFiniteLossError: naming the step and the last good checkpoint.
      Stopped: after SIGTERM, once the state is saved.
    """
    key, goodput = jax.random.key(config.seed), Goodput()
    with contextlib.ExitStack() as stack:
        watchdog = stack.enter_context(Watchdog(config.stall_minutes))
        checkpoints = stack.enter_context(Checkpoints(config.model_dir, config.num_kept))
        with goodput.counting("restore"):
            state, step = _begin(program, checkpoints, key)
        if step >= config.num_steps:
            return state
        # Of several processes the first one writes and speaks for all.
        is_first = jax.process_index() == 0
        writer = MetricsWriter(config.model_dir, step) if is_first else NoMetrics()
        writer = stack.enter_context(writer)
        stream = None if is_first else stack.enter_context(open(os.devnull, "w"))
        progress = stack.enter_context(
            Progress(program.name, config.num_steps, step, stream=stream)
        )
        for what, value in program.describe:
            progress.say(f"  {what}: {value}")
        if step:
            progress.say(f"  continuing from the checkpoint of step {step:,}")
        if program.clean_up:
            stack.callback(program.clean_up)
        if program.warm_up:
            program.warm_up()
        is_stopping = stack.enter_context(_sigterm())
        batches = stack.enter_context(
            Prefetch(program.batch_at, program.place, step, config.num_steps)
        )
        hosts = Stragglers(config.straggler_period, config.straggler_factor)
        watch = _Watch(program, config, step, writer, progress, checkpoints, batches, hosts)
        steps = {}
        for step, group, batch in batches:
            with contextlib.nullcontext() if group in steps else goodput.counting("compile"):
                if group not in steps:
                    hosts.leave_out()
                    steps[group] = program.step_for(group)
                state, measures = steps[group](state, batch, key)
            done = step + 1
            watch.add(done, group, measures)
            watchdog.alive()
            if config.check_period and done % config.check_period == 0:
                hosts.leave_out()
                agreement.check_replicas(state.params)
            if hosts.is_due(done):
                watch.drain()
                _compare_hosts(hosts, done, writer, progress)
            is_last = done == config.num_steps
            if is_last or (config.eval_period and done % config.eval_period == 0):
                watch.drain()
                hosts.leave_out()
                with goodput.counting("eval"):
                    _evaluate(program, state, done, writer, progress)
            must_stop = is_stopping() or checkpoints.reached_preemption(done)
            if is_last or must_stop or done % config.save_period == 0:
                watch.drain()
                hosts.leave_out()
                watch.check_state(state, done)
                row = goodput.row(batches.waited_s, writer.num_lost_steps)
                writer.write(done, "goodput", row)
                writer.flush()  # First the rows, so that a checkpoint never lacks its own.
                with goodput.counting("save"):
                    checkpoints.save(state, dict(meta(done)) if meta else {})
            if must_stop and not is_last:
                checkpoints.wait()
                progress.say(f"Stopped by SIGTERM; step {done:,} is saved. Start again to go on.")
                raise Stopped(done)
            hosts.end_step()
    return state


def _begin(program: Program, checkpoints: Checkpoints, key: Any) -> tuple[TrainState, int]:
    if program.state_shapes is not None:
        state = checkpoints.restore_latest(program.state_shapes)
        state = program.init(key) if state is None else state
    else:
        fresh = program.init(key)
        state = checkpoints.restore_latest(fresh)
        state = fresh if state is None else state
    return state, int(state.step)


def _evaluate(program, state, step, writer, progress) -> None:
    if program.evaluate is None:
        return
    measures = program.evaluate(state, step)
    if not measures:
        return
    numbers = {name: float(value) for name, value in measures.items() if np.ndim(value) == 0}
    writer.write(step, "eval", numbers)
    writer.write_pictures(
        step, {name: value for name, value in measures.items() if name not in numbers}
    )
    words = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    progress.say(f"  step {step:,} held out: {words}")


def _compare_hosts(hosts: Stragglers, step, writer, progress) -> None:
    row, slow = hosts.compare()
    writer.write(step, HOSTS, row)
    for host in slow:
        progress.say(f"WARNING at step {step:,}: {host.in_words()}")


class _Watch:
    """Reads measures a few steps late: rows for the writer, and the alarm for a bad loss."""

    def __init__(self, program, config, first_step, writer, progress, checkpoints, batches, hosts):
        self._program, self._config, self._writer, self._batches = program, config, writer, batches
        self._progress, self._checkpoints, self._hosts = progress, checkpoints, hosts
        self._skips = skips.Skips(
            config.model_dir, config.max_skips, config.skip_window, first_step
        )
        self._said = set()
        self._waiting = collections.deque()
        self._window = collections.defaultdict(list)
        self._window_start = (time.monotonic(), None, 0.0)

    def add(self, step: int, group: str, measures: dict[str, Any]) -> None:
        self._waiting.append((step, group, measures))
        while len(self._waiting) > _LAG_STEPS:
            self._read_oldest()

    def drain(self) -> None:
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
        with self._hosts.waiting():
            measures = jax.device_get(measures)
        values = {name: float(value) for name, value in measures.items()}
        was_skipped = values.pop("skipped", 0.0)
        wrong = [name for name in WATCHED if not math.isfinite(values.get(name, 0.0))]
        if wrong:
            self._look_at(step, group, wrong[0], values[wrong[0]], bool(was_skipped))
        else:
            self._add_to_window(step, group, values)
        if step % self._config.log_period == 0 or step == self._config.num_steps:
            self._write_window(step)

    def _look_at(self, step: int, group: str, name: str, value: float, was_skipped: bool) -> None:
        """Raises, unless the update was left out and may be."""
        number = self._skips.add(step) if was_skipped else 0
        kept = "was not kept, there are enough"
        if number <= _MAX_BATCHES:
            # Batches are functions of the step: this is the one that the device had.
            batch = self._program.batch_at(step - 1)[1]
            kept = f"is in {bad_batch.save(self._config.model_dir, step, group, batch)}"
        said = f"{name} is {value} at step {step} (group {group})"
        if not was_skipped:
            raise NonFiniteLossError(
                f"{said}; steps up to {step - 1} were finite. Its batch {kept}. {self._way_out()}"
            )
        self._writer.write(step, skips.KIND, {"group": group, "measure": name, "was": str(value)})
        if self._skips.are_too_many:
            self._writer.flush()
            raise NonFiniteLossError(
                f"{said}; with it the updates of {self._skips.in_words} were left out, more than"
                f" max_skips={self._config.max_skips}. Its batch {kept}. {self._way_out()}"
            )
        self._progress.say(
            f"WARNING: {said}; its update was left out, {self._skips.in_words}. Its batch {kept}."
        )

    def _add_to_window(self, step: int, group: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._window[name].append(value)
        loss = values.get("loss_nats", values.get("loss"))
        self._window[f"loss/{group}"].append(loss)
        words = [] if loss is None else [f"loss {loss:.4f}"]
        if self._program.note is not None:
            words.append(self._program.note(values))
        self._progress.update(step, ", ".join(words))

    def _write_window(self, step: int) -> None:
        # A measure that a group does not have is averaged over the steps that have it; a NaN of a
        # step where it is undefined is left out.
        row = {}
        for name, values in self._window.items():
            known = [value for value in values if value is not None and math.isfinite(value)]
            if known:
                row[name] = sum(known) / len(known)
        if self._config.max_skips:
            row["num_skipped"] = self._skips.number
        now, before = time.monotonic(), self._window_start
        if before[1] is not None:
            seconds = max(1e-9, now - before[0])
            row["steps_per_second"] = (step - before[1]) / seconds
            row["data_wait_share"] = (self._batches.waited_s - before[2]) / seconds
        self._window_start = (now, step, self._batches.waited_s)
        self._window.clear()
        self._writer.write(step, "train", row)
        alarms = self._program.alarms(step, row) if self._program.alarms else {}
        for name, sentence in alarms.items():
            if name not in self._said:
                self._said.add(name)
                self._progress.say(f"WARNING at step {step:,}: {sentence}")

    def _way_out(self) -> str:
        self._checkpoints.wait()
        good = self._checkpoints.latest_step()
        kept = "There is no checkpoint yet"
        if good is not None:
            kept = f"The last good checkpoint is step {good} in {self._checkpoints.folder}"
        return f"{kept}; lower the learning rate or the clip_norm and start again."


@jax.jit
def _is_finite(tree: Any) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    checks = [jnp.isfinite(x).all() for x in leaves]
    return jnp.stack(checks).all() if checks else jnp.asarray(True)


@contextlib.contextmanager
def _sigterm():
    """Gives a function that says whether SIGTERM came; the old handler is put back at the end."""
    received = threading.Event()
    if jax.process_count() > 1:
        # jax tells all processes of the signal, so that they save the same step together
        # (`Checkpoints.reached_preemption`); a handler here would take it away from jax.
        yield received.is_set
        return
    if threading.current_thread() is not threading.main_thread():
        yield received.is_set  # Signals reach the main thread only; its owner has to stop us.
        return
    before = signal.signal(signal.SIGTERM, lambda *_: received.set())
    try:
        yield received.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
