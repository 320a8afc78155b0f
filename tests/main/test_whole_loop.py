"""Every command once, end to end, on a few rendered clips, with the gin files of the tiny demo."""

import json
import shutil

import jax
import numpy as np
import pytest

from poet import sample
from poet.data import records
from poet.demo import report, runner, scores, sizes, stages
from poet.main import cli
from poet.media import images, sound, video
from poet.tokenizers import protocol, visual

# One fixture makes everything, most of it by compiling: a minute or two on a quiet machine.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A finished demo, its stages run in this process."""
    folder = tmp_path_factory.mktemp("demo")
    scores.claim_folder(folder, sizes.TINY, seed=0)
    for stage in stages.stages(sizes.TINY, folder):
        assert cli.main(list(stage.argv)) == 0, stage.command
        record = runner.StageRecord(command=stage.command, seconds=1.0, is_finished=True)
        path = folder / "stages" / f"{stage.name}.json"
        runner.write_json(path, vars(record))
    return folder


def test_the_dataset_holds_every_clip(out):
    dataset = records.open_dataset(out / "dataset")
    assert dataset.splits == {"train": 24, "validation": 8, "held_out": 24}
    record = dataset.read("train", 0)
    assert record["visual"].shape == (5, 4, 4) and record["audio"].shape == (2, 106)


def test_generated_files_play_and_have_sound(out):
    rows = report.read_rows(out / "samples" / "text_to_video" / "samples.jsonl")
    assert len(rows) == 4 and all(row["has_sound"] for row in rows)
    path = out / "samples" / "text_to_video" / rows[0]["file"]
    assert video.read_video(path, 8.0).shape == (17, 128, 128, 3)
    assert abs(len(sound.read_sound(path)) / 16_000 - 2.125) < 0.1


def test_given_frames_stay_as_they_were(out):
    folder = out / "samples" / "future_prediction"
    name = report.read_rows(folder / "samples.jsonl")[0]["name"]
    made = json.loads((folder / f"{name}.json").read_text())["ids"]["visual"]
    dataset = records.open_dataset(out / "dataset")
    whole = dataset.read("held_out", 0)
    assert whole["clip_id"] == name
    # The tokenizer is causal: ids of the first 9 frames are the first 3 latent frames of the clip.
    np.testing.assert_array_equal(np.asarray(made)[:3], whole["visual"][:3])


def test_a_second_run_gives_the_same_ids(out, tmp_path):
    stage = next(s for s in stages.stages(sizes.TINY, out) if s.name == "image_to_video")
    argv = [w for w in stage.argv if not w.startswith("--out=")]
    assert cli.main([*argv, f"--out={tmp_path}"]) == 0
    for row in report.read_rows(tmp_path / "samples.jsonl"):
        again = json.loads((tmp_path / f"{row['name']}.json").read_text())
        first = json.loads((out / "samples" / "image_to_video" / f"{row['name']}.json").read_text())
        assert again["ids"] == first["ids"]


def test_the_report_plays_without_a_network(out):
    todo = stages.stages(sizes.TINY, out)
    records_ = runner.read_records(todo, out)
    found = scores.write_scores(out, records_)
    page = report.write_report(out, todo, records_).read_text()
    assert page.count("<video") == 4 + 2 + 2 and "data:video/mp4;base64," in page
    assert "http" not in page and "poet render" in page
    for name in (
        "reconstruction_psnr_db", "reconstruction_psnr_in_box_db", "codes_used", "shape_accuracy",
        "colour_accuracy", "direction_accuracy", "all_three_accuracy", "pitch_accuracy",
        "sound_picture_agreement", "click_f1", "continuation_in_bounds", "total_seconds",
        "peak_gib",
    ):  # fmt: skip
        assert set(found[name]) == {"value", "clips", "low", "high"}


def test_the_demo_starts_from_what_is_finished(out, capsys):
    assert cli.main(["demo", "--tiny", f"--out={out}", "--report_only"]) == 0
    printed = capsys.readouterr().out
    assert "direction_accuracy" in printed and "report.html" in printed
    assert (out / "demo.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("dataset", "dataset"),
        ("model", "checkpoint"),
        ("tokenizers/visual", "is a tokenizer (visualtokenizer)"),
        ("tokenizers/audio", "is a tokenizer (audiotokenizer)"),
        ("clips/train/train_000000.mp4", "is a video"),
        ("clips/manifest.tsv", "56"),
    ],
)
def test_inspect_says_what_everything_is(out, capsys, path, words):
    assert cli.main(["inspect", str(out / path)]) == 0
    assert words in capsys.readouterr().out.lower()


