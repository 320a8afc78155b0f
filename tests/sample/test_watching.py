"""Samples of a run while it trains: files, numbers, and a training that does not notice."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_checkpoint
import tiny_lm
from etils import epath

from poet.data import registry
from poet.media import video
from poet.sample import SamplingRequest, watching
from poet.sample.watching import FixedPrompts, token_accuracy
from poet.tokenizers.text import WordTokenizer
from poet.train import lm, loop, metrics
from poet.train.lm_program import Evaluation, Updates
from poet.train.optimizer import OptimizerConfig
from poet.train.partitioning import MeshConfig

NUM_STEPS = 4


MIXTURE = "watched_mix"


# One short run that samples, and what it wrote: half a minute.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Clips, tokenizers without weights and a dataset."""
    registry.load_task_modules(["tasks.paper"])
    registry.register_mixture(MIXTURE, {"poet_text_to_video": 1.0, "poet_video_to_audio": 1.0})
    return tiny_checkpoint.make_dataset(tmp_path_factory.mktemp("watched"))


class Overheard:
    """A sampler that passes on what it is told, and keeps it."""

    def __init__(self, sampler):
        self.sampler, self.run = sampler, None

    def start(self, run):
        self.run = run
        return self.sampler.start(run)


def make_run(world, folder, sampler=None, **changes):
    """Four steps of text-to-video and video-to-audio, with an average of the weights."""
    steps = loop.LoopConfig(
        model_dir=str(folder),
        num_steps=NUM_STEPS,
        log_period=1,
        sample_period=0 if sampler is None else 2,
    )
    settings = {
        "data_dir": str(world / "dataset"),
        "mixture_or_task_name": MIXTURE,
        "model": tiny_lm.TRAINED,
        "text_tokenizer": WordTokenizer(16, 300),
        "batch_tokens": 300,
        "optimizer": OptimizerConfig(warmup_steps=0, learning_rate=1e-2),
        "updates": Updates(ema_decay=0.9),
        "evaluation": Evaluation(num_examples=0),
        "mesh": MeshConfig(num_devices=1),
    }
    return lm.LMRun(**settings | {"loop": steps, "sampler": sampler} | changes)


@pytest.fixture(scope="module")
def watched(world, tmp_path_factory):
    """(state, MODEL_DIR, what samplers are told) of a run that shows pictures."""
    folder = tmp_path_factory.mktemp("watched_model")
    sampler = Overheard(FixedPrompts(tokenizers=str(world / "tokenizers"), num_examples=2))
    state = lm.train(make_run(world, folder, sampler))
    return state, folder, sampler.run


