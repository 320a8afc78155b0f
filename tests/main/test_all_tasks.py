"""Every task of the paper in one training run on the shapes world, from rendered files on."""

import os
import subprocess
import sys

import pytest

from poet.data import registry
from poet.data.records import open_dataset
from poet.demo import sizes, stages
from poet.evals import condition_swap
from poet.train import checkpoint, lm

# Two cores, 20 minutes if nothing else runs, over an hour beside two other jobs: tokenizers of
# `make demo`, conditions, 4,000 steps.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

TRAIN_STEPS = 4000


def run(*argv):
    """A command in a process of its own: this one compiles for tests, without optimization."""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "poet.main.cli", *map(str, argv)]
    subprocess.run(command, check=True, env=env)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder with clips, tokenizers, a dataset with all conditions and a trained model."""
    folder = tmp_path_factory.mktemp("all")
    for stage in stages.stages(sizes.QUICK, folder):
        if stage.name in ("render", "visual_tokenizer", "audio_tokenizer"):
            run(*stage.argv)
    prepare = ["--media", folder / "clips", "--tokenizers", folder / "tokenizers"]
    prepare += ["--out", folder / "dataset", "--regions", "all", "--structure", "exact"]
    run("prepare", *prepare, "--size_px", sizes.QUICK.size_px)
    # Sound says little of a clip (its colour, when it hits a wall), so that this takes longest:
    # with this weight two steps of three.
    weights = "--gin.lm.LMRun.task_weights={'poet_audio_to_video': 2.0}"
    model = f"--gin.MODEL_DIR={folder / 'model'}"
    files = ["--gin_file", "gin/runs/shapes_all_tasks.gin", f"--gin.DATA_DIR={folder / 'dataset'}"]
    steps = [
        f"--gin.TRAIN_STEPS={TRAIN_STEPS}",
        f"--gin.EVAL_PERIOD={TRAIN_STEPS}",
        "--gin.SAMPLE_PERIOD=0",
    ]
    run("train", *files, model, *steps, weights)
    return folder


def test_every_task_listens_to_its_condition(out):
    """Below the unigram entropy; another's condition costs 0.1 nats or a tenth."""
    meta = checkpoint.read_meta(out / "model")
    registry.load_task_modules(["tasks.paper", "tasks.mixtures"])
    rows = condition_swap.measure(
        checkpoint.load_params(out / "model"),
        lm.model_from_meta(meta),
        open_dataset(out / "dataset"),
        [(registry.get(name), share) for name, share in meta["tasks"].items()],
        lm.text_tokenizer_from_meta(meta),
        split="validation",
    )
    print("\n".join(condition_swap.lines(rows)))
    whole = {row.task: row for row in reversed(rows)}
    assert len(whole) == 20
    for name, row in whole.items():
        assert row.nats < row.entropy, name
        if row.part:
            assert row.listens, (name, row.nats, row.swapped)
