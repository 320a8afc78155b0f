"""Schedules at hand-worked steps, decay and clipping."""

import jax.numpy as jnp
import numpy as np
import pytest

from poet.train.optimizer import OptimizerConfig, learning_rate_schedule, make_optimizer


@pytest.mark.parametrize(
    ("name", "at_half", "at_end"),
    # 110 steps, warm-up 10; half is step 60: a cosine of 0.1 + 0.9 / 2, one over root 6.
    [("cosine", 0.55, 0.1), ("constant", 1.0, 1.0), ("rsqrt", 6**-0.5, 11**-0.5)],
)
def test_schedules(name, at_half, at_end):
    rate = learning_rate_schedule(
        OptimizerConfig(learning_rate=1.0, schedule=name, warmup_steps=10), 110
    )
    got = [float(rate(step)) for step in (0, 4, 9, 10, 60, 110)]
    np.testing.assert_allclose(got, [0.1, 0.5, 1.0, 1.0, at_half, at_end], rtol=1e-5)


def test_a_warm_up_longer_than_the_run_ends_with_it():
    rate = learning_rate_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=100), 10)
    assert float(rate(9)) == pytest.approx(1.0)


def test_only_matrices_decay():
    config = OptimizerConfig(
        learning_rate=0.1, weight_decay=1.0, warmup_steps=0, schedule="constant"
    )
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
    tx = make_optimizer(config, 10)
    zeros = {"kernel": jnp.zeros((2, 2)), "scale": jnp.zeros(2)}
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1, rtol=1e-6)
    np.testing.assert_array_equal(updates["scale"], 0.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": "step"}, "schedule='step' is not known; use one of cosine"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be a positive number"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be a positive number"),
        ({"warmup_steps": -1}, "warmup_steps=-1 must be 0 or more"),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(ValueError, match=words):
        OptimizerConfig(**changes)
