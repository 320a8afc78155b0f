"""Published tokenizers through every command, by configuration alone: prepare, train, generate."""

import json

import numpy as np
import pytest

from poet.data import records
from poet.main import cli
from poet.media import sound, video
from tests import tiny_published
from tools import adopt_tokenizer

pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]

# kind -> (samples a frame, samples a second)
SOUNDS = {"dac": (320, 16_000), "encodec": (320, 24_000), "mimi": (1920, 24_000)}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    counts = ("--num_train=8", "--num_validation=2", "--num_held_out=2")
    assert cli.main(["render", f"--out={folder}", *counts, "--size_px=32"]) == 0
    return folder


@pytest.mark.parametrize("kind", sorted(SOUNDS))
def test_prepare_train_and_generate_with_published_tokenizers(kind, clips, tmp_path):
    hop, rate_hz = SOUNDS[kind]
    tiny_published.save("emu3", tmp_path / "emu3")
    tiny_published.save(kind, tmp_path / kind)
    tokenizers, dataset, model = (tmp_path / name for name in ("tokenizers", "dataset", "model"))
    half = "[0.5, 0.5, 0.5]"
    for place, name, more in (
        ("visual", "emu3", (f"mean={half}", f"std={half}")),
        ("audio", kind, ("num_levels=2",)),
    ):
        argv = [f"--kind={name}", f"--out={tokenizers / place}"]
        settings = (f"folder={tmp_path / name}", *more)
        assert adopt_tokenizer.main([*argv, *(f"--set={text}" for text in settings)]) == 0

    argv = [f"--media={clips}", f"--tokenizers={tokenizers}", "--size_px=32"]
    assert cli.main(["prepare", *argv, f"--out={dataset}"]) == 0
    made = records.open_dataset(dataset)
    assert made.splits == {"train": 8, "validation": 2, "held_out": 2}
    num_frames = round(2.125 * rate_hz) // hop
    record = made.read("train", 0)
    assert record["visual"].shape == (5, 4, 4) and record["audio"].shape == (2, num_frames)

    argv = ["--gin_file=gin/runs/tiny.gin", f"--gin.MODEL_DIR={model}", f"--gin.DATA_DIR={dataset}"]
    assert cli.main(["train", *argv, "--gin.TRAIN_STEPS=2"]) == 0

    argv = [f"--checkpoint={model}", f"--tokenizers={tokenizers}", f"--out={tmp_path / 'made'}"]
    asked = ["--task=text_to_video", "--then=video_to_audio", "--prompt=a red circle"]
    assert cli.main(["generate", *asked, *argv]) == 0
    (answer,) = (tmp_path / "made").glob("*.mp4")
    assert video.read_video(answer, 8.0).shape[0] == 17
    # The sound has the clip's length at whatever rate its tokenizer has.
    assert video.probe(answer).sample_rate_hz == rate_hz
    assert abs(len(sound.read_sound(answer)) / 16_000 - 2.125) < 0.1
    ids = json.loads(answer.with_suffix(".json").read_text())["ids"]
    assert np.asarray(ids["visual"]).shape == (5, 4, 4)
    assert np.asarray(ids["audio"]).shape == (2, num_frames)

    # Weights that changed under the folder are noticed before anything is generated.
    weights = tmp_path / kind / "config.json"
    weights.write_text(weights.read_text().replace("{", '{"note": 1,', 1))
    assert cli.main(["generate", *asked, *argv, "--seed=1"]) == 2
