"""What the benchmarks share: seconds of a call, and the most memory it took."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def seconds_of(run: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Of several calls, after one that compiles."""
    run()
    return float(np.median([seconds_of(run) for _ in range(repeats)]))


def peak_memory_bytes() -> int:
    """Of the device where it says so, else of this process."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
