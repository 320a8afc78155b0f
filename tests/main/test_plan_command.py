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
from poet.plan import planning

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


def test_a_topology_that_cannot_be_planned_loses_none_of_the_others(tmp_path, monkeypatch, capsys):
    seen = []

    def plan_train(run, sizes, topology, effort, say):
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        if topology.num_slices == 2:
            raise ValueError("no such\n mesh")
        return planning.Outcome(topology=topology, result=None, refusal="It does not fit.")

    monkeypatch.setattr(planning, "plan_train", plan_train)
    names = ("v5e:2x2@2", "v5e:2x2", "v5e:4x4")
    topologies = [word for name in names for word in ("--topology", name)]
    words = ["--gin_file", "gin/runs/tiny.gin", *topologies, *SMALL, "--out", str(tmp_path)]
    assert plan.main(words) == 2
    # Written after each, and not for one that was not planned alone.
    assert seen == [[], [], ["plan.json", "plan.md"]]
    text = (tmp_path / "plan.md").read_text()
    assert "v5e:2x2@2 was not planned: no such mesh" in text and "It does not fit." in text
    assert "error: v5e:2x2@2 was not planned" in capsys.readouterr().err


def test_macros_that_a_plan_does_not_need_get_a_value():
    assert plan._placeholders(["gin/runs/tiny.gin"], ["MODEL_DIR = 'x'"]) == [
        "DATA_DIR = 'not_used_by_a_plan'"
    ]
    found = plan._placeholders(["gin/runs/finetune_lora.gin"], [])
    assert "INIT_FROM = 'not_used_by_a_plan'" in found and len(found) == 3


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_a_tiny_step_is_compiled_for_slices_of_v5e(tmp_path):
    # A process of its own: libtpu is initialised once, and keeps its environment.
    words = ["--gin_file", "gin/runs/tiny.gin", "--groups", "1", *SMALL]
    words += ["--topology", "v5e:2x2", "--topology", "v5e:2x2@2"]
    command = [sys.executable, "-m", "poet.main.plan", *words, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, check=False)
    assert done.returncode == 0
    found, two = json.loads((tmp_path / "plan.json").read_text())
    assert found["fits"] and found["capacity_bytes"] == 15.75 * 2**30
    assert found["groups"][0]["collectives"] and found["replicated_arrays"] == {}
    # A run file with one copy of the state has one in each slice.
    assert found["notes"] == [] and two["settings"]["mesh"] == {"replica": 2, "fsdp": 4}
    assert "--gin.partitioning.MeshConfig.replica=2" in two["notes"][0]
    assert two["notes"][0] in (tmp_path / "plan.md").read_text()
