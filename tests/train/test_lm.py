"""Training the language model: golden losses, the command, sharding, refusals."""

import dataclasses
import json
import os
import pathlib
import shutil

import gin
import jax
import numpy as np
import pytest
import tiny_lm

from poet.data import registry
from poet.data.records import open_dataset
from poet.main import train as train_command
from poet.tokenizers.text import ByteTokenizer, WordTokenizer
from poet.train import checkpoint, lm, loop, metrics
from poet.train.lm_program import Evaluation, Updates
from poet.train.optimizer import OptimizerConfig
from poet.train.partitioning import MeshConfig

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "tiny_losses.json"
USER_TASK = """
from poet.data import registry
from poet.tokens import tasks, vocabulary

registry.register(
    "blink_twice",
    tasks.Task(
        "blink_twice",
        vocabulary.VIDEO,
        inputs=(tasks.Part("visual", "visual", 0, 2),),
        outputs=(tasks.Part("visual", "visual", 2),),
    ),
)
"""


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


@pytest.mark.parametrize(
    ("facts", "num_audio_frames"),
    [({"samples_per_audio_frame": 640}, 53), ({"samples_per_audio_frame": 320}, 106), ({}, 106)],
)
def test_the_hop_is_that_of_the_audio_tokenizer(tmp_path, write_small, facts, num_audio_frames):
    """34,000 samples are 53 whole frames of 640; a dataset that does not say it has 320."""
    dataset = open_dataset(write_small(tmp_path / "dataset", **facts))
    sizes = lm.sizes_of(dataset, ByteTokenizer(16))
    assert sizes.sound.num_audio_frames == num_audio_frames


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(9), WordTokenizer(9, 20)])
def test_the_text_tokenizer_comes_back_from_what_a_checkpoint_says(tokenizer):
    name = type(tokenizer).__name__
    facts = {"name": name, "fingerprint": tokenizer.fingerprint, **tokenizer.sizes}
    again = lm.text_tokenizer_from_meta({"text_tokenizer": facts})
    assert type(again) is type(tokenizer) and again.fingerprint == tokenizer.fingerprint
    with pytest.raises(ValueError, match="text tokenizer 'T5', this Poet has ByteTokenizer, Word"):
        lm.text_tokenizer_from_meta({"text_tokenizer": facts | {"name": "T5"}})
    with pytest.raises(ValueError, match="use the version of Poet that trained it"):
        lm.text_tokenizer_from_meta({"text_tokenizer": facts | {"num_slots": 10}})


def command(folder, dataset, *more):
    return train_command.main(
        ["--gin_file", "gin/runs/tiny.gin", f"--gin.MODEL_DIR={folder}"]
        + [f"--gin.DATA_DIR={dataset}", "--gin.partitioning.MeshConfig.num_devices=1", *more]
    )


def make_run(folder, dataset, **changes):
    """Six steps of unconditional video: one group, one program."""
    settings = {
        "data_dir": str(dataset),
        "mixture_or_task_name": "poet_unconditional",
        "model": tiny_lm.TRAINED,
        "batch_tokens": 300,
        "optimizer": OptimizerConfig(warmup_steps=0, learning_rate=1e-2),
        "evaluation": Evaluation(num_examples=0),
        "mesh": MeshConfig(num_devices=1),
    }
    steps = loop.LoopConfig(model_dir=str(folder), num_steps=6, save_period=3, log_period=1)
    return lm.LMRun(**settings | {"loop": steps} | changes)


@pytest.fixture(scope="module")
def golden_run(tmp_path_factory, small_dataset):
    """Ten steps of text-to-video, video-to-audio and a task of the user's own, by the command."""
    folder = tmp_path_factory.mktemp("golden")
    (folder / "my_tasks.py").write_text(USER_TASK)
    modules = ("tasks.paper", str(folder / "my_tasks.py"), str(folder / "mix.py"))
    (folder / "mix.py").write_text(
        "from poet.data import registry\n"
        "registry.register_mixture('golden_mix', {'poet_text_to_video': 1.0,"
        " 'poet_video_to_audio': 1.0, 'blink_twice': 1.0})\n"
    )
    code = command(
        folder / "model",
        small_dataset,
        f"--gin.TASK_MODULES={modules}",
        "--gin.MIXTURE_OR_TASK_NAME=golden_mix",
    )
    gin.clear_config()
    assert code == 0
    return folder / "model"


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, small_dataset):
    folder = tmp_path_factory.mktemp("one_device")
    return lm.train(make_run(folder, small_dataset)), folder


def losses(folder):
    return [row["loss_nats"] for row in metrics.read_metrics(folder) if row["kind"] == "train"]


