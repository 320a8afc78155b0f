"""A run that begins with another's parameters and goes on in another order of tokens."""

import dataclasses
import functools
import json
import shutil

import gin
import jax
import numpy as np
import pytest
import tiny_lm

from poet.main import train as train_command
from poet.tokenizers.text import ByteTokenizer
from poet.tokens.schedule import Schedule
from poet.train import checkpoint, lm, loop, metrics
from poet.train.lm_program import Evaluation
from poet.train.optimizer import OptimizerConfig
from poet.train.partitioning import MeshConfig

# Tokens of a frame are 2 x 2: the second line begins beside the end of the first.
DIAGONAL = Schedule("diagonal")
# A step of it moves nothing that can be seen.
STILL = OptimizerConfig(warmup_steps=0, learning_rate=1e-30)
# What adapts the tiny run.
GIN = """
from __gin__ import dynamic_registration
from poet.tokens import schedule
from poet.train import lm

include 'gin/runs/tiny.gin'

INIT_FROM = %gin.REQUIRED
MIXTURE_OR_TASK_NAME = 'poet_unconditional'
lm.LMRun.init_from = %INIT_FROM
lm.LMRun.schedule = @schedule.Schedule()
schedule.Schedule.name = 'diagonal'
"""


def make_run(folder, dataset, num_steps=8, **changes):
    settings = {
        "data_dir": str(dataset),
        "mixture_or_task_name": "poet_unconditional",
        "model": tiny_lm.TRAINED,
        "batch_tokens": 300,
        "optimizer": OptimizerConfig(warmup_steps=0, learning_rate=1e-2),
        "evaluation": Evaluation(num_examples=0),
        "mesh": MeshConfig(num_devices=1),
    }
    steps = loop.LoopConfig(
        model_dir=str(folder), num_steps=num_steps, save_period=50, log_period=1
    )
    return lm.LMRun(**settings | {"loop": steps} | changes)


def losses(folder):
    return [row["loss_nats"] for row in metrics.read_metrics(folder) if row["kind"] == "train"]


@pytest.fixture(scope="module")
def raster(tmp_path_factory, small_dataset):
    folder = tmp_path_factory.mktemp("raster")
    return lm.train(make_run(folder, small_dataset)).params, folder


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, small_dataset, raster):
    """Four steps in diagonal order that begin where the raster run ended, with held-out losses."""
    folder = tmp_path_factory.mktemp("adapted")
    run = make_run(
        folder,
        small_dataset,
        num_steps=4,
        init_from=str(raster[1]),
        schedule=DIAGONAL,
        evaluation=Evaluation(num_examples=8),
    )
    return lm.train(run), folder, run


@pytest.mark.slow
def test_a_fresh_run_begins_with_the_parameters(raster, small_dataset, tmp_path):
    """A step that moves nothing shows them, whatever the mesh; the step counts from 0."""
    more = {"init_from": str(raster[1]), "optimizer": STILL, "mesh": MeshConfig()}
    got = lm.train(make_run(tmp_path, small_dataset, num_steps=1, **more))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-20), got.params, raster[0])
    assert int(got.step) == 1
    assert len(jax.tree.leaves(got.params)[0].sharding.device_set) == 4


@pytest.mark.slow
def test_a_run_with_8_bit_products_begins_with_plain_parameters(raster, small_dataset, tmp_path):
    """Names and shapes are the same; the first loss is near that of plain products, not equal."""
    pytest.importorskip("qwix", reason="qwix is not installed: make setup EXTRAS=quant")
    first = {}
    for matmuls in ("plain", "int8"):
        model = dataclasses.replace(tiny_lm.TRAINED, matmuls=matmuls)
        more = {"init_from": str(raster[1]), "optimizer": STILL, "model": model}
        got = lm.train(make_run(tmp_path / matmuls, small_dataset, num_steps=1, **more))
        jax.tree.map(np.testing.assert_array_equal, got.params, raster[0])
        (first[matmuls],) = losses(tmp_path / matmuls)
    assert 0 < abs(first["int8"] / first["plain"] - 1) < 0.02, first


def test_the_loss_falls_in_the_other_order(adapted, raster):
    got = losses(adapted[1])
    assert len(got) == 4 and got[-1] < got[0] < losses(raster[1])[0]


@pytest.mark.slow
def test_heads_and_positions_may_be_spread(adapted, tmp_path):
    """Two devices share the heads and the rows of every sequence, and find the same losses."""
    mesh = MeshConfig(num_devices=2, fsdp=1, sequence=2)
    steps = dataclasses.replace(adapted[2].loop, model_dir=str(tmp_path))
    nothing = Evaluation(num_examples=0)
    lm.train(dataclasses.replace(adapted[2], loop=steps, mesh=mesh, evaluation=nothing))
    np.testing.assert_allclose(losses(tmp_path), losses(adapted[1]), rtol=1e-4)


