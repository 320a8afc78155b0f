"""Where a run's time goes that is not spent on steps."""

import collections
import contextlib
import time
from collections.abc import Iterator


class Goodput:
    """Seconds of this process by what they went to; the rest of them made steps.

    The parts: "restore" (making or restoring the state), "compile" (waiting for programs), "save",
    "eval", "sample", "profile" where there was one, and "data_wait", which the caller knows.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._seconds: dict[str, float] = collections.defaultdict(float)

    @contextlib.contextmanager
    def counting(self, part: str) -> Iterator[None]:
        """Adds the seconds of the `with` block to a part."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[part] += time.monotonic() - start

    @property
    def paused_s(self) -> float:
        """Seconds of all parts so far, waiting for data aside."""
        return sum(self._seconds.values())

    def row(self, data_wait_s: float, num_lost_steps: int) -> dict[str, float]:
        """Seconds by part, of all, and the share that made steps.

        Args:
          data_wait_s: Seconds that steps waited for their batches.
          num_lost_steps: Steps that an earlier process made after the checkpoint that this one
            began with: they are made a second time.
        """
        total = time.monotonic() - self._start
        parts = dict.fromkeys(("restore", "compile", "save", "eval", "sample"), 0.0) | self._seconds
        parts["data_wait"] = data_wait_s
        found = {f"{name}_s": seconds for name, seconds in parts.items()}
        share = max(0.0, 1.0 - sum(parts.values()) / max(total, 1e-9))
        return found | {"total_s": total, "goodput": share, "num_lost_steps": num_lost_steps}