def test_golden_losses_of_ten_steps(golden_run):
    got = losses(golden_run)
    if os.environ.get("POET_WRITE_GOLDEN") == "1":
        GOLDEN.write_text(json.dumps(got, indent=1) + "\n")
    # Other processors add in another order.
    np.testing.assert_allclose(got, json.loads(GOLDEN.read_text()), rtol=2e-4)
    assert got[-1] < got[0]


def test_a_users_task_trains_and_is_evaluated(golden_run):
    rows = metrics.read_metrics(golden_run)
    last = next(row for row in rows if row["kind"] == "eval")
    assert {f"loss_nats/validation/{n}" for n in ("blink_twice", "poet_text_to_video")} <= set(last)
    assert any("loss/blink_twice" in row for row in rows)
    parts = ("visual", "audio_0", "audio_1", "visual/frame_00", "visual/frame_04")
    assert {f"loss_nats/validation/by_part/{part}" for part in parts} <= set(last)
    assert {"accuracy/validation", "accuracy/validation/blink_twice"} <= set(last)


def test_checkpoints_say_what_they_are(golden_run, small_dataset):
    meta = checkpoint.read_meta(golden_run)
    assert meta["step"] == 10 and meta["kind"] == "prefix_lm"
    assert meta["tokenizers"] == {"visual": "abc", "audio": "def"}
    assert set(meta["tasks"]) == {"poet_text_to_video", "poet_video_to_audio", "blink_twice"}
    assert sum(p["examples"] for p in meta["data_positions"].values()) > 0
    assert "TRAIN_STEPS = 10" in meta["operative_config"]
    config = lm.model_from_meta(meta)
    assert config.vocabulary.to_dict() == meta["vocabulary"]
    assert config.num_layers == 2 and config.text.num_ids == 259
    assert lm.text_tokenizer_from_meta(meta).num_slots == 64
    params = checkpoint.load_params(golden_run)
    assert params["text_pad"].shape == (config.d_model,)


@pytest.mark.slow
def test_four_devices_go_on_where_one_stopped(one_device, small_dataset, tmp_path):
    want, before = one_device
    folder = tmp_path / "model"
    shutil.copytree(before, folder)
    shutil.rmtree(folder / checkpoint.FOLDER / "6")
    got = lm.train(make_run(folder, small_dataset, mesh=MeshConfig(num_devices=4)))
    assert len(jax.tree.leaves(got.params)[0].sharding.device_set) == 4
    specs = [leaf.sharding.spec for leaf in jax.tree.leaves(got.params)]
    assert any("fsdp" in str(spec) for spec in specs)
    np.testing.assert_allclose(losses(folder), losses(before), rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4), got.params, want.params
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "part", ["meta", *(pytest.param(name, marks=pytest.mark.slow) for name in ("params", "rest"))]
)
def test_a_damaged_newest_step_goes_on_from_the_one_before(
    one_device, small_dataset, tmp_path, capsys, caplog, part
):
    want, before = one_device
    folder = tmp_path / "model"
    shutil.copytree(before, folder)
    for path in (folder / checkpoint.FOLDER / "6" / part).rglob("*"):
        if path.is_file() and (path.parent.name == "d" or part == "meta"):
            path.write_bytes(path.read_bytes()[:5])
    got = lm.train(make_run(folder, small_dataset))
    assert "continuing from the checkpoint of step 3" in capsys.readouterr().err
    assert "Checkpoint 6 cannot be read; continuing from 3" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, got.params, want.params)
    assert checkpoint.read_meta(folder)["step"] == 6


@pytest.mark.slow
def test_a_restart_keeps_muon_and_dropout(one_device, small_dataset, tmp_path):
    """Momentum comes back from the checkpoint, and a step draws the same channels again."""
    run = make_run(
        tmp_path,
        small_dataset,
        model=dataclasses.replace(tiny_lm.TRAINED, dropout_rate=0.1),
        optimizer=OptimizerConfig(name="muon", warmup_steps=0, learning_rate=1e-2),
    )
    want = lm.train(run)
    before = losses(tmp_path)
    # The same start and batch, but channels are missing.
    assert abs(before[0] - losses(one_device[1])[0]) > 1e-4
    shutil.rmtree(tmp_path / checkpoint.FOLDER / "6")
    got = lm.train(run)
    assert losses(tmp_path) == before
    jax.tree.map(np.testing.assert_array_equal, got.params, want.params)