def test_swapped_files_of_the_renderer_swap_their_ids(out, tmp_path):
    """Nothing of the renderer is left but two files and the manifest: ids come from the files."""
    clips = tmp_path / "clips"
    (clips / "train").mkdir(parents=True)
    names = ["train_000000.mp4", "train_000001.mp4"]
    for name, other in zip(names, reversed(names), strict=True):
        shutil.copy(out / "clips" / "train" / name, clips / "train" / other)
    lines = (out / "clips" / "manifest.tsv").read_text().splitlines()
    (clips / "manifest.tsv").write_text("\n".join(lines[:3]) + "\n")
    argv = ["prepare", f"--media={clips}", f"--tokenizers={out / 'tokenizers'}", "--size_px=32"]
    assert cli.main([*argv, f"--out={tmp_path / 'dataset'}"]) == 0
    swapped, whole = (records.open_dataset(path / "dataset") for path in (tmp_path, out))
    for index in (0, 1):
        mine, other = swapped.read("train", index), whole.read("train", 1 - index)
        assert mine["clip_id"] == whole.read("train", index)["clip_id"]
        for name in ("visual", "audio"):
            np.testing.assert_array_equal(mine[name], other[name])


def test_another_request_of_the_same_name_replaces_nothing_unasked(out, tmp_path, capsys):
    argv = ["generate", "--task=text_to_image", f"--checkpoint={out / 'model'}"]
    argv += [f"--tokenizers={out / 'tokenizers'}", f"--out={tmp_path}"]

    def made(*more):
        assert cli.main([*argv, *more]) == 0
        return json.loads((tmp_path / "0000.json").read_text())

    first = made("--prompt=a red circle")
    changed = (tmp_path / "0000.png").stat().st_mtime_ns
    assert made("--prompt=a red circle") == first
    assert (tmp_path / "0000.png").stat().st_mtime_ns == changed, "the same request, kept"
    assert cli.main([*argv, "--prompt=a blue square"]) == 2
    assert "is there already and was made from something else" in capsys.readouterr().err
    assert made("--prompt=a blue square", "--overwrite")["prompt"] == "a blue square"
    other = made("--prompt=a blue square", "--overwrite", "--seed=1")
    assert other["ids"] != first["ids"]


def test_a_checkpoint_of_other_tokenizers_is_refused(out, tmp_path, capsys):
    shutil.copytree(out / "tokenizers", tmp_path / "tokenizers")
    mine = protocol.load(out / "tokenizers" / "visual")
    other = jax.tree.map(lambda leaf: leaf + 1, mine.params)
    shutil.rmtree(tmp_path / "tokenizers" / "visual")
    protocol.save(tmp_path / "tokenizers" / "visual", visual.KIND, mine.config, other)
    argv = ["generate", "--task=unconditional", f"--checkpoint={out / 'model'}"]
    code = cli.main(
        [*argv, f"--tokenizers={tmp_path / 'tokenizers'}", f"--out={tmp_path / 'made'}"]
    )
    assert code == 2 and not (tmp_path / "made").exists()
    assert "was trained on ids of the visual tokenizer" in capsys.readouterr().err


def asked(out, *words):
    """Arguments of `poet generate` with the demo's model."""
    return [
        "generate",
        f"--checkpoint={out / 'model'}",
        f"--tokenizers={out / 'tokenizers'}",
        "--temperature=0.5",
        *words,
    ]


