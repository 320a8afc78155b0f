"""Which host is slower than the others, by its own time a step and by a fixed product.

All hosts wait for each other in every step, so their steps take equally long, whoever is slow. What
differs is how long a host works by itself before it waits (its batch, its Python), and how long its
devices take for work that needs no other device.
"""

import contextlib
import dataclasses
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

KIND = "hosts"

# A host's own time is hidden behind the devices' as long as it is shorter: only one that is more
# than this share of a step makes the others wait.
_MIN_SHARE_OF_STEP = 0.5
_NAME_BYTES = 64
# Side and type of the square product that devices are timed with, and how often; the fastest time
# counts. On accelerators a fraction of a millisecond each, and bound by arithmetic.
_CPU_PRODUCT, _PRODUCT = (128, jnp.float32), (4096, jnp.bfloat16)
_NUM_PRODUCTS, _NUM_TRIES = 8, 5


@dataclasses.dataclass(frozen=True)
class Slow:
    """A host that takes longer than the others.

    Attributes:
      process: Its number in the job.
      host: Its name in the network.
      what: What it is slow at, in words.
      seconds: What it takes.
      others_s: Median of the other hosts.
    """

    process: int
    host: str
    what: str
    seconds: float
    others_s: float

    def in_words(self) -> str:
        """One sentence for the log."""
        return (
            f"process {self.process} on {self.host} is slow: {_milliseconds(self.seconds)}"
            f" {self.what}, the median of the others is {_milliseconds(self.others_s)}."
        )


class Stragglers:
    """Times the steps of this process and compares them with those of all others, rarely.

    Args:
      period: Steps between comparisons; 0 never compares. A comparison waits for the devices, times
        a few products on each (milliseconds) and gathers some numbers.
      factor: How many times the others' median a host may take.
    """

    def __init__(self, period: int, factor: float):
        self._period, self._factor = period, factor
        self._steps: list[tuple[float, float]] = []
        self._begin()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For what waits for the devices, and so for the slowest host: not this one's own time."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._waited_s += time.monotonic() - start

    def leave_out(self) -> None:
        """The step that runs now does something else besides: it compiles, saves or evaluates."""
        self._counts = False

    def end_step(self) -> None:
        """A step ends here and the next one begins."""
        if self._period and self._counts:
            whole_s = time.monotonic() - self._start
            self._steps.append((whole_s, whole_s - self._waited_s))
        self._begin()

    def is_due(self, step: int) -> bool:
        """Whether `compare` is to be called after this step, on every process."""
        return bool(self._period) and jax.process_count() > 1 and step % self._period == 0

    def compare(self) -> tuple[dict[str, Any], list[Slow]]:
        """A row of metrics and the slow hosts, the same on every process; begins to count anew."""
        whole_s, own_s = (
            (statistics.median(column) for column in zip(*self._steps, strict=True))
            if self._steps
            else (0.0, 0.0)
        )
        self._steps = []
        hosts, table = gather(socket.gethostname(), [whole_s, own_s, product_s()])
        self.leave_out()
        return row_of(hosts, table, self._factor)

    def _begin(self) -> None:
        self._start, self._waited_s, self._counts = time.monotonic(), 0.0, True


def row_of(
    hosts: Sequence[str], table: np.ndarray, factor: float
) -> tuple[dict[str, Any], list[Slow]]:
    """What a table of times says.

    Args:
      hosts: Name of each process's host.
      table: Of each process the medians in seconds of a whole step and of its own part of it, and
        the seconds of a product on its slowest device: [processes, 3].
      factor: See `Stragglers`.
    """
    step_s = float(np.median(table[:, 0]))
    slow, row = [], {"step_s": step_s}
    columns = (
        ("host_s", 1, "a step for its own part (batch and Python)", _MIN_SHARE_OF_STEP * step_s),
        ("device_s", 2, "for a fixed product on its slowest device", 0.0),
    )
    for name, column, what, least_s in columns:
        seconds = table[:, column]
        worst = int(seconds.argmax())
        row |= {f"{name}_median": float(np.median(seconds)), f"{name}_max": float(seconds[worst])}
        row |= {f"{name}_max_process": worst, f"{name}_max_host": hosts[worst]}
        for process, taken in enumerate(seconds):
            others_s = float(np.median(np.delete(seconds, process)))
            if taken > factor * others_s and taken > least_s:
                slow.append(Slow(process, hosts[process], what, float(taken), others_s))
    return row | {"num_slow": len({one.process for one in slow})}, slow


def gather(host: str, seconds: Sequence[float]) -> tuple[list[str], np.ndarray]:
    """The names and numbers of all processes, in their order; all of them have to call it."""
    from jax.experimental import multihost_utils

    name = np.zeros(_NAME_BYTES, np.uint8)
    encoded = host.encode()[:_NAME_BYTES]
    name[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    names, table = multihost_utils.process_allgather((name, np.asarray(seconds, np.float32)))
    words = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in np.asarray(names)]
    return words, np.asarray(table)


def product_s() -> float:
    """Seconds of a fixed chain of products on the slowest local device, the best of some tries."""
    slowest_s = 0.0
    for device in jax.local_devices():
        side, dtype = _CPU_PRODUCT if device.platform == "cpu" else _PRODUCT
        with jax.default_device(device):
            square = jnp.full((side, side), 1 / side, dtype)
        _products(square).block_until_ready()
        tries = []
        for _ in range(_NUM_TRIES):
            start = time.monotonic()
            _products(square).block_until_ready()
            tries.append(time.monotonic() - start)
        slowest_s = max(slowest_s, min(tries))
    return slowest_s


@jax.jit
def _products(square: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, _NUM_PRODUCTS, lambda _, product: product @ square, square)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
