"""A run that goes on, on another mesh: the same data in the same order, nearly the same losses."""

import hashlib

import numpy as np
import pytest
import tiny_lm

from poet.data import registry
from poet.data.batches import AgdBatches
from poet.train import lm, loop, metrics
from poet.train.lm_program import Evaluation
from poet.train.optimizer import OptimizerConfig
from poet.train.partitioning import MeshConfig

NUM_STEPS, CHANGE_AT = 60, 10


class TakenAwayError(Exception):
    """The devices were needed elsewhere."""


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_fifty_steps_on_another_mesh(tmp_path, small_dataset, monkeypatch):
    """Two groups; ten steps on four devices, then fifty on two by two and on one.

    By themselves those would round 300 tokens to 7 or 6 rows of text to video, not to 8.
    """
    registry.load_task_modules(("tasks.paper",))
    registry.register_mixture("two_lengths", {"poet_unconditional": 1.0, "poet_text_to_video": 1.0})
    seen, batch_at, stops_at = {}, AgdBatches.batch_at, [None]

    def noted(self, step):
        group, batch = batch_at(self, step)
        content = b"".join(batch[name].tobytes() for name in sorted(batch))
        seen[step] = (group, hashlib.sha256(content).hexdigest())
        if step == stops_at[0]:
            raise TakenAwayError
        return group, batch

    monkeypatch.setattr(AgdBatches, "batch_at", noted)

    def train(folder, **mesh):
        run = lm.LMRun(
            data_dir=str(small_dataset),
            mixture_or_task_name="two_lengths",
            model=tiny_lm.TRAINED,
            batch_tokens=300,
            optimizer=OptimizerConfig(warmup_steps=2, learning_rate=3e-3),
            evaluation=Evaluation(num_examples=0),
            mesh=MeshConfig(**mesh),
            loop=loop.LoopConfig(
                model_dir=str(tmp_path / folder), num_steps=NUM_STEPS, save_period=10, log_period=1
            ),
        )
        seen.clear()
        lm.train(run)
        rows = metrics.read_metrics(tmp_path / folder)
        return dict(seen), [row["loss_nats"] for row in rows if row["kind"] == "train"]

    stops_at[0] = CHANGE_AT + 4
    for folder in ("two_by_two", "one"):
        with pytest.raises(TakenAwayError):
            train(folder, fsdp=4)
    stops_at[0] = None
    data, losses = train("undisturbed", fsdp=4)
    assert len({group for group, _ in data.values()}) == 2 and len(losses) == NUM_STEPS
    assert losses[-1] < losses[0] - 0.1, "something is learned"
    for folder, mesh in (
        ("two_by_two", {"replica": 2, "fsdp": 1, "tensor": 2}),
        ("one", {"num_devices": 1}),
    ):
        data_there, losses_there = train(folder, **mesh)
        assert data_there == {step: data[step] for step in range(CHANGE_AT, NUM_STEPS)}
        np.testing.assert_allclose(losses_there, losses, atol=1e-4, rtol=0)
