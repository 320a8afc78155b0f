"""What the loss keeps at the paper's vocabulary, by TPU's own compiler."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NUM_TOKENS, NUM_IDS = 65_536, 300_000
# A table of float32, as training has it: its cast to the type of the products is the gathered head.
PROGRAM = f"""
import json
import sys
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from poet.layers.tiled_loss import tiled_cross_entropy
from poet.plan import devices
from poet.plan.chips import parse_topology

chip = SingleDeviceSharding(devices.devices_of(parse_topology("v5p:2x2x1"))[0])
tokens, ids, width = {NUM_TOKENS}, {NUM_IDS}, int(sys.argv[1])

def loss(hidden, table, targets, weights):
    return tiled_cross_entropy(hidden, (table,), (ids,), targets, weights)[0]

def shape(dims, dtype):
    return jax.ShapeDtypeStruct(dims, dtype, sharding=chip)

with devices.compile_with("fast"):
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(
        shape((tokens, width), jnp.bfloat16), shape((ids, width), jnp.float32),
        shape((tokens,), jnp.int32), shape((tokens,), jnp.float32),
    ).compile()
found = compiled.memory_analysis()
print(json.dumps([found.temp_size_in_bytes, found.output_size_in_bytes]))
"""


# Six sequences a chip, 1,282 of whose positions predict, and the paper's codes of 8B.
ON_MESH = """
import json
import sys
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from poet.layers.tiled_loss import LossTiles, tiled_cross_entropy
from poet.plan import devices
from poet.plan.chips import parse_topology
from poet.train import partitioning

mesh = partitioning.make_mesh(devices=devices.devices_of(parse_topology("v5e:16x16")))
sizes, width, by_tile = (256, 262_144, 1024, 1024, 1024, 1024, 384), 4096, sys.argv[1] == "True"
tiles = LossTiles(num_ids=int(sys.argv[2]), gathers_by_tile=by_tile)

def shape(dims, dtype, *spec):
    return jax.ShapeDtypeStruct(dims, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

def loss(hidden, tables, targets, weights):
    with nn.logical_axis_rules(partitioning.RULES):
        return tiled_cross_entropy(hidden, tables, sizes, targets, weights, tiles)[0]

tokens = (6 * mesh.size, 1282)
hidden = shape((*tokens, width), jnp.bfloat16, "fsdp")
tables = tuple(shape((size, width), jnp.float32, None, "fsdp") for size in sizes)
placed = hidden.sharding, tuple(table.sharding for table in tables)
with devices.compile_with("fast"), jax.set_mesh(mesh):
    compiled = jax.jit(jax.grad(loss, (0, 1)), out_shardings=placed).lower(
        hidden, tables, shape(tokens, jnp.int32, "fsdp"), shape(tokens, jnp.float32, "fsdp")
    ).compile()
print(json.dumps(compiled.memory_analysis().temp_size_in_bytes))
"""


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
@pytest.mark.parametrize("width", [2_048, 4_096])
def test_the_loss_keeps_half_a_gib_beside_inputs_gradients_and_the_head(width):
    temporaries, results = _printed(PROGRAM, str(width))
    gradients = 2 * NUM_TOKENS * width + 4 * NUM_IDS * width
    assert gradients <= results < 1.01 * gradients, "the accumulator is the table's gradient"
    assert temporaries - 2 * NUM_IDS * width <= 2**29


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_by_tiles_a_chip_of_a_mesh_keeps_a_tenth():
    """10.2 GiB with the head whole, 1.1 by tiles of 16,384 ids, 0.6 by tiles of 4,096."""
    whole, large, small = (
        _printed(ON_MESH, *words)
        for words in (("False", "16384"), ("True", "16384"), ("True", "4096"))
    )
    assert small < 0.7 * 2**30 < large < 1.2 * 2**30 and whole > 8 * large


def _printed(program, *words):
    """What a program prints as JSON, of a process of its own: libtpu is initialised once, and keeps
    its environment."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