@pytest.mark.slow
def test_one_file_of_every_kind(out, tmp_path, capsys):
    """What --out is called decides the kind; the row beside it says what it was made from."""
    clip = next((out / "clips").rglob("*.mp4"))
    words = {
        "clip.webm": ["--task=image_to_video", f"--video={clip}", "--prompt=a red circle"],
        "longer.gif": ["--task=continue", f"--video={clip}"],
        "sound.wav": ["--task=video_to_audio", f"--video={clip}"],
        "picture.png": ["--task=text_to_image", "--prompt=a red circle"],
    }
    for name, task in words.items():
        assert cli.main(asked(out, *task, f"--out={tmp_path / name}")) == 0
        row = json.loads((tmp_path / name).with_suffix(".json").read_text())
        assert row["file"] == name and (tmp_path / name).stat().st_size > 0
        assert row["ids"] and row["step"]
    assert len(list(tmp_path.iterdir())) == 8, "a file and a row each, and nothing else"
    assert f"{clip}: 64 x 64, resized to 32 x 32" in capsys.readouterr().out


@pytest.mark.slow
def test_a_long_clip_and_a_chain(out, tmp_path, capsys):
    argv = ["--task=text_to_video", "--seconds=4", f"--out={tmp_path / 'long.mp4'}"]
    assert cli.main(asked(out, *argv, "--prompt=0: a red circle")) == 0
    assert len(video.read_video(tmp_path / "long.mp4", 8.0)) == 32
    assert json.loads((tmp_path / "long.json").read_text())["prompt"] == "a red circle"
    # Nothing that this model continues clips by reads words.
    changing = ["--prompt=0: a red circle", "--prompt=2: a blue one"]
    assert cli.main(asked(out, *argv, *changing)) == 2
    assert "is there already" in capsys.readouterr().err
    assert cli.main(asked(out, *argv, *changing, "--overwrite")) == 2
    assert "'future_prediction', by which this" in capsys.readouterr().err
    argv = ["--task=text_to_image", "--prompt=a red circle", "--then=image_to_video"]
    argv += ["--prompt=a blue circle", "--then=video_to_audio"]
    assert cli.main(asked(out, *argv, f"--out={tmp_path / 'chain.mp4'}")) == 0
    row = json.loads((tmp_path / "chain.json").read_text())
    assert [link["prompt"] for link in row["then"]] == ["a blue circle", ""]
    assert row["has_sound"] and set(row["ids"]) == {"visual", "audio"}


@pytest.mark.slow
def test_frames_are_shown_as_they_are_written(out, tmp_path, capsys):
    argv = ["--task=text_to_video", "--prompt=a red circle", "--preview", f"--out={tmp_path}"]
    assert cli.main(asked(out, *argv)) == 0
    names = sorted(path.name for path in (tmp_path / "preview").iterdir())
    assert names == [f"0000_{frame:03d}.png" for frame in (0, 4, 8, 12, 16)]
    row = json.loads((tmp_path / "0000.json").read_text())
    assert 0 < row["first_frame_s"] <= row["last_frame_s"]
    assert "first frame after" in capsys.readouterr().out
    # The last picture is the clip's last frame, enlarged.
    codes = np.asarray(row["ids"]["visual"])[None]
    frame = protocol.load(out / "tokenizers" / "visual").decode(codes)[0, -1]
    last = images.read_image(tmp_path / "preview" / "0000_016.png")
    np.testing.assert_allclose(last[::4, ::4], 255 * np.clip(frame, 0, 1), atol=0.6)


@pytest.mark.slow
def test_the_likeliest_of_several_clips(out, tmp_path):
    argv = ["--task=text_to_video", "--prompt=a red circle", "--candidates=3", "--seconds=3"]
    assert cli.main(asked(out, *argv, f"--out={tmp_path / 'best.mp4'}")) == 0
    assert len(video.read_video(tmp_path / "best.mp4", 8.0)) == 24


