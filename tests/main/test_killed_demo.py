"""The demo, killed with SIGKILL at five moments, ends as if nothing had happened."""

import json
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from poet.data import records
from poet.tokenizers import protocol
from poet.train import checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(sys.platform != "linux", reason="stages die with the demo on Linux only"),
]

# (stage that runs, what lies on the disk at the moment of the kill)
MOMENTS = (
    ("render", "clips/**/.*.partial*"),  # a clip is being written
    # The last checkpoint is being written, so the restart is from the one before, which for the
    # visual tokenizer is the border between images and video.
    ("visual_tokenizer", "tokenizers/visual/train/checkpoints/4*tmp*"),
    ("prepare", ".dataset.tmp*/*"),  # everything is tokenized, records are being written
    ("train", "model/checkpoints/10*tmp*"),
    ("text_to_video", "samples/text_to_video/[!.]*.mp4"),  # some clips are made
)


# Added to the time of each killed stage, which a restart must not forget.
EARLIER_SECONDS = 10_000


def command(out):
    """The demo as a person starts it: in a process of its own."""
    return [sys.executable, "-m", "poet.main.cli", "demo", "--tiny", f"--out={out}"]


def kill_at(out, stage, pattern, seconds=600):
    """Starts the demo on `out` and kills it while `stage` runs and a file of `pattern` is there."""
    record = out / "stages" / f"{stage}.json"
    deadline = time.monotonic() + seconds
    with open(out.with_suffix(".log"), "ab") as log:
        process = subprocess.Popen(command(out), stdout=log, stderr=log)
        try:
            while not (record.exists() and any(out.glob(pattern))):
                assert process.poll() is None, f"the demo ended before {pattern} was seen"
                assert time.monotonic() < deadline, f"{pattern} was not seen in {seconds} s"
                time.sleep(0.001)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert process.returncode == -signal.SIGKILL
    found = json.loads(record.read_text())
    assert not found["is_finished"], "the kill came too late"
    record.write_text(json.dumps(found | {"seconds": found["seconds"] + EARLIER_SECONDS}))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder of an undisturbed demo, folder of one that was killed five times)."""
    folder = tmp_path_factory.mktemp("demos")
    whole, killed = folder / "whole", folder / "killed"
    subprocess.run(command(whole), check=True)
    for moment in MOMENTS:
        kill_at(killed, *moment)
    subprocess.run(command(killed), check=True)
    return whole, killed


def test_tokenizers_are_the_same(finished):
    for kind in ("visual", "audio"):
        one, other = (protocol.load(out / "tokenizers" / kind) for out in finished)
        assert one.fingerprint == other.fingerprint


def test_the_ids_are_the_same(finished):
    one, other = (records.open_dataset(out / "dataset") for out in finished)
    assert one.fingerprint == other.fingerprint and one.splits == other.splits
    for split, count in one.splits.items():
        for index in range(count):
            for name in ("visual", "audio"):
                mine, theirs = (dataset.read(split, index)[name] for dataset in (one, other))
                np.testing.assert_array_equal(mine, theirs)


def test_the_parameters_are_the_same(finished):
    one, other = (checkpoint.load_params(out / "model") for out in finished)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_answers_are_the_same(finished):
    whole, killed = finished
    paths = sorted(whole.glob("samples/*/*.json"))
    assert len(paths) >= 8
    for path in paths:
        mine = json.loads((killed / path.relative_to(whole)).read_text())
        assert mine["ids"] == json.loads(path.read_text())["ids"]


def test_nothing_half_written_is_left(finished):
    left = [
        path
        for out in finished
        for path in out.rglob("*")
        if ".partial" in path.name or "tmp" in path.name
    ]
    assert not left


def test_time_counts_over_restarts(finished):
    for stage, _ in MOMENTS:
        record = json.loads((finished[1] / "stages" / f"{stage}.json").read_text())
        assert record["is_finished"] and record["seconds"] > EARLIER_SECONDS
