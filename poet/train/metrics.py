"""Measures on disk: one JSON line a row, and the same numbers for TensorBoard.

A restarted run drops the rows after the step it restored, so that the files read as if nothing had
happened.
"""

import contextlib
import io
import json
import pathlib
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

FILE = "metrics.jsonl"


class MetricsWriter:
    """Writes MODEL_DIR/metrics.jsonl and MODEL_DIR/tensorboard. Use it in a `with`.

    Rows are {"step": n, "kind": KIND, name: number, ...}; kinds are "train", "eval", "sample" and
    "goodput". Remote folders get copies at every `flush`, since object stores cannot append.

    Attributes:
      num_lost_steps: Logged steps of an earlier process after the step that was restored.
    """

    def __init__(self, model_dir: epath.PathLike, restored_step: int = 0):
        self._final = epath.Path(model_dir)
        self._is_remote = _is_remote(model_dir)
        self._scratch = tempfile.TemporaryDirectory() if self._is_remote else None
        local = self._scratch.name if self._scratch else model_dir
        self._local = pathlib.Path(local)
        self._local.mkdir(parents=True, exist_ok=True)
        found = read_metrics(model_dir)
        rows = [row for row in found if row["step"] <= restored_step]
        self.num_lost_steps = max([0, *(row["step"] - restored_step for row in found)])
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path = self._local / FILE
        temporary = path.with_suffix(".partial")
        temporary.write_text(text)
        temporary.rename(path)
        self._file = path.open("a")
        self._board = _Board(self._local / "tensorboard", restored_step + 1)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Adds one row; values are numbers or short strings (strings stay out of TensorBoard)."""
        row = {"step": step, "kind": kind}
        for name, value in values.items():
            row[name] = value if isinstance(value, str) else _plain(value)
            if not isinstance(value, str):
                self._board.add_number(f"{kind}/{name}", float(value), step)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()  # People watch it while the run goes on.

    def write_pictures(
        self, step: int, pictures: Mapping[str, np.ndarray], kind: str = "eval"
    ) -> None:
        """Adds pictures, uint8 [Y, X, 3], and clips of them [T, Y, X, 3] to TensorBoard only.

        Clips are animated GIFs of 8 frames a second: its browser plays them with nothing installed.
        """
        from PIL import Image
        from tensorboardX.proto.summary_pb2 import Summary

        for name, pixels in pictures.items():
            frames = [Image.fromarray(frame) for frame in (pixels[None], pixels)[pixels.ndim == 4]]
            file = io.BytesIO()
            is_clip = len(frames) > 1
            more = {"save_all": True, "append_images": frames[1:], "duration": 125, "loop": 0}
            frames[0].save(file, "GIF" if is_clip else "PNG", **(more if is_clip else {}))
            image = Summary.Image(
                height=pixels.shape[-3],
                width=pixels.shape[-2],
                colorspace=3,
                encoded_image_string=file.getvalue(),
            )
            value = Summary.Value(tag=f"{kind}/{name}", image=image)
            self._board.add(Summary(value=[value]), step)

    def flush(self) -> None:
        """Puts everything written so far on disk (and a copy at a remote MODEL_DIR)."""
        self._file.flush()
        self._board.flush()
        if self._is_remote:
            for path in self._local.rglob("*"):
                if path.is_file():
                    target = self._final / str(path.relative_to(self._local))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(path.read_bytes())

    def close(self) -> None:
        """Flushes and closes the files."""
        with contextlib.ExitStack() as stack:  # All of it, also where a disk is full.
            if self._scratch:
                stack.callback(self._scratch.cleanup)
            stack.callback(self._board.close)
            stack.callback(self._file.close)
            self.flush()


class _Board:
    """The event file of TensorBoard, written at once.

    tensorboardX's own SummaryWriter writes in a thread that ends without a word when the disk is
    full; from then on the run would wait for it for ever.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._events = EventsWriter(str(folder / "events"))
        # TensorBoard forgets what an earlier process wrote of this step and later ones.
        self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))
        self._events.flush()

    def add_number(self, tag: str, value: float, step: int) -> None:
        from tensorboardX import summary

        self.add(summary.scalar(tag, value), step)

    def add(self, summary: Any, step: int) -> None:
        self._write(step=step, summary=summary)

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._events.close()

    def _write(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(wall_time=time.time(), **fields))


class NoMetrics(contextlib.AbstractContextManager):
    """What the processes of a job that write nothing have instead of a `MetricsWriter`."""

    num_lost_steps = 0

    def __exit__(self, *error):
        return None

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Drops the row."""

    def write_pictures(
        self, step: int, pictures: Mapping[str, np.ndarray], kind: str = "eval"
    ) -> None:
        """Drops the pictures."""

    def flush(self) -> None:
        """Nothing to do."""


def read_metrics(model_dir: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the rows of MODEL_DIR/metrics.jsonl in order; a torn last line is left out."""
    path = epath.Path(model_dir) / FILE
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break  # The process died while it wrote this line.
    return rows


def _is_remote(folder: epath.PathLike) -> bool:
    return "://" in str(folder)


def _plain(value: Any) -> float | int:
    return value if isinstance(value, int) else float(f"{float(value):.7g}")
