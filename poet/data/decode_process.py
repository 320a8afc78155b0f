"""Decoding in processes of its own: a file that hangs, crashes or eats memory costs its row only.

A process takes one job at a time and sends its items through a pipe. One that is silent too long
is killed, one that dies is noticed; the next job gets a new one.
"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import queue
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from poet.media.errors import MediaError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What one file (or a piece of a long one) may take.

    Attributes:
      clip_s: seconds until the next clip, while somebody waits for it.
      file_s: seconds of such waiting in all.
      memory_mb: address space of a decoding process beyond what it starts with; 0 for any.
      max_clips: clips of a piece; an endless file ends here.
    """

    clip_s: float = 60.0
    file_s: float = 3600.0
    memory_mb: int = 4096
    max_clips: int = 100_000

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < 0 or (value == 0 and field.name != "memory_mb"):
                raise ValueError(f"DecodeLimits.{field.name} must be positive, got {value}.")


class DecodePool:
    """Up to as many processes as jobs run at a time; a context manager. Used from threads."""

    def __init__(self, limits: DecodeLimits):
        self._limits = limits
        # Not "fork": the threads of JAX and FFmpeg would be cut in the middle of what they do.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["poet.data.clips"])
        self._idle: queue.SimpleQueue = queue.SimpleQueue()
        self._workers: set = set()
        self._lock = threading.Lock()

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *error) -> None:
        with self._lock:
            for worker in self._workers:
                worker.stop()
            self._workers.clear()

    def items(self, function: Callable[..., Iterable[Any]], *arguments) -> Iterator[Any]:
        """Yields what `function(*arguments)` yields in a process of the pool.

        Raises:
          MediaError: it took too long, its process died, or it yielded too much.
          Exception: what the function raised.
        """
        worker, is_whole = self._take(), False
        try:
            worker.pipe.send((function, arguments))
            waited_s = 0.0
            for count in itertools.count():
                kind, value, seconds = self._receive(worker, function, waited_s)
                waited_s += seconds
                if kind == "end":
                    is_whole = True
                    return
                if kind == "error":
                    is_whole = True
                    raise value
                if count == self._limits.max_clips:
                    raise MediaError(
                        f"{count} clips, and more to come; cut the file, or raise the limit"
                        " max_clips."
                    )
                yield value
        finally:
            if is_whole:
                self._idle.put(worker)
            else:
                self._drop(worker)

    def _receive(self, worker, function, waited_s: float) -> tuple[str, Any, float]:
        limits, before = self._limits, time.monotonic()
        left_s = min(limits.clip_s, limits.file_s - waited_s)
        try:
            if not worker.pipe.poll(max(0.0, left_s)):
                raise MediaError(
                    f"decoding gave nothing for {left_s:.0f} s (limits: {limits.clip_s:.0f} s a"
                    f" clip, {limits.file_s:.0f} s a file); replace the file or raise the limit."
                )
            kind, value = worker.pipe.recv()
        except (EOFError, ConnectionError) as error:
            worker.process.join(1.0)
            raise MediaError(
                f"the decoder died (exit code {worker.process.exitcode}); replace the file, or"
                f" raise the memory limit of {limits.memory_mb} MB."
            ) from error
        return kind, value, time.monotonic() - before

    def _take(self) -> "_Worker":
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        worker = _Worker(self._context, self._limits.memory_mb)
        with self._lock:
            self._workers.add(worker)
        return worker

    def _drop(self, worker: "_Worker") -> None:
        worker.stop()
        with self._lock:
            self._workers.discard(worker)


class _Worker:
    """A process and this side of its pipe."""

    def __init__(self, context, memory_mb: int):
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, memory_mb), daemon=True)
        with _without_main():
            self.process.start()
        theirs.close()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


_main_lock = threading.Lock()


@contextlib.contextmanager
def _without_main():
    """Hides the main module while a process starts.

    The process would import it, though nothing of it is needed there: a script without the usual
    guard would run a second time.
    """
    with _main_lock:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _serve(pipe, memory_mb: int) -> None:
    """Runs jobs until the other side is gone."""
    if memory_mb:
        _limit_memory(memory_mb * 2**20)
    while True:
        try:
            function, arguments = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            for item in function(*arguments):
                pipe.send(("item", item))
            pipe.send(("end", None))
        except ConnectionError:
            return
        except MemoryError:
            words = "decoding needs more memory than the limit; raise it or leave the file out."
            pipe.send(("error", MediaError(words)))
        except Exception as error:
            pipe.send(("error", _portable(error)))


def _portable(error: Exception) -> Exception:
    """The error itself where a pipe can carry it, else its text."""
    if isinstance(error, MediaError | ValueError | OSError) and type(error).__init__ in (
        Exception.__init__,
        MediaError.__init__,
        ValueError.__init__,
    ):
        return error
    return RuntimeError("".join(traceback.format_exception(error)))


def _limit_memory(num_bytes: int) -> None:
    """Caps the address space at what is in use and so much more, where the system can do it."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, hard))
    except (ImportError, OSError, ValueError):
        return
