"""Micro-batches and moving averages, on a linear map that is worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from poet.train import state
from poet.train.lm_program import Updates
from poet.train.step import make_step


def loss_fn(params, batch, key):
    """Mean square error over weighted rows."""
    del key
    errors = jnp.square(batch["x"] @ params["w"] - batch["y"] + params["b"])
    num_tokens = batch["weights"].sum()
    loss = (batch["weights"] * errors).sum() / num_tokens
    return loss + 0.5, {"loss_nats": loss, "num_tokens": num_tokens}


def make_batch(num_rows=6):
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(num_rows, 3)).astype(np.float32),
        "y": rng.normal(size=num_rows).astype(np.float32),
        # Parts get rows 0, 2, 4 and 1, 3, 5: eight tokens and three.
        "weights": np.array([3, 1, 3, 1, 2, 1], np.float32)[:num_rows],
    }


def begin(tx):
    params = {"w": jnp.ones(3), "b": jnp.zeros(())}
    return state.create(params, tx.init(params))


def test_micro_batches_give_the_gradients_of_the_whole():
    """Each part counts by its tokens, not as one of two."""
    tx, key = optax.sgd(0.1), jax.random.key(0)
    want, whole = make_step(loss_fn, tx)(begin(tx), make_batch(), key)
    for num_parts in (2, 3):
        step = make_step(loss_fn, tx, num_micro_batches=num_parts)
        got, parts = jax.jit(step)(begin(tx), make_batch(), key)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)
        assert parts.keys() == whole.keys()
        for name, value in whole.items():
            np.testing.assert_allclose(parts[name], value, rtol=1e-5)


def test_rows_that_do_not_divide_are_refused():
    tx = optax.sgd(0.1)
    step = make_step(loss_fn, tx, num_micro_batches=2)
    with pytest.raises(ValueError, match="A batch of 5 rows cannot be computed in 2 equal micro"):
        step(begin(tx), make_batch(5), jax.random.key(0))


def test_the_average_follows_the_parameters():
    """The gradient is 1: parameters 0, -1, -2; the average moves by 0.9 of the way, then 9 / 11.

    What is frozen has no average.
    """
    tx = optax.sgd(1.0)
    step = make_step(
        lambda params, batch, key: (params["w"] + params["b"], {}),
        tx,
        frozen=frozenset({"b"}),
        ema_decay=0.9,
    )
    params = {"w": jnp.zeros(()), "b": jnp.ones(())}
    moving = {"w": params["w"]}
    now = state.create(params, tx.init(moving), ema=moving)
    found = []
    for _ in range(2):
        now, _ = step(now, {}, jax.random.key(0))
        found.append(float(now.ema["w"]))
    np.testing.assert_allclose(found, [-0.9, -0.9 * 2 / 11 - 2 * 9 / 11], rtol=1e-6)
    assert now.ema.keys() == {"w"} and float(now.params["b"]) == 1.0


def test_a_late_average_moves_by_its_decay():
    tx = optax.sgd(1.0)
    step = make_step(lambda params, batch, key: (params["w"], {}), tx, ema_decay=0.5)
    params = {"w": jnp.zeros(())}
    now = state.create(params, tx.init(params), ema=params)
    now, _ = step(now.replace(step=jnp.asarray(1000)), {}, jax.random.key(0))
    assert float(now.ema["w"]) == -0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_micro_batches": 0}, "num_micro_batches=0 must be at least 1"),
        ({"ema_decay": 1.0}, r"ema_decay=1.0 must be in \[0, 1\)"),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(ValueError, match=words):
        Updates(**changes)
