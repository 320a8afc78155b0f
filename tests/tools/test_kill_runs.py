"""The tool that kills runs, on a program that only sleeps, and on small checkpoints."""

import importlib.util
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from poet.train import state
from poet.train.checkpoint import Checkpoints

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "kill_runs.py"
SLEEPS = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[-1].removeprefix("--gin.MODEL_DIR="))
with open(folder / "begun.txt", "a") as file:
    file.write(" ".join(sys.argv[1:-1]) + "\\n")
is_second = len((folder / "begun.txt").read_text().split()) == 2
time.sleep(0.0 if is_second else 60.0)
"""


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("kill_runs", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_run_is_killed_goes_on_and_is_not_made_again(tool, tmp_path):
    program = (sys.executable, "-c", SLEEPS)
    row = tool.run_to_end(["train"], tmp_path, [3.0, 60.0], program)
    assert row["kills"] == 1 and row["seconds"] < 60
    assert (tmp_path / "begun.txt").read_text() == "train\ntrain\n"
    assert tool.run_to_end(["other"], tmp_path, [0.1], program) == row
    assert (tmp_path / "begun.txt").read_text() == "train\ntrain\n"


def test_a_program_that_fails_is_told(tool, tmp_path):
    with pytest.raises(SystemExit, match="ended with code 3; see .*log.txt"):
        tool.run_to_end(["train"], tmp_path, program=(sys.executable, "-c", "raise SystemExit(3)"))
    assert not (tmp_path / "done.json").exists()


def test_one_bit_is_a_difference(tool, tmp_path):
    value = np.linspace(0.0, 1.0, 12, dtype=np.float32).reshape(3, 4)
    changed = value.copy()
    changed.view(np.uint32)[2, 1] ^= 1
    for name, kept in (("one", value), ("two", value), ("three", changed)):
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(state.create({"w": jnp.asarray(kept)}, {}), {})
    assert tool.equal_params(tmp_path / "one", tmp_path / "two")
    assert not tool.equal_params(tmp_path / "one", tmp_path / "three")


def test_kernels_are_those_of_the_first_run(tool, tmp_path):
    tool.take_kernels(tmp_path / "first", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    kept = tmp_path / "first" / "autotuning" / "jaxlib_1"
    kept.mkdir(parents=True)
    (kept / "product.textproto").write_text("config")
    tool.take_kernels(tmp_path / "first", tmp_path / "other")
    copy = tmp_path / "other" / "autotuning" / "jaxlib_1" / "product.textproto"
    assert copy.read_text() == "config"
    (kept / "later.textproto").write_text("config")
    tool.take_kernels(tmp_path / "first", tmp_path / "other")
    assert not copy.with_name("later.textproto").exists(), "a run that has begun keeps its own"
