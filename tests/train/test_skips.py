"""A language model leaves the update of a bad batch out: on a mesh, in parts, with an average."""

import jax
import numpy as np
import pytest
import tiny_lm

from poet.data.batches import AgdBatches
from poet.train import lm, loop, metrics, skips
from poet.train.lm_program import Evaluation, Updates
from poet.train.optimizer import OptimizerConfig
from poet.train.partitioning import MeshConfig

BAD = (1, 3)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_bad_batch_moves_nothing(tmp_path, small_dataset, monkeypatch):
    """One NaN weight of one row, which is in one of two parts, on one of four devices."""
    batch_at = AgdBatches.batch_at

    def spoiled(self, step):
        group, batch = batch_at(self, step)
        if step in BAD:
            batch["decoder_loss_weights"] = batch["decoder_loss_weights"].copy()
            batch["decoder_loss_weights"][-1, -1] = np.nan
        return group, batch

    monkeypatch.setattr(AgdBatches, "batch_at", spoiled)
    run = lm.LMRun(
        data_dir=str(small_dataset),
        mixture_or_task_name="poet_unconditional",
        model=tiny_lm.TRAINED,
        batch_tokens=400,
        optimizer=OptimizerConfig(warmup_steps=0, learning_rate=1e-2),
        evaluation=Evaluation(num_examples=0),
        updates=Updates(num_micro_batches=2, ema_decay=0.9),
        mesh=MeshConfig(replica=2, fsdp=2),
        loop=loop.LoopConfig(
            model_dir=str(tmp_path), num_steps=5, save_period=5, log_period=1, max_skips=2
        ),
    )
    state = lm.train(run)
    assert int(state.step) == 5 and int(state.opt_state[1].count) == 3
    for leaf in jax.tree.leaves((state.params, state.opt_state, state.ema)):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()
    rows = metrics.read_metrics(tmp_path)
    assert [row["step"] for row in rows if row["kind"] == skips.KIND] == [2, 4]
    assert [row.get("num_skipped") for row in rows if row["kind"] == "train"] == [0, 1, 1, 2, 2]
    assert sorted(path.name for path in (tmp_path / "non_finite").iterdir()) == [
        "step_2.npz",
        "step_4.npz",
    ]
