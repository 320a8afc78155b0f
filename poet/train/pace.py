"""How fast a run goes: tokens a second, model FLOPs of the peak, waiting for data, memory."""

import dataclasses
import time
from collections.abc import Mapping

import jax
import psutil

from poet.train.goodput import Goodput

_GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What the steps of a run are, over all devices.

    Attributes:
      tokens: Group -> tokens of a step, prefix included.
      flops: Group -> model FLOPs of a step (`poet.models.flops`).
      peak_flops: Of all devices a second; 0 where it is not known, and MFU is left out.
    """

    tokens: Mapping[str, int]
    flops: Mapping[str, float]
    peak_flops: float = 0.0


class Pace:
    """Rates between two rows of metrics, over the seconds in which steps were made.

    Seconds of compiling, saving, evaluating and sampling count in goodput, not here.

    Args:
      work: Of the run's steps; None for programs that do not say.
      goodput: Of the run.
    """

    def __init__(self, work: Work | None, goodput: Goodput):
        self._work, self._goodput = work, goodput
        self._tokens = self._flops = 0.0
        self._before: tuple[float, int, float, float] | None = None

    def add(self, group: str) -> None:
        """Counts a step of a group."""
        if self._work is not None:
            self._tokens += self._work.tokens[group]
            self._flops += self._work.flops[group]

    def row(self, step: int, waited_s: float) -> dict[str, float]:
        """Rates since the row before, nothing the first time, and the memory in use.

        "steps_per_second", "data_wait_share" and, of what was counted, "tokens_per_second",
        "model_tflops_per_second" and "mfu"; "..._gib" of `memory`.

        Args:
          step: Steps done.
          waited_s: Seconds that steps waited for batches, since the start.
        """
        now = (time.monotonic(), step, waited_s, self._goodput.paused_s)
        row = memory()
        if self._before is not None:
            then = self._before
            seconds = max(1e-9, now[0] - then[0] - (now[3] - then[3]))
            row["steps_per_second"] = (step - then[1]) / seconds
            row["data_wait_share"] = (waited_s - then[2]) / seconds
            row |= self._rates(seconds)
        self._before, self._tokens, self._flops = now, 0.0, 0.0
        return row

    def _rates(self, seconds: float) -> dict[str, float]:
        if self._work is None:
            return {}
        rates = {
            "tokens_per_second": self._tokens / seconds,
            "model_tflops_per_second": self._flops / seconds / 1e12,
        }
        if self._work.peak_flops:
            rates["mfu"] = self._flops / seconds / self._work.peak_flops
        return rates


def memory() -> dict[str, float]:
    """GiB in use: "host_memory_gib" of this process, and of its fullest device, if that counts.

    The device's are "device_memory_gib" and "device_memory_peak_gib" (the most since it started);
    processors do not count theirs: it is the host's.
    """
    found = {"host_memory_gib": psutil.Process().memory_info().rss / _GIB}
    counted = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    for name, key in (
        ("device_memory_gib", "bytes_in_use"),
        ("device_memory_peak_gib", "peak_bytes_in_use"),
    ):
        values = [stats[key] for stats in counted if key in stats]
        if values:
            found[name] = max(values) / _GIB
    return found
