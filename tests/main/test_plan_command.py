"""`poet plan` from gin files to tables, for the devices here; and for a TPU with its compiler."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import gin
import pytest

from poet.main import plan

ROOT = pathlib.Path(__file__).parents[2]
SMALL = [
    "--gin.sizes.TokenSizes.num_visual=64",
    "--gin.sizes.TokenSizes.audio_levels=()",
    "--gin.sizes.TokenSizes.height_px=16",
    "--gin.sizes.TokenSizes.width_px=16",
    "--gin.BATCH_TOKENS=1024",
    "--gin.config.PrefixLMConfig.num_layers=1",
    "--gin.MIXTURE_OR_TASK_NAME=poet_unconditional",
]


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


def test_a_run_file_is_planned_without_a_dataset(tmp_path, capsys):
    out = tmp_path / "plan"
    words = ["--gin_file", "gin/runs/tiny.gin", "--topology", "here", "--groups", "1", *SMALL]
    assert plan.main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "| poet_unconditional |" in said.out and "compiling update" in said.err
    (found,) = json.loads((out / "plan.json").read_text())
    assert found["settings"]["codes"] == [64] and len(found["groups"]) == 1
    assert "MFU calibrated" in (out / "plan.md").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--topology", "here"], "No --gin_file was given"),
        (["--gin_file", "gin/runs/tiny.gin", "--topology", "v5e-16"], "write CHIP:SIDExSIDE"),
        (
            [
                "--gin_file",
                "gin/runs/tiny.gin",
                "--topology",
                "here",
                "--gin.sizes.TokenSizes.num_visual=1",
            ],
            "num_visual=1 must be 2 or more",
        ),
    ],
)
def test_wrong_calls_are_refused(words, sentence, capsys):
    assert plan.main(words) == 2
    assert sentence in capsys.readouterr().err


def test_macros_that_a_plan_does_not_need_get_a_value():
    assert plan._placeholders(["gin/runs/tiny.gin"], ["MODEL_DIR = 'x'"]) == [
        "DATA_DIR = 'not_used_by_a_plan'"
    ]


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_a_tiny_step_is_compiled_for_four_chips_of_v5e(tmp_path):
    # A process of its own: libtpu is initialised once, and keeps its environment.
    words = ["--gin_file", "gin/runs/tiny.gin", "--topology", "v5e:2x2", "--groups", "1", *SMALL]
    command = [sys.executable, "-m", "poet.main.plan", *words, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, check=False)
    assert done.returncode == 0
    (found,) = json.loads((tmp_path / "plan.json").read_text())
    assert found["fits"] and found["capacity_bytes"] == 15.75 * 2**30
    assert found["groups"][0]["collectives"] and found["replicated_arrays"] == {}
