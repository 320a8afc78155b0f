"""What the benchmarks share: seconds of a call, the most memory it took, a device's best rate."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
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


def measure_peak_flops(dtype: str = "", size: int = 0) -> float:
    """FLOP/s of a square matrix product; float32 on CPU, bfloat16 elsewhere if none is asked."""
    is_cpu = jax.default_backend() == "cpu"
    size = size or (2048 if is_cpu else 8192)
    left = jnp.ones((size, size), dtype or ("float32" if is_cpu else "bfloat16"))
    product = jax.jit(lambda x: x @ x)
    return 2.0 * size**3 / median_seconds(lambda: product(left).block_until_ready(), 5)


def peak_memory_bytes() -> int:
    """Of the device where it says so, else of this process."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
