"""The visual tokenizer on four devices: the numbers of one."""

import functools

import jax
import numpy as np
import optax
import pytest

from poet.tokenizers.adversarial import AdversarialConfig
from poet.tokenizers.discriminator import DiscriminatorConfig
from poet.tokenizers.magvit2 import MagvitConfig
from poet.train import compiling, partitioning, tokenizer_run, visual_step
from poet.train.partitioning import MeshConfig

MODEL = MagvitConfig(
    base_channels=8, multipliers=(1, 1, 2, 2), blocks_per_stage=1, norm_groups=2, num_bits=6
)
LOSSES = visual_step.VisualLossConfig(
    ema_decay=0.9,
    discriminator=DiscriminatorConfig(base_channels=4, multipliers=(1, 2)),
    adversarial=AdversarialConfig(r1_weight=0.0, learning_rate=1e-4),
)
SHAPE = (4, 1, 16, 16, 3)
NUM_STEPS = 2
# Programs that run twice are compiled fast rather than well.
FAST = {"xla_backend_optimization_level": 0}


def trained(mesh):
    """Measures of every step on `mesh`, and the state after them."""
    tx = optax.adam(1e-4)
    init = functools.partial(
        visual_step.init, config=MODEL, loss_config=LOSSES, tx=tx, clip_shapes=[SHAPE[1:4]]
    )
    shard = functools.partial(partitioning.shardings_by_size, mesh=mesh, min_size=64)
    shapes = jax.eval_shape(init, jax.random.key(0))
    sharded = jax.tree.map(compiling.with_sharding, shapes, shard(shapes))
    rows = compiling.with_sharding(
        jax.ShapeDtypeStruct(SHAPE, np.uint8), partitioning.batch_sharding(mesh)
    )
    step = visual_step.make_step(MODEL, LOSSES, tx)
    compiler = compiling.BackgroundCompiler(
        compiling.step_compiles(step, sharded, {"images": rows}, shard, FAST)
    )
    run = compiling.compiled_step(compiler, "images")
    key = jax.random.key(0)
    state = compiling.run_once(init, key, out_shardings=shard(shapes))
    seen = []
    for number in range(NUM_STEPS):
        draw = np.random.default_rng(number)
        batch = draw.integers(0, 256, SHAPE, dtype=np.uint8)
        state, measures = run(state, partitioning.place_rows(batch, mesh), key)
        seen.append(jax.device_get(measures))
    return seen, state


@pytest.fixture(scope="module")
def one():
    return trained(partitioning.make_mesh(MeshConfig(num_devices=1)))


@pytest.fixture(scope="module")
def four():
    return trained(partitioning.make_mesh(MeshConfig()))


@pytest.mark.slow
def test_four_devices_give_the_losses_of_one(one, four):
    for expected, found in zip(one[0], four[0], strict=True):
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            # The norm is over thousands of rounded sums, in another order.
            rtol = 1e-4 if name == "grad_norm" else 1e-5
            np.testing.assert_allclose(found[name], value, rtol=rtol, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_parameters_moments_and_discriminators_are_split(four):
    state = four[1]
    kernel = state.params["encoder"]["down_0"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (*kernel.shape[:-1], kernel.shape[-1] // 4)
    for tree in (state.opt_state, state.extra["ema"], state.extra["game"]):
        assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(tree))


def test_a_run_takes_as_many_devices_as_divide_its_batches():
    assert partitioning.mesh_for_rows(None, [8, 12]).size == 4
    assert partitioning.mesh_for_rows(None, [6, 4]).size == 2
    assert partitioning.mesh_for_rows(None, [5, 4]).size == 1
    assert partitioning.mesh_for_rows(MeshConfig(num_devices=3), [4]).size == 3


def test_batches_that_do_not_divide_are_refused():
    batches = {"images": jax.ShapeDtypeStruct((6, 1), np.uint8)}
    with pytest.raises(ValueError, match=r"6 rows \(images\) cannot be split over 4 devices"):
        tokenizer_run.check_rows(batches, partitioning.make_mesh())
