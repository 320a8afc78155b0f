"""Rows on disk, also after a restart; progress in words."""

import io
import struct
import time

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from poet.train import metrics, progress


def write(folder, steps, restored=0):
    with metrics.MetricsWriter(folder, restored) as writer:
        for step in steps:
            writer.write(step, "train", {"loss_nats": 1 / step, "note": "words"})


def test_rows_come_back(tmp_path):
    write(tmp_path, [1, 2])
    assert metrics.read_metrics(tmp_path) == [
        {"step": 1, "kind": "train", "loss_nats": 1.0, "note": "words"},
        {"step": 2, "kind": "train", "loss_nats": 0.5, "note": "words"},
    ]


def test_a_restart_drops_what_came_after_its_step(tmp_path):
    write(tmp_path, [1, 2, 3])
    with (tmp_path / metrics.FILE).open("a") as file:
        file.write('{"step": 4, "ki')
    write(tmp_path, [3, 4], restored=2)
    assert [row["step"] for row in metrics.read_metrics(tmp_path)] == [1, 2, 3, 4]


def events(folder):
    """All TensorBoard events, oldest file first. (TensorBoard's own reader imports TensorFlow.)"""
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            # A record: length, its checksum, content, its checksum.
            (length,) = struct.unpack("<Q", data[:8])
            yield event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_tensorboard_is_told_to_forget_what_came_after_the_restored_step(tmp_path):
    write(tmp_path, [1, 2, 3])
    time.sleep(1.1)  # The names of event files carry the second.
    write(tmp_path, [3, 4], restored=2)
    found = list(events(tmp_path))
    values = [(e.step, v.tag) for e in found for v in e.summary.value]
    assert values == [(step, "train/loss_nats") for step in (1, 2, 3, 3, 4)]
    starts = [e.step for e in found if e.session_log.status == event_pb2.SessionLog.START]
    assert starts[-1] == 3


def test_a_remote_folder_gets_copies(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "_is_remote", lambda folder: True)
    with metrics.MetricsWriter(tmp_path / "run", 0) as writer:
        writer.write(1, "train", {"loss_nats": 1.0})
        assert not (tmp_path / "run").exists()
    assert [row["step"] for row in metrics.read_metrics(tmp_path / "run")] == [1]
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_plain_lines_say_rate_and_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with progress.Progress("train", 100, stream=stream) as bar:
        for step in range(1, 21):
            now[0] += 2.0
            bar.update(step, f"loss {step}")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train: 3 of 100 steps, 0.5 steps/s, 3 min 14 s left, loss 3"
    assert lines[-1] == "train: 20 of 100 steps, 0.5 steps/s, 2 min 40 s left, loss 20"


@pytest.mark.parametrize(
    ("seconds", "words"), [(8.4, "8 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations(seconds, words):
    assert progress.duration_words(seconds) == words


def test_pictures_and_clips_reach_the_board(tmp_path):
    still = np.zeros((4, 6, 3), np.uint8)
    moving = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1) * np.full((3, 4, 6, 3), 90, np.uint8)
    with metrics.MetricsWriter(tmp_path, 0) as writer:
        writer.write_pictures(7, {"still": still, "moving": moving})
    values = {v.tag: v.image for event in events(tmp_path) for v in event.summary.value}
    assert (values["eval/still"].height, values["eval/still"].width) == (4, 6)
    with Image.open(io.BytesIO(values["eval/moving"].encoded_image_string)) as image:
        assert (image.format, image.n_frames, image.size) == ("GIF", 3, (6, 4))
    assert metrics.read_metrics(tmp_path) == []
