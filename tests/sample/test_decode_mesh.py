"""Decoding on meshes: the codes of one device, and a loop that never gathers a table."""

import jax
import mesh_programs
import numpy as np
import pytest
import tiny_lm
from flax.core import meta

from poet.models.prefix_lm import PrefixLM
from poet.sample import decode
from poet.sample.requests import SamplingRequest
from poet.train import partitioning

REQUEST = SamplingRequest(seed=4, guidance=2.0)


def placed(params, boxed, mesh):
    return jax.device_put(params, partitioning.param_shardings(boxed, mesh))


def codes_of(params, decoding=None):
    made = decode.generate(
        decode.prepare_for_sampling(params, tiny_lm.CONFIG),
        tiny_lm.CONFIG,
        tiny_lm.plan_of("text_to_video"),
        tiny_lm.random_fields(batch_size=4),
        REQUEST,
        decoding=decoding,
    )
    return made["visual"]


@pytest.fixture(scope="module")
def codes_of_one():
    return codes_of(tiny_lm.lively_params())


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 2, 1, 2), (1, 1, 2, 2), (4, 1, 1, 1), (1, 1, 1, 4)])
def test_a_mesh_changes_no_code(codes_of_one, shape):
    mesh = mesh_programs.mesh_of(*shape)
    params = placed(tiny_lm.lively_params(), tiny_lm.boxed_params(), mesh)
    decoding = decode.Decoding(row_sharding=partitioning.batch_sharding(mesh))
    np.testing.assert_array_equal(codes_of(params, decoding), codes_of_one)


@pytest.mark.slow
def test_the_loop_over_tokens_gathers_no_table():
    config, mesh = mesh_programs.LARGE_VOCABULARY, mesh_programs.mesh_of(1, 2, 1, 2)
    plan, batch = mesh_programs.plan_and_batch(config)
    boxed = jax.eval_shape(
        lambda key: PrefixLM(config).init(key, plan, batch)["params"], jax.random.key(0)
    )
    start = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), meta.unbox(boxed))
    params = decode.prepare_for_sampling(placed(start, boxed, mesh), config)
    kernel = params["heads"]["visual"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (16, 2048), "head split over all devices"
    decoding = decode.Decoding(row_sharding=partitioning.batch_sharding(mesh))
    text = decode.compiled_loop(params, config, plan, mesh_programs.BATCH, decoding)
    assert max(mesh_programs.sizes_of(text)) <= mesh_programs.LARGE_TABLE // 4
    # What is gathered is a few numbers a row, such as what each device chose.
    gathers = mesh_programs.gathers(text)
    assert any(inside for _, inside in gathers) and max(gathers)[0] < 100 * mesh_programs.BATCH
