"""Batches made and placed in a background thread, in order, a few steps ahead."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_AHEAD = 3


class Prefetch:
    """Iterates over (step, group, batch on the devices) for steps [start, stop).

    Use it in a `with`.

    An exception of the thread is raised where the batch would have come. `waited_s` counts the
    seconds that the iterating thread stood still for a batch.
    """

    waited_s = 0.0

    def __init__(self, batch_at: Callable, place: Callable, start: int, stop: int):
        self._batch_at, self._place = batch_at, place
        self._steps = range(start, stop)
        self._queue: queue.Queue = queue.Queue(_AHEAD)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._is_closed.set()
        self._thread.join(timeout=10)

    def __iter__(self) -> Iterator[tuple[int, str, Any]]:
        for _ in self._steps:
            before = time.monotonic()
            item = self._queue.get()
            self.waited_s += time.monotonic() - before
            if isinstance(item, BaseException):
                raise item
            yield item

    def _work(self) -> None:
        try:
            for step in self._steps:
                group, batch = self._batch_at(step)
                if not self._put((step, group, self._place(batch))):
                    return
        except BaseException as error:  # Handed to the loop, which raises it.
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._is_closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
