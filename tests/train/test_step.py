"""Micro-batches and moving averages, on a linear map that is worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from poet.train import state
from poet.train.lm_program import Updates
from poet.train.step import make_step, skip_non_finite


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


def scaled(params, batch, key):
    """Gradient: the mean of x. Nats: the mean of x w + y, of which y has no gradient."""
    del key
    nats = jnp.mean(batch["x"] * params["w"] + batch["y"])
    return nats, {"loss_nats": nats}


@pytest.mark.parametrize("num_micro_batches", [1, 2])
@pytest.mark.parametrize("bad", [{"x": np.nan}, {"x": np.inf}, {"y": np.inf}])
def test_a_step_that_is_not_finite_changes_nothing(num_micro_batches, bad):
    """One bad number of one row; momentum and average stay as well, and what follows is fine.

    Rate 1, momentum 0.5, gradient 2: w is 1, then -1, -1 (skipped), -1 - (1 + 2) = -4.
    """
    tx = optax.sgd(1.0, momentum=0.5)
    step = make_step(scaled, tx, num_micro_batches=num_micro_batches, ema_decay=0.9)
    step = jax.jit(skip_non_finite(step), donate_argnums=0)
    params = {"w": jnp.ones(())}
    now = state.create(params, tx.init(params), {"seen": jnp.ones(2)}, ema=params)
    good = {"x": np.full(4, 2.0, np.float32), "y": np.zeros(4, np.float32)}
    broken = {name: value.copy() for name, value in good.items()}
    for name, value in bad.items():
        broken[name][1] = value
    found, kept = [], []
    for batch in (good, broken, good):
        now, measures = step(now, batch, jax.random.key(0))
        found.append((float(now.params["w"]), float(measures["skipped"])))
        kept.append(jax.device_get((now.opt_state, now.extra, now.ema)))
    assert found == [(-1.0, 0.0), (-1.0, 1.0), (-4.0, 0.0)]
    assert int(now.step) == 3
    jax.tree.map(np.testing.assert_array_equal, kept[1], kept[0])


def test_steps_that_are_finite_are_the_same_with_and_without_the_choice():
    tx, key = optax.adam(0.1), jax.random.key(0)
    plain = jax.jit(make_step(loss_fn, tx))(begin(tx), make_batch(), key)
    choosing = jax.jit(skip_non_finite(make_step(loss_fn, tx)))(begin(tx), make_batch(), key)
    jax.tree.map(np.testing.assert_array_equal, choosing[0], plain[0])
    assert choosing[1].pop("skipped") == 0.0 and choosing[1] == plain[1]


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
