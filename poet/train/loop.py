"""The training loop: every effect of a run, and none of its mathematics.

The language model and both tokenizers are trained by `run`. What differs between them is a
`Program`: how a state begins, what the batch of a step is, and the compiled step.

A run is a function of its settings: batches and keys are computed from (seed, step), so a run that
was killed anywhere and started again ends with the parameters of an undisturbed one.
"""

import contextlib
import dataclasses
import math
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from poet.train import agreement, full_disk, looking
from poet.train.checkpoint import Checkpoints
from poet.train.goodput import Goodput
from poet.train.late_measures import LateMeasures
from poet.train.metrics import MetricsWriter, NoMetrics
from poet.train.pace import Pace, Work
from poet.train.prefetch import Prefetch
from poet.train.profiling import Profiler
from poet.train.progress import Progress
from poet.train.state import TrainState
from poet.train.step import StepFn
from poet.train.stragglers import Stragglers
from poet.train.watchdog import Watchdog


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
      sample: As `evaluate`, for what the model makes at `LoopConfig.sample_period`; it may write
        files of its own.
      place: batch -> batch on the devices. The default puts it on the default device.
      state_shapes: State of ShapeDtypeStructs with shardings, to restore into. None: a fresh state
        is made and serves as the pattern, which costs its memory for a moment.
      warm_up: Called once before the first step, for example to compile in the background.
      clean_up: Called when the run ends, however it ends.
      describe: Rows (what, value) printed when the run starts.
      task_at: step -> the name under which its loss is reported; None takes the group's.
      work: Tokens and model FLOPs of the steps, for rates and MFU.
      rate: step -> learning rate of that step, reported beside its loss.
      note: Measures of a step -> words for the progress line after the loss.
      alarms: (step, means of a row of measures) -> {name: sentence} of what goes wrong. A sentence
        is printed once a run.
    """

    name: str
    init: Callable[[Any], TrainState]
    batch_at: Callable[[int], tuple[str, dict[str, np.ndarray]]]
    step_for: Callable[[str], StepFn]
    evaluate: Callable[[TrainState, int], Mapping[str, Any] | None] | None = None
    sample: Callable[[TrainState, int], Mapping[str, Any] | None] | None = None
    place: Callable[[dict[str, Any]], dict[str, Any]] = jax.device_put
    state_shapes: TrainState | None = None
    warm_up: Callable[[], None] | None = None
    clean_up: Callable[[], None] | None = None
    describe: tuple[tuple[str, str], ...] = ()
    task_at: Callable[[int], str] | None = None
    work: Work | None = None
    rate: Callable[[int], float] | None = None
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
      num_kept: Newest checkpoints kept.
      best_of: Name of a loss that `evaluate` gives, such as "loss_nats/validation": the checkpoint
        that has its least value is kept as well, and an evaluation that finds a lesser one saves.
        "" keeps the newest ones only.
      sample_period: Steps between looks at what the model makes (`Program.sample`), and at the
        last one; 0 never looks.
      profile_first: Steps done before the trace of `poet.train.profiling`.
      profile_steps: Of that trace; 0 for none. A file MODEL_DIR/profile asks for one at any time.
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
    best_of: str = ""
    sample_period: int = 0
    profile_first: int = 10
    profile_steps: int = 0
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
        for name in (
            "eval_period",
            "check_period",
            "sample_period",
            "profile_first",
            "profile_steps",
            "straggler_period",
            "max_skips",
        ):
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
        if self.best_of and not (self.eval_period and self.best_of.startswith("loss")):
            raise ValueError(
                f"best_of={self.best_of!r} needs an eval_period above 0 and the name of a loss, the"
                " least of which is best; such as 'loss_nats/validation'."
            )
        if not self.model_dir:
            raise ValueError("model_dir is empty; name the folder for checkpoints and metrics.")


class Stopped(SystemExit):
    """SIGTERM came and the state is saved. Exit code 0: start again to continue."""

    def __init__(self, step: int):
        super().__init__(0)
        self.step = step


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
      FullDiskError: naming the folder and the last whole checkpoint.
      Stopped: after SIGTERM, once the state is saved.
    """
    key, goodput = jax.random.key(config.seed), Goodput()
    with full_disk.told(config.model_dir), contextlib.ExitStack() as stack:
        watchdog = stack.enter_context(Watchdog(config.stall_minutes))
        checkpoints = stack.enter_context(
            Checkpoints(config.model_dir, config.num_kept, bool(config.best_of))
        )
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
        _introduce(program, progress, step)
        if program.clean_up:
            stack.callback(program.clean_up)
        if program.warm_up:
            program.warm_up()
        is_stopping = stack.enter_context(_sigterm())
        batches = stack.enter_context(
            Prefetch(program.batch_at, program.place, step, config.num_steps)
        )
        hosts = Stragglers(config.straggler_period, config.straggler_factor)
        profiler = None
        if is_first:
            first, number = config.profile_first, config.profile_steps
            profiler = Profiler(config.model_dir, first, number, progress.say, goodput)
            stack.enter_context(profiler)
        watch = LateMeasures(
            program=program,
            config=config,
            first_step=step,
            pace=Pace(program.work, goodput),
            writer=writer,
            progress=progress,
            checkpoints=checkpoints,
            batches=batches,
            hosts=hosts,
        )
        running = _Running(
            program=program,
            config=config,
            meta=meta or (lambda step: {}),
            is_stopping=is_stopping,
            goodput=goodput,
            watchdog=watchdog,
            profiler=profiler,
            watch=watch,
        )
        return running.train(state, key)


