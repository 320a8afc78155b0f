"""Runs stages as processes of their own, remembers what is done, and counts time and memory."""

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from poet.demo.stages import Stage

# How often the time and memory of a running stage are written down. A SIGKILL loses at most this.
_HEARTBEAT_S = 1.0


class StageFailed(RuntimeError):
    """A stage's process ended with an error; `exit_code` is its exit code."""

    def __init__(self, stage: Stage, exit_code: int, log: Path):
        self.exit_code = exit_code
        super().__init__(
            f"Stage {stage.name!r} ended with exit code {exit_code}. Its output is in {log}."
            " Mend what it says and run the demo again: finished stages are kept."
        )


@dataclasses.dataclass(kw_only=True)
class StageRecord:
    """What is known of a stage, over all its starts.

    Attributes:
      command: The line that ran.
      seconds: Wall time, summed over restarts.
      peak_bytes: Most resident memory of the demo's process tree while the stage ran.
      is_finished: The command ended with exit code 0.
    """

    command: str
    seconds: float = 0.0
    peak_bytes: int = 0
    is_finished: bool = False


def read_record(path: Path) -> StageRecord | None:
    """The record in `path`, or None if there is none."""
    return StageRecord(**json.loads(path.read_text())) if path.exists() else None


def write_json(path: Path, value: object) -> None:
    """Writes `value` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1))
    os.replace(partial, path)


def run_stage(stage: Stage, out: Path) -> StageRecord:
    """Runs `stage` unless it is finished; returns its record.

    Output of the command goes to the terminal and to `out/logs/<stage>.log`.

    Raises:
      StageFailed: The command ended with another exit code than 0.
    """
    path = out / "stages" / f"{stage.name}.json"
    record = read_record(path) or StageRecord(command=stage.command)
    if record.is_finished:
        return record
    record.command = stage.command
    log = out / "logs" / f"{stage.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    process = _start(stage, log)
    with _counted(process, record, path):
        try:
            exit_code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if exit_code != 0:
        raise StageFailed(stage, exit_code, log)
    record.is_finished = True
    write_json(path, dataclasses.asdict(record))
    return record


@contextlib.contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Holds `out` for this process; a second demo on the same folder is refused.

    Raises:
      ValueError: Another process holds the folder.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows; the check is a courtesy, not a lock on the data
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"Expected {out} to be free, but another demo is writing there."
                " Wait for it, stop it, or choose another --out."
            ) from None
        yield


def _start(stage: Stage, log: Path) -> subprocess.Popen:
    """Starts the command with its output copied to `log` by a thread."""
    process = subprocess.Popen(
        [sys.executable, "-m", "poet.main.cli", *stage.argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )
    threading.Thread(target=_copy_output, args=(process, log), daemon=True).start()
    return process


def _copy_output(process: subprocess.Popen, log: Path) -> None:
    with open(log, "ab") as file:
        while chunk := process.stdout.read1(65536):
            file.write(chunk)
            file.flush()
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()


def _die_with_parent() -> None:
    # Without this a killed demo leaves its stage running, and the next start meets it.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def _counted(process: subprocess.Popen, record: StageRecord, path: Path) -> Iterator[None]:
    """Adds the wall time and peak memory of the block to `record`, saved as it goes."""
    start, before = time.monotonic(), record.seconds
    done = threading.Event()

    def save() -> None:
        record.seconds = before + time.monotonic() - start
        record.peak_bytes = max(record.peak_bytes, tree_bytes(os.getpid()))
        write_json(path, dataclasses.asdict(record))

    def beat() -> None:
        while not done.wait(_HEARTBEAT_S):
            save()

    save()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        save()


def tree_bytes(pid: int) -> int:
    """Resident memory of a process and all its descendants, bytes shared counted in each."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total


def run_all(
    stages: tuple[Stage, ...], out: Path, say: Callable[[str], None]
) -> dict[str, StageRecord]:
    """Runs the stages in order; returns their records by name."""
    records = {}
    for number, stage in enumerate(stages, 1):
        known = read_record(out / "stages" / f"{stage.name}.json")
        state = "done before" if known and known.is_finished else "running"
        say(f"\n[{number}/{len(stages)}] {stage.title} ({state})\n    {stage.command}")
        records[stage.name] = run_stage(stage, out)
        say(f"    {stage.name}: {records[stage.name].seconds:.0f} s")
    return records


def read_records(stages: tuple[Stage, ...], out: Path) -> dict[str, StageRecord]:
    """The records of finished stages.

    Raises:
      ValueError: A stage is not finished.
    """
    found = {stage.name: read_record(out / "stages" / f"{stage.name}.json") for stage in stages}
    open_stages = [name for name, record in found.items() if not (record and record.is_finished)]
    if open_stages:
        raise ValueError(
            f"Expected a finished demo in {out}, but {', '.join(open_stages)} did not finish there."
            " Run the demo without --report_only first."
        )
    return found
