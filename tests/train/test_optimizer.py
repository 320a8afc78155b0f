"""Schedules at hand-worked steps, decay and clipping."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.train.optimizer import (
    OptimizerConfig,
    convolution_kernels,
    learning_rate_schedule,
    linear_kernels,
    make_optimizer,
)


@pytest.mark.parametrize(
    ("name", "at_half", "at_end"),
    # 110 steps, warm-up 10; half is step 60: a cosine of 0.1 + 0.9 / 2, one over root 6.
    [
        ("cosine", 0.55, 0.1),
        ("constant", 1.0, 1.0),
        ("rsqrt", 6**-0.5, 11**-0.5),
        ("wsd", 1.0, 0.1),
    ],
)
def test_schedules(name, at_half, at_end):
    rate = learning_rate_schedule(
        OptimizerConfig(learning_rate=1.0, schedule=name, warmup_steps=10), 110
    )
    got = [float(rate(step)) for step in (0, 4, 9, 10, 60, 110)]
    np.testing.assert_allclose(got, [0.1, 0.5, 1.0, 1.0, at_half, at_end], rtol=1e-5)


def test_wsd_falls_in_the_last_share_of_the_steps():
    """A fifth of 110 steps is 22: flat to step 88, half way down at 99."""
    config = OptimizerConfig(learning_rate=1.0, schedule="wsd", warmup_steps=10, final_fraction=0.0)
    rate = learning_rate_schedule(config, 110)
    got = [float(rate(step)) for step in (88, 99, 110, 120)]
    np.testing.assert_allclose(got, [1.0, 0.5, 0.0, 0.0], atol=1e-6)
    whole = learning_rate_schedule(dataclasses.replace(config, decay_share=1.0), 110)
    np.testing.assert_allclose([float(whole(step)) for step in (10, 60)], [1.0, 0.5], rtol=1e-6)


def test_a_warm_up_longer_than_the_run_ends_with_it():
    rate = learning_rate_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=100), 10)
    assert float(rate(9)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_only_matrices_decay(name):
    """Scanned scales, [layers, D], are no matrices."""
    config = OptimizerConfig(
        name=name, learning_rate=0.1, weight_decay=1.0, warmup_steps=0, schedule="constant"
    )
    params = {
        "out": {"kernel": jnp.ones((2, 2))},
        "table": jnp.ones((2, 2)),
        "scale": jnp.ones(2),
        "layers": {"norm": {"scale": jnp.ones((3, 2))}},
    }
    tx = make_optimizer(config, 10)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    for decayed in (updates["out"]["kernel"], updates["table"]):
        np.testing.assert_allclose(decayed, -0.1, rtol=1e-6)
    for kept in (updates["scale"], updates["layers"]["norm"]["scale"]):
        np.testing.assert_array_equal(kept, 0.0)


def test_adafactor_keeps_rows_and_columns():
    """They give an outer product's squares exactly, so that a first step is a sign."""
    config = OptimizerConfig(
        name="adafactor", learning_rate=0.1, warmup_steps=0, schedule="constant", clip_norm=0.0
    )
    rng = np.random.default_rng(0)
    rows, columns = rng.normal(size=(3, 70, 1, 1)), rng.normal(size=(3, 1, 2, 64))
    gradients = {"layers": {"kernel": jnp.asarray(rows * columns), "scale": jnp.ones((40, 70))}}
    params = jax.tree.map(jnp.ones_like, gradients)
    tx = make_optimizer(config, 10)
    state = tx.init(params)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    # Rows and columns of each layer and head; scales of 40 layers are no matrix.
    assert (3, 2, 64) in shapes and (3, 70, 2) in shapes and (40, 70) in shapes
    assert (3, 70, 2, 64) not in shapes
    updates, _ = tx.update(gradients, state, params)
    for name, gradient in gradients["layers"].items():
        np.testing.assert_allclose(updates["layers"][name], -0.1 * np.sign(gradient), rtol=1e-4)


def test_muon_moves_kernels_by_an_orthogonal_matrix():
    """Every singular value of a kernel's step is near 0.2 sqrt(max(fan in, fan out)) x the rate."""
    config = OptimizerConfig(
        name="muon", learning_rate=0.1, warmup_steps=0, schedule="constant", clip_norm=0.0
    )
    rng = np.random.default_rng(0)
    shapes = {"query": (2, 6, 2, 3), "out": (2, 2, 3, 6)}  # layers in front; D = 6
    params = {"layers": {name: {"kernel": jnp.ones(shape)} for name, shape in shapes.items()}}
    params["embed"] = jnp.ones((6, 6))
    gradients = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
    tx = make_optimizer(config, 10)
    updates, _ = tx.update(gradients, tx.init(params), params)
    for name in shapes:
        steps = updates["layers"][name]["kernel"].reshape(2, 6, 6)
        for step in steps:
            sizes = np.linalg.svd(step, compute_uv=False) / (0.1 * 0.2 * 6**0.5)
            assert sizes.min() > 0.5 and sizes.max() < 1.3
    # A table moves by Adam (here with Nesterov's momentum), by signs in its first step: not by an
    # orthogonal matrix.
    table = np.asarray(updates["embed"])
    np.testing.assert_array_equal(np.sign(table), -np.sign(gradients["embed"]))
    np.testing.assert_allclose(np.abs(table), np.abs(table[0, 0]), rtol=1e-4)


def test_linear_kernels():
    """The first axis is contracted, but all before the last in attention's output."""
    leaf = jnp.zeros((4, 6, 2, 3))
    params = {
        "layers": {"query": {"kernel": leaf}, "out": {"kernel": leaf}},
        "text": {"out": {"kernel": jnp.zeros((2, 3, 6))}, "scale": jnp.zeros((3, 3))},
    }
    got = linear_kernels(params)
    assert got["layers"]["query"]["kernel"] == ((1,), (2, 3))
    assert got["layers"]["out"]["kernel"] == ((1, 2), (3,))
    assert got["text"] == {"out": {"kernel": ((0, 1), (2,))}, "scale": None}


def test_convolution_kernels():
    """Taps and input channels are contracted; kernels of upsampling are left out."""
    kernel = jnp.zeros((3, 3, 3, 8, 16))
    params = {"conv_in": {"kernel": kernel, "bias": jnp.zeros(16)}, "up_1": {"kernel": kernel}}
    got = convolution_kernels(params)
    assert got["conv_in"] == {"kernel": ((0, 1, 2, 3), 4), "bias": None}
    assert got["up_1"]["kernel"] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "sgd"}, "name='sgd' is not known; use one of adamw, adafactor, muon"),
        ({"schedule": "step"}, "schedule='step' is not known; use one of cosine"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be a positive number"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be a positive number"),
        ({"warmup_steps": -1}, "warmup_steps=-1 must be 0 or more"),
        ({"decay_share": 0.0}, "decay_share=0.0 must be above 0 and at most 1"),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(ValueError, match=words):
        OptimizerConfig(**changes)