def _introduce(program: Program, progress: Progress, step: int) -> None:
    for what, value in program.describe:
        progress.say(f"  {what}: {value}")
    if step:
        progress.say(f"  continuing from the checkpoint of step {step:,}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Running:
    """What is open while a run trains, and what is done around each step."""

    program: Program
    config: LoopConfig
    meta: Callable[[int], Mapping[str, Any]]
    is_stopping: Callable[[], bool]
    goodput: Goodput
    watchdog: Watchdog
    profiler: Profiler | None
    watch: LateMeasures

    def train(self, state: TrainState, key: Any) -> TrainState:
        steps: dict[str, StepFn] = {}
        config, watch, hosts = self.config, self.watch, self.watch.hosts
        for step, group, batch in watch.batches:
            if self.profiler:
                self.profiler.before(step, state)
            with contextlib.nullcontext() if group in steps else self.goodput.counting("compile"):
                if group not in steps:
                    hosts.leave_out()
                    steps[group] = self.program.step_for(group)
                state, measures = steps[group](state, batch, key)
            done = step + 1
            if self.profiler:
                self.profiler.after(done, state)
            watch.add(done, group, measures)
            self.watchdog.alive()
            if config.check_period and done % config.check_period == 0:
                hosts.leave_out()
                agreement.check_replicas(state.params)
            if hosts.is_due(done):
                watch.drain()
                watch.compare_hosts(done)
            must_stop = self.is_stopping() or watch.checkpoints.reached_preemption(done)
            loss = math.inf
            if not must_stop:  # Who is told to stop has little time.
                loss = self._evaluated(state, done)
                self._sample(state, done)
            is_due = done == config.num_steps or done % config.save_period == 0
            is_best = loss < math.inf and loss < watch.checkpoints.best_loss()
            if is_due or must_stop or is_best:
                self._save(state, done, loss)
            if must_stop:
                self._stop(state, done)
            hosts.end_step()
        return state

    def _stop(self, state: TrainState, done: int) -> None:
        """Ends the run once its state is on disk; after the last step it only says what is left."""
        watch = self.watch
        watch.checkpoints.wait()
        if done < self.config.num_steps:
            watch.progress.say(f"Stopped by SIGTERM; step {done:,} is saved. Start again to go on.")
            raise Stopped(done)
        watch.progress.say(
            f"SIGTERM came with the last step, {done:,}; it is saved. Evaluation and samples"
            " follow, as far as there is time."
        )
        self._evaluated(state, done)
        self._sample(state, done)

    def _is_time(self, done: int, period: int) -> bool:
        return done == self.config.num_steps or bool(period and done % period == 0)

    def _evaluated(self, state: TrainState, done: int) -> float:
        """The loss that chooses the best checkpoint; infinite where none was measured."""
        if not self._is_time(done, self.config.eval_period):
            return math.inf
        found = self._look("eval", self.program.evaluate, state, done)
        return looking.loss_of(self.config.best_of, found)

    def _sample(self, state: TrainState, done: int) -> None:
        if self.config.sample_period and self._is_time(done, self.config.sample_period):
            self._look("sample", self.program.sample, state, done)

    def _look(self, kind: str, measure: Any, state: TrainState, done: int) -> dict[str, float]:
        watch = self.watch
        watch.drain()
        watch.hosts.leave_out()
        with self.goodput.counting(kind):
            return looking.look(kind, measure, state, done, watch.writer, watch.progress)

    def _save(self, state: TrainState, done: int, loss: float) -> None:
        watch = self.watch
        watch.drain()
        watch.hosts.leave_out()
        watch.check_state(state, done)
        row = self.goodput.row(watch.batches.waited_s, watch.writer.num_lost_steps)
        watch.writer.write(done, "goodput", row)
        watch.writer.flush()  # First the rows, so that a checkpoint never lacks its own.
        with self.goodput.counting("save"):
            watch.checkpoints.save(state, dict(self.meta(done)), loss)


def _begin(program: Program, checkpoints: Checkpoints, key: Any) -> tuple[TrainState, int]:
    if program.state_shapes is not None:
        state = checkpoints.restore_latest(program.state_shapes)
        state = program.init(key) if state is None else state
    else:
        fresh = program.init(key)
        state = checkpoints.restore_latest(fresh)
        state = fresh if state is None else state
    return state, int(state.step)


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
