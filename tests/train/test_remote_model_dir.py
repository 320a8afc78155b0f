"""MODEL_DIR in an object store: what Poet writes there itself. Arrays are Orbax's business."""

import json

import numpy as np
import pytest
import remote
from etils import epath

from poet.main import commands
from poet.train import bad_batch, checkpoint, metrics, skips

MODEL_DIR = "gs://bucket/runs/one"


@pytest.fixture
def store(monkeypatch):
    """An empty gs://, in memory."""
    return remote.install(monkeypatch)


def test_rows_come_back_after_a_restart(store):
    """Rows reach the store when a checkpoint is about to; a restart drops the later ones."""
    with metrics.MetricsWriter(MODEL_DIR) as writer:
        writer.write(1, "train", {"loss_nats": 2.0})
        writer.write(2, skips.KIND, {"group": "a"})
        assert metrics.read_metrics(MODEL_DIR) == []
        writer.flush()
        assert [row["step"] for row in metrics.read_metrics(MODEL_DIR)] == [1, 2]
        writer.write(3, skips.KIND, {"group": "a"})
    with metrics.MetricsWriter(MODEL_DIR, restored_step=2) as writer:
        assert writer.num_lost_steps == 1
        writer.write(4, "train", {"loss_nats": 1.0})
    assert [row["step"] for row in metrics.read_metrics(MODEL_DIR)] == [1, 2, 4]
    assert skips.Skips(MODEL_DIR, 5, 10, first_step=2).number == 1
    names = [path.name for path in epath.Path(MODEL_DIR, "tensorboard").iterdir()]
    assert names and all(name.startswith("events.out.tfevents") for name in names)


def test_a_bad_batch_is_kept(store):
    path = bad_batch.save(MODEL_DIR, 7, "a", {"x": np.array([np.nan, 1.0])})
    assert [found.name for found in path.parent.iterdir()] == ["step_7.npz"]
    with path.open("rb") as file, np.load(file) as batch:
        np.testing.assert_array_equal(batch["x"], [np.nan, 1.0])


def test_a_step_counts_when_the_store_has_all_of_it(store):
    """There are no renames: an unfinished step has its number, but not its last file."""
    for step in (10, 20):
        folder = epath.Path(MODEL_DIR, checkpoint.FOLDER, str(step))
        (folder / "meta" / "metadata").write_text(json.dumps({"step": step}))
    epath.Path(MODEL_DIR, checkpoint.FOLDER, "10", "commit_success.txt").write_text("whole")
    assert checkpoint.newest_step(MODEL_DIR) == 10
    assert checkpoint.read_meta(MODEL_DIR) == {"step": 10}
    epath.Path(MODEL_DIR, checkpoint.FOLDER, "20", "commit_success.txt").write_text("whole")
    assert checkpoint.read_meta(MODEL_DIR) == {"step": 20}


def test_a_remote_folder_is_trusted_to_be_writable():
    commands.check_writable(MODEL_DIR, may_be_remote=True)


def test_orbax_is_given_the_stores_own_path(store, monkeypatch, tmp_path):
    """Not one below the working folder."""
    given = []

    class Manager:
        def __init__(self, folder, **more):
            given.append(str(folder))

    monkeypatch.setattr(checkpoint.ocp, "CheckpointManager", Manager)
    monkeypatch.chdir(tmp_path)
    checkpoint.Checkpoints(MODEL_DIR)
    checkpoint.Checkpoints("here")
    assert given == [f"{MODEL_DIR}/checkpoints", str(tmp_path / "here" / "checkpoints")]