@pytest.mark.slow
def test_micro_batches_and_averages_on_two_devices(one_device, small_dataset, tmp_path):
    """The same losses in two parts a step; the average is sharded, saved, measured and resumed."""
    run = make_run(
        tmp_path,
        small_dataset,
        mesh=MeshConfig(num_devices=2),
        updates=Updates(num_micro_batches=2, ema_decay=0.9),
        evaluation=Evaluation(num_examples=8),
    )
    want = lm.train(run)
    # Twelve rows, which 2 x 2 divides, so that the batches are those of one device.
    np.testing.assert_allclose(losses(tmp_path), losses(one_device[1]), rtol=1e-4)
    places = [jax.tree.map(lambda leaf: leaf.sharding, tree) for tree in (want.ema, want.params)]
    assert places[0] == places[1]
    row = [row for row in metrics.read_metrics(tmp_path) if row["kind"] == "eval"][-1]
    assert row["loss_nats_ema/validation"] != row["loss_nats/validation"]
    averaged = checkpoint.load_params(tmp_path, averaged=True)
    jax.tree.map(np.testing.assert_array_equal, averaged, want.ema)
    shutil.rmtree(tmp_path / checkpoint.FOLDER / "6")
    jax.tree.map(np.testing.assert_array_equal, lm.train(run), want)


def test_the_loss_falls(one_device):
    got = losses(one_device[1])
    assert len(got) == 6 and got[-1] < got[0]


def test_a_run_with_other_settings_is_refused(one_device, small_dataset, write_small, tmp_path):
    folder = one_device[1]
    with pytest.raises(ValueError, match="differs in the batches .*batch_tokens was 300, is now 3"):
        lm.train(make_run(folder, small_dataset, batch_tokens=350))
    other = write_small(tmp_path / "other", seed=9)
    with pytest.raises(ValueError, match="step 6 of a run that differs in the dataset"):
        lm.train(make_run(folder, other))
    prints = write_small(tmp_path / "prints", fingerprints={"visual": "xyz", "audio": "def"})
    with pytest.raises(ValueError, match="tokenizers' fingerprints: visual was abc, is now xyz"):
        lm.train(make_run(folder, prints))
    table = write_small(tmp_path / "table", num_codes={"visual": 64, "audio": [16, 16]})
    with pytest.raises(ValueError, match="the id table: num_visual was 32, is now 64"):
        lm.train(make_run(folder, table))


def test_unfit_settings_are_refused(small_dataset, tmp_path):
    with pytest.raises(ValueError, match="Unknown task or mixture 'poet_sing'"):
        lm.train(make_run(tmp_path, small_dataset, mixture_or_task_name="poet_sing"))
    with pytest.raises(ValueError, match="does not exist, expected the --out of `poet prepare`"):
        lm.train(make_run(tmp_path, tmp_path / "absent"))
    with pytest.raises(ValueError, match="does not fit 4 device"):
        lm.train(make_run(tmp_path, small_dataset, mesh=MeshConfig(fsdp=3)))
    limits = dataclasses.replace(tiny_lm.TRAINED.limits, latent_frames=4)
    model = dataclasses.replace(tiny_lm.TRAINED, limits=limits)
    with pytest.raises(ValueError, match="5 latent frames, the model has positions for 4"):
        lm.train(make_run(tmp_path, small_dataset, model=model))
    assert not list(tmp_path.iterdir())


def test_a_dataset_without_facts_is_refused(write_small, tmp_path):
    dataset = write_small(tmp_path / "plain", num_codes=None)
    with pytest.raises(ValueError, match="does not say how its ids were made"):
        lm.train(make_run(tmp_path / "model", dataset))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--gin.TRAIN_STEP=3"], "Nothing reads TRAIN_STEP;"),
        (["--gin.loop.LoopConfig.colour=3"], "doesn't have a parameter named 'colour'"),
        (["--gin_file", "gin/runs/nothing.gin"], "There is no gin file 'gin/runs/nothing.gin'"),
        (["--gin.TRAIN_STEPS"], "has no value; write --gin.NAME=value"),
        (["--gin.TRAIN_STEPS=0"], "num_steps=0 must be at least 1"),
    ],
)
def test_bad_bindings_are_one_sentence_and_exit_2(small_dataset, tmp_path, capsys, more, words):
    assert command(tmp_path, small_dataset, *more) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_missing_macros_are_named(capsys):
    assert train_command.main(["--gin_file", "gin/runs/tiny.gin", "--gin.DATA_DIR=x"]) == 2
    assert "MODEL_DIR has no value" in capsys.readouterr().err
    assert train_command.main([]) == 2
    assert "No --gin_file was given" in capsys.readouterr().err


def test_the_registry_is_filled_by_modules():
    registry.load_task_modules(("tasks.paper", "tasks.mixtures"))
    assert "poet_pretrain" in registry.names()
