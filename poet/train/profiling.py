"""Traces of a few training steps, at a step that was set or when somebody asks for one.

    touch MODEL_DIR/profile          the next steps of a run that is going on
    echo 20 > MODEL_DIR/profile      so many of them

A trace lies in MODEL_DIR/profile_STEP, STEP being the number of steps done before it, and opens in
TensorBoard's profile plug-in, XProf or Perfetto; `tools/trace_summary.py` sums it up.
"""

import contextlib
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from poet.train.goodput import Goodput

REQUEST = "profile"
# Looking for a file costs microseconds on a disk, and a request to an object store.
_LOOK_S, _LOOK_REMOTE_S = 1.0, 30.0


class Profiler:
    """Writes traces of the process it runs in. Use it in a `with`.

    Nothing of a step changes while it is traced; the host waits for the devices before and after.

    Args:
      model_dir: MODEL_DIR of the run.
      first_step: Steps done before the trace that was set.
      num_steps: Of that trace, and of those asked for without a number; 0 sets none, and asks for
        five.
      say: Told where a trace lies.
      goodput: Counts the seconds of starting and writing.
    """

    def __init__(
        self,
        model_dir: epath.PathLike,
        first_step: int,
        num_steps: int,
        say: Callable[[str], None],
        goodput: Goodput,
    ):
        self._folder, self._say, self._goodput = epath.Path(model_dir), say, goodput
        self._set_at = first_step if num_steps else None
        self._num_steps = num_steps or 5
        self._is_remote = "://" in str(model_dir)
        self._look_at = -float("inf")
        self._annotation: Any = None
        # (number of steps done before, number of steps done at the end) of the trace going on.
        self._traced: tuple[int, int] | None = None

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._traced is not None:  # The run ends first: what there is, is written.
            self._stop()

    def before(self, step: int, state: Any) -> None:
        """Called before the step that follows `step` steps; starts a trace if one is due."""
        if self._traced is None:
            num_steps = self._num_steps if step == self._set_at else self._asked_for()
            if num_steps:
                jax.block_until_ready(state)
                self._start(step, num_steps)
        if self._traced is not None:
            self._annotation = jax.profiler.StepTraceAnnotation("train", step_num=step)
            self._annotation.__enter__()

    def after(self, done: int, state: Any) -> None:
        """Called when a step is on its way; ends a trace that has all of its steps."""
        if self._annotation is not None:
            self._annotation.__exit__(None, None, None)
            self._annotation = None
        if self._traced is not None and done >= self._traced[1]:
            jax.block_until_ready(state)
            self._stop()

    def _asked_for(self) -> int:
        """Number of steps that somebody asks for now, 0 mostly."""
        now = time.monotonic()
        if now - self._look_at < (_LOOK_REMOTE_S if self._is_remote else _LOOK_S):
            return 0
        self._look_at = now
        request = self._folder / REQUEST
        if not request.is_file():
            return 0
        words = request.read_text().strip()
        request.unlink()
        if words and not (words.isdigit() and 0 < int(words) <= 1000):
            self._say(
                f"WARNING: {request} asks for {words[:40]!r} steps; a number from 1 to 1000, or"
                f" nothing, was expected. {self._num_steps} are traced."
            )
            words = ""
        return int(words or self._num_steps)

    def _start(self, step: int, num_steps: int) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # Every Python call would hide what the devices do.
        with self._goodput.counting("profile"):
            try:
                jax.profiler.start_trace(str(self._partial(step)), profiler_options=options)
            except RuntimeError as error:
                self._say(f"WARNING: no trace of step {step:,}: {error}")
                return
        self._traced = (step, step + num_steps)

    def _stop(self) -> None:
        step, _ = self._traced
        self._traced = None
        with self._goodput.counting("profile"):
            jax.profiler.stop_trace()
            final = self._folder / f"{REQUEST}_{step}"
            if not self._is_remote:
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(final)
                self._partial(step).rename(final)
        self._say(f"  the trace of the steps after step {step:,} is in {final}")

    def _partial(self, step: int) -> epath.Path | pathlib.Path:
        """Where a trace is written; object stores have no folders to rename."""
        name = f"{REQUEST}_{step}"
        return self._folder / (name if self._is_remote else f".{name}.partial")