@pytest.mark.slow
def test_held_out_losses_are_in_the_order_of_training(adapted, tmp_path):
    """The same parameters, asked in raster order, give another number."""
    run = dataclasses.replace(adapted[2], init_from=str(adapted[1]), optimizer=STILL)
    found = []
    for schedule in (DIAGONAL, Schedule()):
        folder = tmp_path / schedule.name
        steps = loop.LoopConfig(model_dir=str(folder), num_steps=1)
        lm.train(dataclasses.replace(run, schedule=schedule, loop=steps))
        rows = metrics.read_metrics(folder)
        found.append(next(r for r in rows if r["kind"] == "eval")["loss_nats/validation"])
    last = [row for row in metrics.read_metrics(adapted[1]) if row["kind"] == "eval"][-1]
    assert found[0] == pytest.approx(last["loss_nats/validation"], rel=1e-6)
    assert abs(found[1] - found[0]) > 1e-4


def test_checkpoints_say_where_a_run_began_and_in_which_order(adapted, raster):
    meta = checkpoint.read_meta(adapted[1])
    assert meta["schedule"] == {"name": "diagonal", "slope": 0.0}
    assert meta["init_from"] == {"model_dir": str(raster[1]), "step": 8}
    assert checkpoint.read_meta(raster[1])["schedule"] == {"name": "raster", "slope": 0.0}
    assert checkpoint.read_meta(raster[1])["init_from"] is None


def test_a_run_that_goes_on_ignores_where_it_began(adapted, tmp_path):
    run, folder = adapted[2], tmp_path / "model"
    shutil.copytree(adapted[1], folder)
    steps = dataclasses.replace(run.loop, model_dir=str(folder), num_steps=5)
    again = lm.train(dataclasses.replace(run, init_from="gone", loop=steps))
    assert int(again.step) == 5
    meta = checkpoint.read_meta(folder)
    assert meta["step"] == 5 and meta["init_from"]["step"] == 8


def test_a_run_keeps_its_order(raster, small_dataset):
    words = "differs in the order of visual tokens: name was raster, is now diagonal"
    with pytest.raises(ValueError, match=words):
        lm.train(make_run(raster[1], small_dataset, schedule=DIAGONAL))


def test_older_checkpoints_are_raster(raster, small_dataset, tmp_path):
    facts = checkpoint.read_meta(raster[1])
    older = {k: v for k, v in facts.items() if k not in ("schedule", "init_from")}
    path = tmp_path / "checkpoints" / "8" / "meta" / "metadata"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(older))
    assert lm.check_same_run(tmp_path, facts)["init_from"] is None
    with pytest.raises(ValueError, match="was raster, is now diagonal"):
        lm.check_same_run(tmp_path, facts | {"schedule": {"name": "diagonal", "slope": 0.0}})


def test_unfit_beginnings_are_refused(raster, small_dataset, write_small, tmp_path):
    folder, begin = tmp_path / "model", {"init_from": str(raster[1])}
    with pytest.raises(ValueError, match="init_from=.*absent should be .* holds no checkpoint; tr"):
        lm.train(make_run(folder, small_dataset, init_from=str(tmp_path / "absent")))
    wide = dataclasses.replace(tiny_lm.TRAINED, mlp_dim=96)
    words = r"parameter layers/block/mlp/\w+/kernel is \(1, .*64.*\) in the checkpoint and .*96"
    with pytest.raises(ValueError, match=words + ".* give the model that run's sizes"):
        lm.train(make_run(folder, small_dataset, model=wide, **begin))
    prints = write_small(tmp_path / "prints", fingerprints={"visual": "xyz", "audio": "def"})
    words = "agrees in the tokenizers' fingerprints, but in step 8 of .* visual is abc, here xyz;"
    with pytest.raises(ValueError, match=words):
        lm.train(make_run(folder, prints, **begin))
    table = write_small(tmp_path / "table", num_codes={"visual": 64, "audio": [16, 16]})
    with pytest.raises(ValueError, match="the id table, .* num_visual is 32, here 64; use"):
        lm.train(make_run(folder, table, **begin))
    short = dataclasses.replace(tiny_lm.TRAINED, text_slots=12)
    words = r"agrees in the text tokenizer, but in step 8 .* fingerprint is \w+, here \w+;"
    with pytest.raises(ValueError, match=words):
        text = {"model": short, "text_tokenizer": ByteTokenizer(12)}
        lm.train(make_run(folder, small_dataset, **text, **begin))
    assert not folder.exists()


@pytest.mark.slow
def test_the_command_adapts(raster, small_dataset, tmp_path, capsys):
    (tmp_path / "adapt.gin").write_text(GIN)
    asked = {"DATA_DIR": small_dataset, "partitioning.MeshConfig.num_devices": 1}

    def train(name, **more):
        values = [f"--gin.{key}={value}" for key, value in (asked | more).items()]
        return train_command.main(["--gin_file", name, *values])

    first = tmp_path / "first"
    task = {"MIXTURE_OR_TASK_NAME": "poet_unconditional"}
    assert train("gin/runs/tiny.gin", MODEL_DIR=first, TRAIN_STEPS=3, **task) == 0
    gin.clear_config()
    second = tmp_path / "second"
    assert train(str(tmp_path / "adapt.gin"), MODEL_DIR=second, TRAIN_STEPS=3, INIT_FROM=first) == 0
    gin.clear_config()
    said = capsys.readouterr()
    assert "begun with: step 3 of " in said.err + said.out
    assert "order of tokens: diagonal, slope 0.0" in said.err + said.out
    assert losses(second)[0] < losses(first)[0]