def test_training_does_not_notice(world, watched, tmp_path):
    alone = lm.train(make_run(world, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, watched[0], alone)
    losses = [
        [row["loss_nats"] for row in metrics.read_metrics(folder) if row["kind"] == "train"]
        for folder in (watched[1], tmp_path)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == NUM_STEPS
    assert not (tmp_path / "samples").exists()


def test_files_and_numbers_of_every_look(world, watched):
    folder = watched[1] / "samples"
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]
    assert sorted(path.name for path in (folder / "4").iterdir()) == [
        "poet_text_to_video.json",
        "poet_text_to_video.png",
        "poet_text_to_video_0.mp4",
        "poet_text_to_video_1.mp4",
        "poet_video_to_audio.json",
        "poet_video_to_audio_0.mp4",
        "poet_video_to_audio_1.mp4",
    ]
    clip = video.read_video(folder / "4" / "poet_text_to_video_1.mp4", 8.0)
    assert clip.shape == (17, 64, 64, 3)
    rows = [json.loads((folder / at / "poet_text_to_video.json").read_text()) for at in ("2", "4")]
    assert rows[0]["captions"] == rows[1]["captions"] and len(set(rows[0]["captions"])) == 2
    made, wanted = (np.array(rows[1][name]["visual"]) for name in ("made", "wanted"))
    assert made.shape == wanted.shape == (2, 5, 2, 2)
    assert rows[1]["token_accuracy"] == pytest.approx((made == wanted).mean())
    sampled = [row for row in metrics.read_metrics(watched[1]) if row["kind"] == "sample"]
    assert [row["step"] for row in sampled] == [2, 4]
    name = "token_accuracy/poet_text_to_video"
    assert sampled[1][name] == pytest.approx(rows[1]["token_accuracy"])
    last = [row for row in metrics.read_metrics(watched[1]) if row["kind"] == "goodput"][-1]
    assert last["sample_s"] > 0


def test_rows_of_a_run_carry_what_a_researcher_looks_at(watched):
    rows = [row for row in metrics.read_metrics(watched[1]) if row["kind"] == "train"]
    everything = set().union(*rows)
    assert {"loss/poet_text_to_video", "loss/poet_video_to_audio"} <= everything
    assert {"grad_norm", "learning_rate", "data_wait_share", "tokens_per_second"} <= everything
    assert {"host_memory_gib", "model_tflops_per_second"} <= everything
    assert "mfu" not in everything  # of a processor nobody knows the peak
    assert rows[0]["learning_rate"] == pytest.approx(1e-2)


def test_averaged_weights_are_those_decoded(world, watched):
    """The engine on the checkpoint's averages gives the ids of the last look."""
    from poet.sample.loading import load_engine

    engine = load_engine(watched[1], world / "tokenizers", averaged=True)
    row = json.loads((watched[1] / "samples/4/poet_text_to_video.json").read_text())
    given = {"prompts": row["captions"]}
    made = engine.generate("text_to_video", given, range(2), SamplingRequest())
    assert made["visual"].tolist() == row["made"]["visual"]


def test_without_tokenizers_ids_alone_are_written_whole(watched, tmp_path):
    state, folder, run = watched
    run = dataclasses.replace(run, model_dir=tmp_path)
    look = FixedPrompts(tasks=("poet_text_to_video",), num_examples=2).start(run)
    for _ in range(2):  # a run that was killed makes it again
        assert set(look(state.params | state.ema, 4)) == {"token_accuracy/poet_text_to_video"}
    (path,) = tmp_path.rglob("*.*")
    assert path == tmp_path / "samples" / "4" / "poet_text_to_video.json"
    with_tokenizers = folder / "samples" / "4" / "poet_text_to_video.json"
    assert path.read_text() == with_tokenizers.read_text()


def test_a_remote_folder_gets_the_files(watched, tmp_path, monkeypatch):
    made, final = tmp_path / "made", epath.Path(tmp_path / "bucket" / "samples" / "4")
    made.mkdir()
    (made / "a.json").write_text("{}")
    monkeypatch.setattr(watching, "_is_remote", lambda folder: True)
    watching._publish(made, final)
    assert (final / "a.json").read_text() == "{}"


def test_equal_tokens_are_counted_over_the_output_alone():
    plan = tiny_lm.plan_of("image_to_video")
    wanted = tiny_lm.random_fields()
    made = {"visual": wanted["visual"].copy()}
    assert token_accuracy(plan, wanted, made) == 1.0
    made["visual"][:, 0] += 1  # the given picture: not written by the model
    made["visual"][0, 1] += 1  # 2 of 2 x 4 x 2 tokens
    assert token_accuracy(plan, wanted, made) == 1 - 2 / 16


def test_a_run_without_held_out_clips_shows_those_it_trains_on(watched):
    run = dataclasses.replace(watched[2], splits=())
    (prompt, *_) = FixedPrompts(num_examples=1).start(run)._prompts
    _, _, captions = run.batches.examples(prompt.task.name, "train", 1)
    assert prompt.captions == captions
    with pytest.raises(ValueError, match="There is no split 'test', only"):
        FixedPrompts(split="test").start(run)


def test_what_cannot_be_sampled_is_refused_at_the_start(world, tmp_path):
    with pytest.raises(ValueError, match="sample_period=2 needs something that samples"):
        run = make_run(world, tmp_path)
        dataclasses.replace(run, loop=dataclasses.replace(run.loop, sample_period=2))
    with pytest.raises(ValueError, match="num_examples=0 must be 1 or more"):
        FixedPrompts(num_examples=0)
    with pytest.raises(ValueError, match="'poet_sing' is not trained here"):
        lm.train(make_run(world, tmp_path, FixedPrompts(tasks=("poet_sing",))))
    with pytest.raises(ValueError, match="Expected a trained visual tokenizer"):
        lm.train(make_run(world, tmp_path, FixedPrompts(tokenizers=str(tmp_path))))
    assert not list(tmp_path.iterdir())
