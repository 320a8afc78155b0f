"""Decoding on meshes: the codes of one device, and a loop that never gathers a table."""

import jax
import mesh_programs
import numpy as np
import pytest
import real_processes
from flax.core import meta

from poet.models.prefix_lm import PrefixLM
from poet.sample import decode
from poet.sample.requests import SamplingRequest
from poet.train import partitioning

REQUEST = SamplingRequest(seed=4, guidance=2.0)


def boxed_shapes(config):
    plan, batch = mesh_programs.plan_and_batch(config)
    key = jax.random.key(0)
    return jax.eval_shape(lambda key: PrefixLM(config).init(key, plan, batch)["params"], key)


def placed(params, config, mesh):
    return jax.device_put(params, partitioning.param_shardings(boxed_shapes(config), mesh))


def codes_by_mesh(shapes):
    """{mesh: visual codes of eight requests}, "one" for a single device."""
    config, params = mesh_programs.CONFIG, mesh_programs.params_of()
    plan, batch = mesh_programs.plan_and_batch(config)
    fields, found = {"text_ids": batch["text_ids"]}, {}
    for shape in [(1, 1, 1, 1), *shapes]:
        mesh = mesh_programs.mesh_of(*shape)
        weights = decode.prepare_for_sampling(placed(params, config, mesh), config)
        decoding = decode.Decoding(row_sharding=partitioning.batch_sharding(mesh))
        made = decode.generate(weights, config, plan, fields, REQUEST, decoding=decoding)
        found[str(tuple(shape))] = made["visual"].tolist()
    return {"one" if name == "(1, 1, 1, 1)" else name: codes for name, codes in found.items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_mesh_changes_no_code():
    shapes = mesh_programs.EIGHT
    found = real_processes.on_eight_devices(codes_by_mesh, shapes)
    one = np.array(found.pop("one"))
    assert one.shape == (mesh_programs.BATCH, *mesh_programs.CLIP.grid)
    assert len(np.unique(one)) > 6, "codes that all are alike would prove nothing"
    assert len(found) == len(shapes)
    for name, codes in found.items():
        np.testing.assert_array_equal(codes, one, err_msg=name)


@pytest.mark.slow
def test_the_loop_over_tokens_gathers_no_table():
    config, mesh = mesh_programs.LARGE_VOCABULARY, mesh_programs.mesh_of(1, 2, 1, 2)
    plan, _ = mesh_programs.plan_and_batch(config)
    shapes = meta.unbox(boxed_shapes(config))
    start = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    params = decode.prepare_for_sampling(placed(start, config, mesh), config)
    kernel = params["heads"]["visual"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (16, 2048), "head split over all devices"
    decoding = decode.Decoding(row_sharding=partitioning.batch_sharding(mesh))
    text = decode.compiled_loop(params, config, plan, mesh_programs.BATCH, decoding)
    assert max(mesh_programs.sizes_of(text)) <= mesh_programs.LARGE_TABLE // 4
    # What is gathered is a few numbers a row, such as what each device chose.
    gathers = mesh_programs.gathers(text)
    assert any(inside for _, inside in gathers) and max(gathers)[0] < 100 * mesh_programs.BATCH
