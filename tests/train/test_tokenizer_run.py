"""Tokenizer training: batches by counter, the cache, refusals, and one tiny run of the command."""

import shutil

import gin
import numpy as np
import pytest

from poet.main import train_tokenizer
from poet.media import images, write
from poet.tokenizers import protocol
from poet.train import loop, metrics, tokenizer_media, tokenizer_run
from poet.train.tokenizer_run import AudioRecipe, VisualRecipe

TINY_SOUND = [
    "--gin.soundstream.SoundStreamConfig.base_channels=2",
    "--gin.AudioLossConfig.mel_window_samples=(64,)",
]


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Two clips with a tone each."""
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    for number in range(2):
        frames = rng.integers(0, 255, (17, 32, 32, 3), dtype=np.uint8)
        wave = 0.3 * np.sin(np.arange(34_000) * 0.05 * (number + 1)).astype(np.float32)
        write.write_video(folder / f"{number}.mp4", frames, 8.0, sound=wave)
        (folder / f"{number}.txt").write_text("a clip")
    return folder


def command(media, out, *more):
    return train_tokenizer.main(
        ["--gin_file=gin/tokenizers/audio_tiny.gin", f"--media={media}", f"--out={out}"]
        + [*TINY_SOUND, *more]
    )


def test_the_command_trains_continues_and_saves(media, tmp_path, capsys):
    assert command(media, tmp_path / "audio") == 0
    facts = protocol.read_config(tmp_path / "audio")
    assert facts["config"]["num_levels"] == 2 and facts["config"]["codebook_size"] == 16
    assert metrics.read_metrics(tmp_path / "audio" / "train")[-1]["step"] == 4
    # Done already: the same tokenizer, at once.
    assert command(media, tmp_path / "audio") == 0
    assert protocol.read_config(tmp_path / "audio") == facts
    assert command(media, tmp_path / "audio", "--gin.AudioRecipe.batch_size=3") == 2
    assert "holds step 4 of a run with other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_lost_its_end_gives_the_same_tokenizer_to_the_bit(media, tmp_path):
    out = tmp_path / "audio"
    assert command(media, out) == 0
    whole = protocol.read_config(out)["fingerprint"]
    last = out / "train" / "checkpoints" / "4"
    assert last.is_dir() and (last.parent / "2").is_dir()
    # As if killed after step 2 was saved: codebooks and optimizer go on from there.
    shutil.rmtree(last)
    (out / "config.json").unlink()
    (out / "weights.npz").unlink()
    assert command(media, out) == 0
    assert [row["step"] for row in metrics.read_metrics(out / "train")][-1] == 4
    assert last.is_dir() and protocol.read_config(out)["fingerprint"] == whole


@pytest.mark.slow
def test_the_first_files_are_enough_if_asked(media, tmp_path):
    assert command(media, tmp_path / "audio", "--gin.TokenizerRun.num_files=1") == 0
    (cached,) = (tmp_path / "audio" / "cache").iterdir()
    assert len(np.load(cached)) == 1, "a stretch of one file, not of two"
    with pytest.raises(ValueError, match="num_files=-1 must be 0 or more"):
        tokenizer_run.TokenizerRun(recipe=AudioRecipe(), num_steps=1, num_files=-1)


def test_the_loop_is_set_by_gin_and_no_part_of_what_a_run_is(media, tmp_path, monkeypatch):
    seen = []

    def stop(program, settings, meta):
        seen.extend([settings, meta(0)["settings"]])
        raise loop.Stopped(3)

    monkeypatch.setattr(loop, "run", stop)
    values = {"stall_minutes": 20.0, "check_period": 7, "straggler_period": 3, "num_kept": 5}
    values |= {"straggler_factor": 1.5, "profile_first": 4, "profile_steps": 6}
    more = [f"--gin.TokenizerRun.{name}={value}" for name, value in values.items()]
    assert command(media, tmp_path / "audio", *more, "--exit_code_when_stopped=75") == 75
    settings, saved = seen
    assert {name: getattr(settings, name) for name in values} == values
    assert settings.num_steps == 4 and settings.save_period == 2
    # A run by a Poet that did not have these goes on.
    assert not saved.keys() & values.keys() and saved["seed"] == 0
    assert command(media, tmp_path / "audio", "--gin.TokenizerRun.straggler_factor=1") == 2


def test_visual_batches_follow_from_seed_and_step():
    recipe = VisualRecipe(
        height_px=2,
        width_px=2,
        frames_per_batch=20,
        length_shares=((5, 0.5), (17, 0.5)),
        image_steps=3,
        images_per_batch=7,
    )
    clips = np.arange(3 * 17, dtype=np.uint8).reshape(3, 17, 1, 1, 1)
    clips = np.broadcast_to(clips, (3, 17, 2, 2, 3))
    first, again = recipe.batch_at(clips, 7), recipe.batch_at(clips, 7)
    groups = set()
    for step in range(20):
        name, batch = first(step)
        groups.add((name, batch.shape[:2]))
        np.testing.assert_array_equal(batch, again(step)[1])
        assert (np.diff(batch[:, :, 0, 0, 0].astype(int), axis=1) == 1).all()
        assert (name == "images") == (step < 3)
        # What is compiled ahead must fit what comes.
        promised = recipe.batches()[name]
        assert (batch.shape, batch.dtype) == (promised.shape, promised.dtype)
    assert groups == {("images", (7, 1)), ("5_frames", (4, 5)), ("17_frames", (1, 17))}


def test_a_share_of_the_crops_is_hidden():
    clips = np.full((1, 17, 4, 4, 3), 9, np.uint8)
    sizes = {"height_px": 4, "width_px": 4, "images_per_batch": 400, "image_steps": 1}
    for share in (0.0, 0.5, 1.0):
        batch = VisualRecipe(**sizes, hidden_share=share).batch_at(clips, 0)(0)[1]
        changed = (batch == 0).any(axis=(1, 2, 3, 4))
        # Three of eight regions are filled with black, which alone shows on a flat clip.
        assert abs(changed.mean() - 3 / 8 * share) < 0.05
        assert (batch[~changed] == 9).all() and batch.shape == (400, 1, 4, 4, 3)
    with pytest.raises(ValueError, match="hidden_share=2 a share"):
        VisualRecipe(hidden_share=2)


def test_audio_batches_are_what_is_compiled():
    recipe = AudioRecipe(crop_samples=640, batch_size=3)
    group, batch = recipe.batch_at(np.zeros((2, 1000), np.float32), 0)(0)
    promised = recipe.batches()[group]
    assert (batch.shape, batch.dtype) == (promised.shape, promised.dtype)


def test_frames_and_sounds_are_read(media):
    rows = tokenizer_media.rows_of_split(str(media), "train")
    frames = tokenizer_media.read_frames(
        rows, height_px=16, width_px=16, num_frames=17, frames_per_second=8.0
    )
    assert frames.shape == (2, 17, 16, 16, 3) and frames.dtype == np.uint8
    waves = tokenizer_media.read_sounds(rows, num_samples=16_000, sample_rate_hz=16_000)
    assert waves.shape == (4, 16_000) and np.abs(waves).max() > 0.1


def test_the_cache_is_used(tmp_path):
    path = tmp_path / "cache" / "a.npy"
    made = tokenizer_media.cached(path, lambda: np.arange(3))
    np.testing.assert_array_equal(tokenizer_media.cached(path, lambda: None), made)
    assert [item.name for item in path.parent.iterdir()] == ["a.npy"]


def test_nothing_to_train_on_is_refused(media, tmp_path):
    rows = tokenizer_media.rows_of_split(str(media), "train")
    with pytest.raises(ValueError, match="None of 2 files gives a stretch of 99999999 samples"):
        tokenizer_media.read_sounds(rows, num_samples=99_999_999, sample_rate_hz=16_000)
    with pytest.raises(ValueError, match="has no clips of split 'test', only of train"):
        tokenizer_media.rows_of_split(str(media), "test")
    (tmp_path / "empty").mkdir()
    run = tokenizer_run.TokenizerRun(recipe=AudioRecipe(), num_steps=1)
    with pytest.raises(ValueError, match="empty"):
        tokenizer_run.train(run, str(tmp_path / "empty"), tmp_path / "out")


def test_unfit_recipes_are_refused():
    with pytest.raises(ValueError, match="length_shares has 6 frames"):
        VisualRecipe(length_shares=((6, 1.0),))
    with pytest.raises(ValueError, match="crop_samples=1000 must be whole frames of 320"):
        AudioRecipe(crop_samples=1000)
    with pytest.raises(ValueError, match="batch_size=0 and grid_samples=1 must be at least"):
        AudioRecipe(batch_size=0)


@pytest.mark.slow
def test_a_folder_of_images_trains_and_is_looked_at(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        images.write_image(tmp_path / "pictures" / f"{number}.png", pixels)
    argv = ["--gin_file=gin/tokenizers/visual_tiny.gin", f"--media={tmp_path / 'pictures'}"]
    argv += [f"--out={tmp_path / 'out'}", "--gin.TRAIN_STEPS=2", "--gin.VisualRecipe.image_steps=0"]
    argv += ["--gin.VisualRecipe.num_frames=1", "--gin.VisualRecipe.length_shares=((1, 1.0),)"]
    argv += ["--gin.VisualRecipe.height_px=16", "--gin.VisualRecipe.width_px=16"]
    argv += ["--gin.TokenizerRun.preview_period=1", "--gin.VisualRecipe.frames_per_batch=2"]
    assert train_tokenizer.main(argv) == 0
    rows = metrics.read_metrics(tmp_path / "out" / "train")
    looked_at = [row for row in rows if row["kind"] == "eval"]
    assert [row["step"] for row in looked_at] == [1, 2]
    assert {"psnr_db_first", "ssim_first"} <= looked_at[0].keys()
    assert protocol.load(tmp_path / "out").encode(np.zeros((1, 1, 16, 16, 3))).shape == (1, 1, 2, 2)
