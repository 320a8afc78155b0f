"""Steps compiled in two halves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.train import state as train_state
from poet.train.compiling import BackgroundCompiler, compiled_step, step_compiles
from poet.train.step import TrainStep


def gradients(state, batch, key):
    """The batch's mean, with a draw that depends on the step."""
    noise = jax.random.normal(jax.random.fold_in(key, state.step))
    return batch.mean() + noise, {"loss": batch.sum()}


def update(state, passed, key):
    del key
    return state.replace(step=state.step + 1, params=state.params + passed), {"moved": passed}


def init(key):
    return train_state.create(jax.random.normal(key), ())


@pytest.fixture
def compiler():
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def shard(tree):
        return jax.tree.map(lambda leaf: here, tree)

    def placed(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)

    batches = {
        "short": placed(jax.ShapeDtypeStruct((2,), np.float32)),
        "long": placed(jax.ShapeDtypeStruct((3,), np.float32)),
    }
    state = jax.tree.map(placed, jax.eval_shape(init, jax.random.key(0)))
    step = TrainStep(gradients=gradients, update=update)
    return BackgroundCompiler(step_compiles(step, state, batches, shard))


def test_compiled_halves_are_the_step(compiler):
    key = jax.random.key(3)
    whole = TrainStep(gradients=gradients, update=update)
    expected, state = init(key), init(key)
    for group, size in (("short", 2), ("long", 3), ("short", 2)):
        batch = jnp.arange(size, dtype=jnp.float32)
        expected, wanted = whole(expected, batch, key)
        state, measures = compiled_step(compiler, group)(state, batch, key)
        assert measures.keys() == {"loss", "moved"}
        assert measures["loss"] == wanted["loss"] == size * (size - 1) / 2
        np.testing.assert_allclose(state.params, expected.params, rtol=1e-6)
    assert int(state.step) == 3


def test_the_update_is_compiled_once_and_donates_the_state(compiler):
    assert len(compiler._compiles) == 3
    state = init(jax.random.key(0))
    compiled_step(compiler, "short")(state, jnp.ones(2), jax.random.key(0))
    assert state.params.is_deleted()
