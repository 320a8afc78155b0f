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


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
@pytest.mark.parametrize("width", [2_048, 4_096])
def test_the_loss_keeps_half_a_gib_beside_inputs_gradients_and_the_head(width):
    # A process of its own: libtpu is initialised once, and keeps its environment.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(width)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    temporaries, results = json.loads(done.stdout.splitlines()[-1])
    gradients = 2 * NUM_TOKENS * width + 4 * NUM_IDS * width
    assert gradients <= results < 1.01 * gradients, "the accumulator is the table's gradient"
    assert temporaries - 2 * NUM_IDS * width <= 2**29
