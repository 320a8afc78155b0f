"""Ends a process that makes no steps any more, with the stacks of all its threads."""

import faulthandler
import sys
import time
from typing import Any, TextIO

# Arming starts a thread; steps of a small model come a hundred times a second.
_REARM_S = 1.0


class Watchdog:
    """Exit code 1 and all stacks on stderr once nobody has called `alive` for some minutes.

    Use it in a `with`. A host that hangs in a collective makes all others hang in theirs, and a
    Python handler would never run there: a thread outside of Python writes the stacks, on every
    host its own, and the job's scheduler sees the exit code and starts the job again.

    Args:
      minutes: Of patience; 0 never ends anything. Compiling and saving count: give more than the
        longest of them takes.
      stream: Where the stacks go; it needs a file descriptor.
    """

    def __init__(self, minutes: float, stream: TextIO | None = None):
        if not 0 <= minutes < 1e6:  # written so that NaN fails as well
            raise ValueError(
                f"stall_minutes={minutes} must be 0 (never) or more; 30 is more than any compile."
            )
        self._seconds = 60.0 * minutes
        self._stream = stream or sys.__stderr__
        self._armed_at = -float("inf")

    def __enter__(self) -> "Watchdog":
        self.alive()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()

    def alive(self) -> None:
        """Says that something was done."""
        now = time.monotonic()
        if self._seconds and now - self._armed_at >= min(_REARM_S, self._seconds / 4):
            self._armed_at = now
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._stream)
