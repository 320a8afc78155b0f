"""Real files, portrait, rotated, odd and broken ones, through every task that takes them."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

from poet.main import cli
from poet.media import images, sound, video

_REPOSITORY = pathlib.Path(__file__).parents[2]
CLIPS = pathlib.Path(os.environ.get("POET_CLIPS", _REPOSITORY.parent / "shared" / "clips"))
BROKEN = "broken_header.mp4"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not CLIPS.is_dir(), reason="the real files are not there"),
]

# Kind of request -> (what a file is given as, ending, whether the answer has sound).
TASKS = {
    "text_to_image": ("", ".png", False),
    "text_to_video": ("", ".mp4", False),
    "image_to_video": ("video", ".mp4", False),
    "continue": ("video", ".mp4", False),
    "inpaint": ("video", ".mp4", False),
    "outpaint": ("video", ".webm", False),
    "stylize": ("video", ".gif", False),
    "audio_to_video": ("audio", ".mp4", True),
    "video_to_audio": ("video", ".mp4", True),
    "continue_with_sound": ("video", ".mp4", True),
    "text_to_video_with_sound": ("", ".mp4", True),
    "unconditional": ("", ".mp4", False),
}
NEEDS_SOUND = ("audio_to_video", "continue_with_sound")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of all tasks that was hardly trained, with the folder of its tokenizers."""
    out = tmp_path_factory.mktemp("real")
    clips, tokenizers = out / "clips", out / "tokenizers"
    counts = ["--num_train=24", "--num_validation=8", "--num_held_out=0"]
    run("render", f"--out={clips}", *counts)
    for kind in ("visual", "audio"):
        gin = f"--gin_file=gin/tokenizers/{kind}_tiny.gin"
        run("train-tokenizer", gin, f"--media={clips}", f"--out={tokenizers / kind}")
    argv = [f"--media={clips}", f"--tokenizers={tokenizers}", "--size_px=32", "--regions", "all"]
    run("prepare", *argv, "--structure=exact", f"--out={out / 'dataset'}")
    argv = ["--gin_file=gin/runs/tiny.gin", f"--gin.MODEL_DIR={out / 'model'}"]
    argv += [f"--gin.DATA_DIR={out / 'dataset'}", "--gin.TRAIN_STEPS=1", "--gin.EVAL_PERIOD=9"]
    run("train", *argv, "--gin.MIXTURE_OR_TASK_NAME='poet_pretrain_with_sound'")
    return out / "model", tokenizers


def run(*argv):
    assert cli.main([str(word) for word in argv]) == 0, argv


def files_of(task):
    """Files that a task takes, with the broken one where any are."""
    field = TASKS[task][0]
    if not field:
        return []
    found = sorted(path for path in CLIPS.iterdir() if path.suffix in (".mp4", ".webm", ".mov"))
    found.append(CLIPS / "bbb_title_mpeg2.ts")
    if task in NEEDS_SOUND:
        silent = [path for path in found if path.name != BROKEN and not sound.has_sound(path)]
        assert silent, "some have no sound"
        found = [path for path in found if path not in silent]
    return found


@pytest.mark.parametrize("task", TASKS)
def test_every_file_becomes_one_that_plays(model, tmp_path, task):
    field, ending, has_sound = TASKS[task]
    prompt = {"prompt": "a red circle"} if "text" in task or task == "stylize" else {}
    rows = [{"name": path.stem, field: str(path)} | prompt for path in files_of(task)]
    requests = tmp_path / "requests.jsonl"
    rows = rows or [{"name": "alone"} | prompt]
    requests.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = [f"--checkpoint={model[0]}", f"--tokenizers={model[1]}", f"--out={tmp_path / 'made'}"]
    argv += [f"--task={task}", f"--requests={requests}", "--batch_size=16"]
    argv += [f"--format={ending[1:]}"] if ending != ".png" else []
    code = cli.main(["generate", *argv])
    broken = pathlib.Path(BROKEN).stem
    is_broken = any(row["name"] == broken for row in rows)
    assert code == is_broken, "a row that failed is told"
    for row in rows:
        told = json.loads((tmp_path / "made" / f"{row['name']}.json").read_text())
        if row["name"] == broken:
            assert BROKEN in told["error"]
            continue
        path = tmp_path / "made" / told["file"]
        assert path.suffix == ending and told["has_sound"] == has_sound
        check_file(path, has_sound)


def check_file(path, has_sound):
    """Square, 17 frames at 8 a second, sound as long as the picture; ffprobe agrees."""
    if path.suffix == ".png":
        assert images.image_size(path) == (128, 128)
        return
    frames = video.read_video(path, 8.0)
    assert frames.shape == (17, 128, 128, 3)
    assert abs(video.probe(path).duration_s - 17 / 8) < 0.07
    if has_sound:
        heard = sound.read_sound(path)
        assert abs(len(heard) / 16_000 - 17 / 8) < 0.07
    if shutil.which("ffprobe"):
        words = ["ffprobe", "-v", "error", "-count_frames", "-show_entries"]
        words += ["stream=codec_type,width,height,nb_read_frames", "-of", "json", str(path)]
        found = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
        streams = {stream["codec_type"]: stream for stream in found["streams"]}
        assert set(streams) == ({"video", "audio"} if has_sound else {"video"})
        shown = streams["video"]
        assert (shown["width"], shown["height"], shown["nb_read_frames"]) == (128, 128, "17")
