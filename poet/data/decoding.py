"""Decoding files ahead of the tokenizers: worker threads, results in order, bounded memory.

Threads serve, since FFmpeg works outside the interpreter's lock.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_CLIPS_AHEAD_OF_EACH = 8
_END = object()


def in_order(
    jobs: Sequence[Callable[[], Iterable[Any]]], num_workers: int
) -> Iterator[tuple[int, Any]]:
    """Yields (job number, item) of every job, in the order of the jobs and of their items.

    Args:
      jobs: functions that return an iterable; each runs in one thread. An exception that one
        raises is yielded as its last item.
      num_workers: threads; 0 runs the jobs in the caller's.
    """
    if num_workers == 0:
        for number, job in enumerate(jobs):
            for item in _items(job):
                yield number, item
        return
    stop = threading.Event()
    queues = [queue.Queue(_CLIPS_AHEAD_OF_EACH) for _ in jobs]
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")
    try:
        # Started in this order, so the job whose items are awaited is always running or done.
        for job, results in zip(jobs, queues, strict=True):
            pool.submit(_fill, job, results, stop)
        for number, results in enumerate(queues):
            while (item := results.get()) is not _END:
                yield number, item
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _items(job) -> Iterator[Any]:
    try:
        yield from job()
    except Exception as error:
        yield error


def _fill(job, results: queue.Queue, stop: threading.Event) -> None:
    for item in _items(job):
        if not _put(results, item, stop):
            return
    _put(results, _END, stop)


def _put(results: queue.Queue, item, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            results.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
