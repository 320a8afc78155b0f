"""The language model's training step on meshes: numbers of one device, programs without copies."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import mesh_programs
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
# replica x fsdp x sequence x tensor, over four devices.
FOUR = [
    (1, 2, 1, 2),
    (1, 1, 2, 2),
    (2, 1, 2, 1),
    (4, 1, 1, 1),
    (1, 4, 1, 1),
    (1, 1, 4, 1),
    (1, 1, 1, 4),
]
# Over eight.
EIGHT = [(1, 1, 8, 1), (1, 1, 1, 8), (2, 2, 2, 1), (2, 2, 1, 2), (2, 1, 2, 2), (1, 2, 2, 2)]


@pytest.fixture(scope="module")
def params():
    return mesh_programs.params_of()


@pytest.fixture(scope="module")
def one(params):
    return mesh_programs.loss_and_gradients(mesh_programs.mesh_of(1, 1, 1, 1), params)


@pytest.mark.slow
@pytest.mark.parametrize("shape", FOUR)
def test_four_devices_give_the_numbers_of_one(shape, params, one):
    plan, _ = mesh_programs.plan_and_batch()
    assert (plan.length - 1) % 4 and (plan.length - 1 - plan.prefix_length) % 4, "padding is tried"
    assert np.abs(one["layers/block/key/kernel"]).max() > 1e-4, "gradients are more than rounding"
    got = mesh_programs.loss_and_gradients(mesh_programs.mesh_of(*shape), params)
    off = mesh_programs.differences(got, one)
    assert max(off.values()) < 1e-5, sorted(off.items(), key=lambda item: -item[1])[:5]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 2, 1, 2), (1, 2, 2, 1)])
def test_the_compiled_step_has_no_copy_of_the_head(shape):
    """Each table's width is gathered once, before the loops; nothing is as large as it is whole."""
    config, mesh = mesh_programs.LARGE_VOCABULARY, mesh_programs.mesh_of(*shape)
    text = mesh_programs.programs_on(mesh, config)[0].compile_gradients("it").as_text()
    gathered = mesh_programs.LARGE_TABLE // shape[-1]
    assert max(mesh_programs.sizes_of(text)) <= gathered
    large = [g for g in mesh_programs.gathers(text) if g[0] >= gathered]
    assert large == [(gathered, False)] * 2, "one of the embedding, one of the head"


CHILD = """
import json, sys
import mesh_programs
from poet.tokens.schedule import RASTER, Schedule
params, found = mesh_programs.params_of(), {}
for schedule in (RASTER, Schedule("diagonal")):
    shapes = json.loads(sys.argv[1])[schedule.name]
    one = mesh_programs.loss_and_gradients(
        mesh_programs.mesh_of(1, 1, 1, 1), params, schedule=schedule)
    for shape in shapes:
        mesh = mesh_programs.mesh_of(*shape)
        got = mesh_programs.loss_and_gradients(mesh, params, schedule=schedule)
        found[f"{schedule.name} {shape}"] = mesh_programs.differences(got, one)
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eight_devices_give_the_numbers_of_one():
    """In a process of its own, because this one has four; the diagonal order has rows to pad."""
    shapes = {"raster": EIGHT, "diagonal": [(1, 2, 4, 1)]}
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    words = [sys.executable, "-c", CHILD, json.dumps(shapes)]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == len(EIGHT) + 1
    for shape, off in found.items():
        assert max(off.values()) < 1e-5, (shape, sorted(off.items(), key=lambda x: -x[1])[:5])