@pytest.mark.slow
def test_lines_of_requests_over_two_hosts(out, tmp_path, capsys):
    """Each host answers its rows; a row that cannot be answered is noted and fails the command."""
    rows = [
        {"name": "a", "prompt": "a red circle"},
        {"name": "b", "prompt": "a blue square", "seed": 3, "temperature": 0},
        {"name": "c", "prompt": "a green circle", "guidance": 2, "negative_prompt": "a square"},
    ]
    requests = tmp_path / "requests.jsonl"
    requests.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["--task=text_to_image", f"--requests={requests}"]
    for shard in ("0/2", "1/2"):
        folder = tmp_path / shard[0]
        assert cli.main(asked(out, *argv, f"--shard={shard}", f"--out={folder}")) == 0
    assert cli.main(asked(out, *argv, f"--out={tmp_path / 'whole'}")) == 0
    for name, folder in (("a", "0"), ("b", "1"), ("c", "0")):
        mine, whole = (
            json.loads((tmp_path / where / f"{name}.json").read_text())
            for where in (folder, "whole")
        )
        assert mine == whole
    requests.write_text(json.dumps({"name": "d", "prompt": "a", "colour": "red"}))
    assert cli.main(asked(out, *argv, f"--out={tmp_path / 'wrong'}")) == 2
    assert "requests.jsonl:1 has colour; a request has name" in capsys.readouterr().err
    for line, says in (
        ("{", "is no JSON"),
        ("3", "expects an object"),
        ('{"top_k": "a"}', "numbers"),
    ):
        requests.write_text(line)
        assert cli.main(asked(out, *argv, f"--out={tmp_path / 'wrong'}")) == 2
        assert says in capsys.readouterr().err
    requests.write_text(json.dumps({"name": "e", "image": "none.png"}))
    argv = ["--task=image_to_video", f"--requests={requests}", f"--out={tmp_path / 'failed'}"]
    assert cli.main(asked(out, *argv)) == 1
    assert "1 of 1 requests failed" in capsys.readouterr().err
    assert "none.png" in json.loads((tmp_path / "failed" / "e.json").read_text())["error"]


@pytest.mark.slow
def test_records_of_a_seqio_task(out, tmp_path, capsys):
    """A task by name takes its conditions from the dataset, as they were tokenized."""
    argv = ["--requests=poet_future_prediction", f"--dataset={out / 'dataset'}"]
    argv += ["--split=held_out", "--limit=2", f"--out={tmp_path / 'made'}"]
    assert cli.main(asked(out, *argv)) == 0
    rows = report.read_rows(tmp_path / "made" / "samples.jsonl")
    dataset = records.open_dataset(out / "dataset")
    for number, row in enumerate(rows):
        record = dataset.read("held_out", number)
        assert row["name"] == record["clip_id"] and row["answered_by"] == "future_prediction"
        made = json.loads((tmp_path / "made" / f"{row['name']}.json").read_text())
        assert made["source"] == f"{dataset.fingerprint[:12]}/held_out/{record['clip_id']}"
        np.testing.assert_array_equal(made["ids"]["visual"][:3], record["visual"][:3])
    # With words: the record's caption. The task that follows takes what was made.
    argv = ["--requests=poet_text_to_video", f"--dataset={out / 'dataset'}", "--limit=1"]
    argv += ["--then=video_to_audio", f"--out={tmp_path / 'words'}"]
    assert cli.main(asked(out, *argv)) == 0
    (row,) = report.read_rows(tmp_path / "words" / "samples.jsonl")
    assert row["has_sound"] and row["prompt"] == dataset.read("validation", 0)["caption"]
    for words, says in (
        (["--requests=poet_inpainting"], "there is no such file; a SeqIO task needs --dataset"),
        ([f"--dataset={out / 'dataset'}", "--requests=poet_none"], "Unknown task or mixture"),
        ([f"--dataset={out / 'dataset'}", "--requests=poet_inpainting"], "has what poet_inpaint"),
        (
            [f"--dataset={out / 'dataset'}", "--requests=poet_inpainting", "--mask=interpolation"],
            "leave --mask and --start_s out",
        ),
        ([f"--dataset={out / 'dataset'}", "--task=unconditional"], "--dataset goes with the name"),
        (
            [f"--dataset={out / 'dataset'}", "--requests=poet_text_to_image", "--task=stylize"],
            "asks for text_to_image, not for stylize",
        ),
    ):
        assert cli.main(asked(out, *words, f"--out={tmp_path / 'wrong'}")) == 2
        assert says in capsys.readouterr().err


