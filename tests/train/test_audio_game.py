"""The audio tokenizer against its discriminators, on four devices and in bfloat16."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from poet.tokenizers import audio
from poet.tokenizers.audio_discriminators import AudioDiscriminatorConfig
from poet.tokenizers.soundstream import SoundStreamConfig
from poet.train import audio_step, compiling, partitioning
from poet.train.audio_step import AudioLossConfig
from poet.train.partitioning import MeshConfig

MODEL = SoundStreamConfig(
    base_channels=4, strides=(4, 5), latent_dim=4, num_levels=2, codebook_size=8
)
LOSSES = AudioLossConfig(
    mel_window_samples=(64,),
    mel_floor=1e-2,
    dead_below=2.0,
    discriminator=AudioDiscriminatorConfig(
        wave_channels=4,
        wave_max_channels=8,
        num_rates=2,
        stft_window_samples=64,
        stft_channels=4,
        stft_multipliers=(1, 2),
    ),
)
SHAPE = (4, 400)
NUM_STEPS = 3
# Programs that run a few times are compiled fast rather than well.
FAST = {"xla_backend_optimization_level": 0}


def batch_of(step):
    time_s = np.arange(SHAPE[1]) / 16_000
    draw = np.random.default_rng(step)
    hertz = draw.uniform(200, 2_000, (SHAPE[0], 1))
    noise = 0.1 * draw.normal(size=SHAPE)
    return (0.5 * np.sin(2 * np.pi * hertz * time_s) + noise).astype(np.float32)


def trained(mesh, losses=LOSSES, num_steps=NUM_STEPS):
    """Measures of every step on `mesh`, and the states after them."""
    tx = optax.adam(1e-3)
    init = functools.partial(
        audio_step.init, config=MODEL, tx=tx, loss_config=losses, crop_samples=SHAPE[1]
    )
    shard = functools.partial(partitioning.shardings_by_size, mesh=mesh, min_size=64)
    shapes = jax.eval_shape(init, jax.random.key(0))
    sharded = jax.tree.map(compiling.with_sharding, shapes, shard(shapes))
    rows = compiling.with_sharding(
        jax.ShapeDtypeStruct(SHAPE, np.float32), partitioning.batch_sharding(mesh)
    )
    step = audio_step.make_step(MODEL, losses, tx)
    run = compiling.compiled_step(
        compiling.BackgroundCompiler(
            compiling.step_compiles(step, sharded, {"crops": rows}, shard, FAST)
        ),
        "crops",
    )
    state = compiling.run_once(init, jax.random.key(0), out_shardings=shard(shapes))
    seen, codebooks = [], []
    for number in range(num_steps):
        placed = partitioning.place_rows(batch_of(number), mesh)
        state, measures = run(state, placed, jax.random.key(0))
        seen.append(jax.device_get(measures))
        codebooks.append(jax.device_get(state.extra["codebooks"]))
    return seen, codebooks, state


@pytest.fixture(scope="module")
def one():
    return trained(partitioning.make_mesh(MeshConfig(num_devices=1)))


@pytest.fixture(scope="module")
def four():
    return trained(partitioning.make_mesh(MeshConfig()))


@pytest.mark.slow
def test_four_devices_place_and_move_the_codes_of_one(one, four):
    for expected, found in zip(one[0], four[0], strict=True):
        for name, value in expected.items():
            rtol = 1e-4 if name == "grad_norm" else 1e-5
            np.testing.assert_allclose(found[name], value, rtol=rtol, atol=1e-5, err_msg=name)
    for left, right in zip(one[1], four[1], strict=True):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), left, right
        )
    # Codes died and were placed again: the comparison includes the draw of their places.
    first, second = one[1][0], one[1][1]
    moved = np.abs(second.centroids - first.centroids).max(axis=-1)
    assert (moved > 0.1).any()


@pytest.mark.slow
def test_every_device_has_the_same_codebooks(four):
    for leaf in jax.tree.leaves(four[2].extra["codebooks"]):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        if leaf.sharding.is_fully_replicated:
            for copy in copies[1:]:
                np.testing.assert_array_equal(copy, copies[0])


@pytest.mark.slow
def test_the_game_is_measured_and_moves_both_sides(one):
    names = {"adversarial", "features", "discriminator", "logit_real", "logit_fake"}
    assert names <= one[0][0].keys()
    assert one[0][0]["discriminator"] == pytest.approx(2.0, abs=0.5)
    assert one[0][-1]["discriminator"] < one[0][0]["discriminator"]
    assert audio.tokenizer_params(one[2])["centroids"].shape == (2, 8, 4)


@pytest.mark.slow
def test_bfloat16_is_near_float32(one):
    losses = dataclasses.replace(LOSSES, compute_dtype="bfloat16")
    mesh = partitioning.make_mesh(MeshConfig(num_devices=1))
    seen, codebooks, state = trained(mesh, losses, num_steps=1)
    for name in ("loss", "mel", "adversarial", "discriminator", "commitment"):
        np.testing.assert_allclose(seen[0][name], one[0][0][name], rtol=0.05, err_msg=name)
    assert seen[0]["loss"] != one[0][0]["loss"]
    for leaf in jax.tree.leaves((codebooks[0].centroids, state.params)):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()