def test_three_lines_of_python_make_a_clip(out, tmp_path):
    engine = sample.load_engine(out / "model", out / "tokenizers")
    asking = {"prompt": "a red circle", "seed": 1, "temperature": 0.5}
    row = sample.make(engine, "text_to_video", tmp_path / "red.mp4", **asking)
    assert video.read_video(tmp_path / row["file"], 8.0).shape == (17, 128, 128, 3)
    # A model that is spread over devices makes the same.
    wide = sample.load_engine(out / "model", out / "tokenizers", num_tensor=2)
    again = sample.make(wide, "text_to_video", tmp_path / "wide.mp4", **asking)
    assert again["ids"] == row["ids"]
    with pytest.raises(ValueError, match="A request has no colour; it has name, prompt"):
        sample.make(engine, "text_to_video", tmp_path / "x.mp4", colour="red")
    with pytest.raises(ValueError, match="cannot be spread over 9 devices, because there are 4"):
        sample.load_engine(out / "model", out / "tokenizers", num_tensor=9)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--task=text_to_video"], "prompt"),
        (["--prompt=a"], "--task says what to make"),
        (["--task=text_to_video", "--prompt= "], "--prompt is empty"),
        (["--task=text_to_video", "--prompt=" + "a" * 80], "this model reads 63"),
        (["--task=image_to_video"], "needs a picture or clip"),
        (["--task=image_to_video", "--image=missing.png"], "missing.png: there is no such file"),
        (["--task=image_to_video", f"--image={__file__}"], "test_whole_loop.py"),
        (["--task=video_to_audio", "--prompt=a"], "needs a clip to start from"),
        (["--task=stylize", "--prompt=a"], "was not trained for 'stylize'; it was trained for"),
        (["--task=unconditional", "--temperature=nan"], "temperature=nan"),
        (["--task=unconditional", "--guidance=3"], "guidance=3.0 needs a text to leave out"),
        (["--task=text_to_video", "--prompt=a", "--guidance=nan"], "guidance=nan"),
        (["--task=text_to_video", "--prompt=a", "--negative_prompt=b"], "--guidance above 1"),
        (["--task=unconditional", "--num_samples=0"], "--num_samples expects 1 or more"),
        (["--task=unconditional", "--seconds=1e9"], "seconds=1000000000.0 must be a number from"),
        (["--task=text_to_video", "--prompt=a", "--negative_prompt=b"], "--guidance above 1"),
        (["--task=unconditional", "--size=portrait"], "makes clips of square (32 x 32 px)"),
        (["--task=unconditional", "--shard=2/2"], "--shard expects I/N with I below N"),
        (["--task=unconditional", "--then=inpaint"], "was not trained for 'inpaint'"),
        (["--task=unconditional", "--out=made.png"], "makes .mp4 or .webm or .gif here"),
        (["--task=text_to_image", "--prompt=a", "--out=made.mp4"], "makes .png here"),
        (["--task=unconditional", f"--checkpoint={__file__}"], "test_whole_loop.py"),
    ],
)
def test_generate_refuses(out, tmp_path, capsys, words, says):
    argv = ["generate", f"--checkpoint={out / 'model'}", f"--tokenizers={out / 'tokenizers'}"]
    code = cli.main([*argv, f"--out={tmp_path / 'made'}", *words])
    error = capsys.readouterr().err
    assert code == 2 and says in error, error
    assert not list(tmp_path.rglob("*.mp4"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["generate", "--task=unconditional", "--checkpoint=none"], "poet train-tokenizer"),
        (["prepare", "--media=none", "--out=x"], "poet train-tokenizer"),
        (["render", "--out=x", "--num_train=0", "--num_validation=0", "--num_held_out=0"], "clip"),
        (["render", "--out=x", "--size_px=31"], "size_px must be even and at least 32"),
        (["evaluate", "--clips=none"], "manifest.tsv"),
        (["demo", "--tiny", "--full"], "exclude each other"),
    ],
)
def test_commands_refuse(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert says in error, error
    assert not list(tmp_path.rglob("*.mp4"))


def test_inspect_shows_the_examples_of_a_task(out, tmp_path, capsys):
    page = tmp_path / "page.html"
    words = ["--task", "video_to_audio", "--dataset", out / "dataset", "--html", page]
    words += ["--tokenizers", out / "tokenizers", "--checkpoint", out / "model"]
    assert cli.main(["inspect", *map(str, words), "--num_examples", "2"]) == 0
    said = capsys.readouterr().out
    assert "<task:video_to_audio> [prefix]: 67" in said and f"wrote {page}" in said
    assert page.read_text().count("<audio controls") == 2
    assert cli.main(["inspect", "--task", "inpainting", "--dataset", str(out / "dataset")]) == 2
    assert "has inpainting and masked and video" in capsys.readouterr().err
