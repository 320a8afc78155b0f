"""`poet evaluate --gin_file` on a tiny checkpoint: losses, protocols, hosts, missing pieces."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import gin
import numpy as np
import pytest
import tiny_checkpoint

from poet.evals import checkpoint_report, results
from poet.main import cli
from tests.evals import tiny_clip

PROTOCOLS = (
    "davis_stylization",
    "k600_prediction",
    "msrvtt",
    "shapes_world",
    "ssv2_painting",
    "ucf101",
)


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Clips, tokenizers, dataset and a model of one step; and every benchmark's layout."""
    out = tiny_checkpoint.make(tmp_path_factory.mktemp("tiny"))
    clips = sorted((out / "clips" / "held_out").glob("*.mp4"))
    for name in ("msrvtt", "ucf101", "k600_prediction", "ssv2_painting"):
        (out / name / "real").mkdir(parents=True)
        for clip in clips:
            shutil.copy(clip, out / name / "real")
    words = ("a photo of a dog", "a red circle", "the dog", "a blue square", "nobody asks this")
    (out / "msrvtt" / "captions.txt").write_text("\n".join(words) + "\n")
    (out / "ucf101" / "classes.tsv").write_text("Archery\ta circle\nSurfing\ta square\n")
    (out / "ucf101" / "test.txt").write_text("Archery/v_1.avi 1\nSurfing/v_2.avi 2\n")
    (out / "davis_stylization").mkdir()
    rows = [f"{n}\t{clips[n // 2]}\ta photo of a dog\t0.125" for n in range(4)]
    table = ["clip_id\tfile\tcaption\tstart_s", *rows]
    (out / "davis_stylization" / "manifest.tsv").write_text("\n".join(table) + "\n")
    (out / "shapes_world").symlink_to(out / "clips")
    tiny_clip.write(out / "clip")
    return out


def evaluate(tiny, out, file, *words):
    argv = ["evaluate", "--gin_file", file, f"--gin.CHECKPOINT={tiny / 'model'}"]
    return cli.main([*argv, f"--gin.OUT={out}", *words])


def protocol(tiny, out, name, *words):
    """A protocol without losses, in small: toys and a tiny CLIP instead of published networks."""
    weights = f"--gin.WEIGHTS={{'clip': '{tiny / 'clip'}'}}"
    folder = f"--gin.CLIPS={tiny / name}"
    argv = [f"--gin.TOKENIZERS={tiny / 'tokenizers'}", folder, weights, "--gin.SPLITS=()"]
    return evaluate(tiny, out, f"gin/protocols/{name}.gin", *argv, *words)


def read(out):
    return json.loads((out / "result.json").read_text())


def test_losses_do_not_depend_on_batches(tiny, tmp_path, capsys):
    """The same four examples in one batch and in two; the words of a result are its numbers."""
    tasks = "--gin.TASKS=('poet_text_to_video',)"
    found = []
    for name, tokens in (("one", 4 * 43), ("two", 2 * 43)):
        size = f"--gin.teacher_forced.TeacherForced.batch_tokens={tokens}"
        more = "--gin.partitioning.MeshConfig.num_devices=1"
        assert evaluate(tiny, tmp_path / name, "gin/runs/evaluate.gin", tasks, size, more) == 0
        found.append(read(tmp_path / name))
    (one,), (two,) = (facts["losses"]["rows"] for facts in found)
    assert (one["num_examples"], one["num_tokens"]) == (4, 4 * 22)
    assert one["task"] == "poet_text_to_video" and one["split"] == "validation"
    for name in ("loss_nats", "accuracy"):
        assert one[name] == pytest.approx(two[name], rel=1e-5)
    frames = [row for part, row in one["parts"].items() if part.startswith("visual/frame_")]
    visual = one["parts"]["visual"]
    assert visual["num_tokens"] == sum(row["num_tokens"] for row in frames)
    assert visual["nats"] == pytest.approx(two["parts"]["visual"]["nats"], rel=1e-5)
    # An untrained model knows little more than how many ids there are.
    assert 4 < one["loss_nats"] < 8 and 0 <= one["accuracy"] < 1
    shown = f"| validation | poet_text_to_video | {results.shown(one['loss_nats'])} |"
    assert shown in capsys.readouterr().out
    assert found[0]["checkpoint"]["step"] == 1 and len(found[0]["checkpoint"]["fingerprint"]) == 64
    # Another seed would be another evaluation.
    assert evaluate(tiny, tmp_path / "one", "gin/runs/evaluate.gin", tasks, "--gin.SEED=1") == 2
    assert "holds an evaluation whose seed was 0, now it is 1" in capsys.readouterr().err


@pytest.fixture(scope="module")
def shared(tiny, tmp_path_factory):
    """The shapes world by two hosts, one after the other, and what each of them said."""
    out, said = tmp_path_factory.mktemp("shared"), []
    for shard in ("0/2", "1/2"):
        words = ("--gin.NUM_REQUESTS=2", "--shard", shard)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("builtins.print", lambda *a, **k: said.append(" ".join(map(str, a))))
            assert protocol(tiny, out, "shapes_world", *words) == 0
        gin.clear_config()
    return out, said


@pytest.mark.slow
def test_hosts_share_a_protocol(shared):
    """The first leaves clips to the other, which finds all there and sums up."""
    out, said = shared
    missing = next(line for line in said if line.startswith("This share is done"))
    assert "1 clips of shapes_text_to_video and 1 clips of shapes_continuation" in missing
    facts = read(out)
    words = facts["protocols"]["shapes_text_to_video"]["measures"]["words"]
    law = facts["protocols"]["shapes_continuation"]["measures"]["law"]
    assert words["num_generated"] == law["num_generated"] == 2 and law["is_paired"]
    for name in ("shapes_colour", "shapes_pitch", "frechet_shapes", "frechet_toy_frames"):
        assert "/17f-at-8fps/32x32-cover-crop" in words["metrics"][name]["protocol"]
    # What was given stays: nine frames, as the tokenizer shows them.
    assert 5 < law["metrics"]["psnr"]["mean"] < 40
    assert words["sampling"]["guidance"] == 1.3 and facts["checkpoint"] == words["checkpoint"]
    page = (out / "result.md").read_text()
    assert page.count("| shapes_kept | higher |") == 2 and "### law" in page


@pytest.mark.slow
def test_what_is_there_is_kept(shared, tiny, capsys):
    """A clip is lost, and the row of another, as if killed between the two: made again, alone.

    Their bytes are the same, and the result is.
    """
    out, _ = shared
    clips = sorted((out / "shapes_text_to_video" / "generated").glob("*.mp4"))
    times, lost = [path.stat().st_mtime_ns for path in clips], clips[1].read_bytes()
    clips[1].unlink()
    half = sorted((out / "shapes_continuation" / "generated").glob("*.json"))[0]
    half_clip = half.with_suffix(".mp4").read_bytes()
    half.unlink()
    before = read(out)
    assert protocol(tiny, out, "shapes_world", "--gin.NUM_REQUESTS=2", "--merge") == 2
    says = "1 clips of shapes_text_to_video and 1 clips of shapes_continuation are missing"
    assert says in capsys.readouterr().err
    assert protocol(tiny, out, "shapes_world", "--gin.NUM_REQUESTS=2") == 0
    assert half.is_file() and half.with_suffix(".mp4").read_bytes() == half_clip
    assert clips[1].read_bytes() == lost and clips[0].stat().st_mtime_ns == times[0]
    assert read(out) == before


@pytest.mark.slow
def test_two_evaluations_are_compared_measure_by_measure(shared, tmp_path, capsys):
    out, _ = shared
    shutil.copytree(out, tmp_path / "other", ignore=shutil.ignore_patterns("parts", "generated"))
    both = [str(folder / "result.json") for folder in (out, tmp_path / "other")]
    capsys.readouterr()
    assert cli.main(["evaluate", "--compare", *both, "--metrics", "shapes_kept"]) == 0
    said = capsys.readouterr().out
    assert "## shapes_text_to_video/words" in said and "## shapes_continuation/law" in said
    assert said.count("no difference shown") == 2
    assert set(checkpoint_report.measures(out / "result.json")) == {
        "shapes_text_to_video/words",
        "shapes_continuation/law",
    }


LEVELS = """
def poet_metrics(given):
    return given.frechet("levels", lambda clips: clips.mean(axis=(2, 3, 4)), says="mean-levels")
"""


def test_captions_in_repeats(tiny, tmp_path):
    """MSR-VTT in small: four of five captions in two repeats, CLIPSIM of all, 32 px become 64.

    Beside the built-in distance one of a plug-in.
    """
    (tmp_path / "levels.py").write_text(LEVELS)
    plugin = f"--gin.PLUGINS=('{tmp_path / 'levels.py'}',)"
    counts = ["--gin.NUM_REQUESTS=5", "--gin.NUM_GENERATED=4", "--gin.NUM_REAL=2"]
    sizes = ["--gin.protocol.Protocol.size_px=64", "--gin.REPEATS=2"]
    metrics = "--gin.METRICS=('frechet_toy_pixels', 'levels')"
    assert protocol(tiny, tmp_path, "msrvtt", *counts, *sizes, metrics, plugin) == 0
    measures = read(tmp_path)["protocols"]["msrvtt"]["measures"]
    fvd = measures["fvd"]["metrics"]["frechet_toy_pixels"]
    assert fvd["protocol"].endswith(
        "/16f-at-8fps-real-central-16f-at-nativefps"
        "/32x32-cover-crop-to-64x64-bicubic-real-64x64-cover-crop/N=2x2"
    )
    assert (fvd["num_real"], fvd["num_generated"]) == (2, 4) and fvd["spread"] >= 0
    levels = measures["fvd"]["metrics"]["levels"]
    own, _, others = levels["protocol"].partition("/16f-at-8fps-real-")
    assert own == f"frechet/levels/mean-levels/plugin-{levels['plugin_sha256'][:12]}"
    assert fvd["protocol"].endswith(others) and levels["num_real"] == 2 and levels["mean"] > 0
    clipsim = measures["clipsim"]["metrics"]["clipsim"]
    assert (clipsim["num_real"], clipsim["num_generated"]) == (0, 5)
    assert clipsim["weights_note"].startswith("UNVERIFIED WEIGHTS")
    assert results.read(tmp_path / "msrvtt" / "fvd" / "result.json").facts["repeats"] == 2


HOSTS = (
    "--gin.NUM_REQUESTS=4",
    "--gin.NUM_GENERATED=4",
    "--gin.NUM_REAL=4",
    "--gin.REPEATS=1",
    "--gin.METRICS=('frechet_toy_pixels', 'kvd_toy_frames')",
    "--gin.protocol.Protocol.size_px=0",
    "--gin.SPLITS=('validation',)",
    "--gin.TASKS=('poet_text_to_video', 'poet_future_prediction')",
    "--gin.partitioning.MeshConfig.num_devices=1",
)


@pytest.fixture(scope="module")
def by_one_process(tiny, tmp_path_factory):
    """MSR-VTT in small with the losses of two tasks, by this process."""
    out = tmp_path_factory.mktemp("one")
    assert protocol(tiny, out, "msrvtt", *HOSTS) == 0
    gin.clear_config()
    return out


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("num_hosts", [2, 4])
def test_processes_share_a_checkpoint(tiny, by_one_process, tmp_path, num_hosts):
    """Commands side by side on one folder: every loss, clip and number is that of one process."""
    weights = f"--gin.WEIGHTS={{'clip': '{tiny / 'clip'}'}}"
    argv = [sys.executable, "-m", "poet.main.cli", "evaluate"]
    argv += ["--gin_file=gin/protocols/msrvtt.gin", f"--gin.CHECKPOINT={tiny / 'model'}", weights]
    argv += [f"--gin.TOKENIZERS={tiny / 'tokenizers'}", f"--gin.CLIPS={tiny / 'msrvtt'}"]
    argv += [f"--gin.OUT={tmp_path}", *HOSTS]
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tiny / "programs"),
        "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),  # of the tiny tokenizers
    }
    hosts = [
        subprocess.Popen([*argv, f"--shard={host}/{num_hosts}"], env=env)
        for host in range(num_hosts)
    ]
    assert not any([host.wait(timeout=3000) for host in hosts])
    one, several = read(by_one_process), read(tmp_path)
    for row, same in zip(one["losses"]["rows"], several["losses"]["rows"], strict=True):
        assert (row["task"], row["num_tokens"]) == (same["task"], same["num_tokens"])
        assert row["loss_nats"] == pytest.approx(same["loss_nats"], rel=1e-6)
    clips = sorted((by_one_process / "msrvtt" / "generated").glob("*.mp4"))
    assert len(clips) == 4
    for clip in clips:
        other = tmp_path / "msrvtt" / "generated" / clip.name
        assert clip.read_bytes() == other.read_bytes()
    for name, measure in one["protocols"]["msrvtt"]["measures"].items():
        found = several["protocols"]["msrvtt"]["measures"][name]["metrics"]
        for metric, entry in measure["metrics"].items():
            assert found[metric]["protocol"] == entry["protocol"]
            for what in ("mean", "low", "high"):
                assert found[metric][what] == pytest.approx(entry[what], abs=1e-6), metric


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "counts"),
    [
        ("ucf101", ["NUM_REQUESTS=6", "NUM_REAL=6", "METRICS=('frechet_toy_pixels',)"], [6]),
        (
            "k600_prediction",
            ["NUM_REQUESTS=3", "NUM_SAMPLES=2", "METRICS=('frechet_toy_changes',)"],
            [6],
        ),
        ("ssv2_painting", ["NUM_REQUESTS=4", "METRICS=('frechet_toy_frames',)"], [4, 4]),
        ("davis_stylization", ["NUM_REQUESTS=4"], [4]),
    ],
)
def test_the_other_protocols(tiny, tmp_path, name, words, counts):
    assert protocol(tiny, tmp_path, name, *(f"--gin.{word}" for word in words)) == 0
    found = read(tmp_path)["protocols"]
    assert [one["num_requests"] for one in found.values()] == counts
    for one in found.values():
        for measure in one["measures"].values():
            for entry in measure["metrics"].values():
                assert entry["mean"] is not None and np.isfinite(entry["mean"])
    if name == "k600_prediction":
        entry = found[name]["measures"]["fvd"]["metrics"]["frechet_toy_changes"]
        assert "/N=3x2" in entry["protocol"] and entry["num_real"] == 3


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_benchmark_that_is_not_there_is_named(tiny, tmp_path, capsys, name):
    assert protocol(tiny, tmp_path / "out", name, f"--gin.CLIPS={tmp_path / 'none'}") == 2
    error = capsys.readouterr().err
    assert re.search(r"needs its benchmark's files in .*none, and there is no such folder", error)
    assert not (tmp_path / "out").exists()


def test_clips_to_restyle_need_prompts(tiny, tmp_path, capsys):
    words = ["--gin.NUM_REQUESTS=4", f"--gin.CLIPS={tiny / 'k600_prediction'}"]
    assert protocol(tiny, tmp_path / "out", "davis_stylization", *words) == 2
    says = "clipsim needs words in one of the folders .* for each name; 4 have none, the first"
    assert re.search(says, capsys.readouterr().err) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("msrvtt", [], "asks for 59,794 captions, but .* has 5; bring as many, or ask for fewer"),
        ("msrvtt", ["NUM_REQUESTS=5", "NUM_GENERATED=5"], "compares with 2,048 real clips, but"),
        (
            "msrvtt",
            ["NUM_REQUESTS=5", "NUM_GENERATED=5", "NUM_REAL=4", "REPEATS=1", "WEIGHTS={}"],
            "clipsim needs the weights of clip, .* get one of openai/clip-vit-base-patch16",
        ),
        ("ucf101", ["NUM_REQUESTS=2"], "fvd needs the weights of i3d, .*in gin, WEIGHTS={'i3d'"),
        (
            "ucf101",
            ["NUM_REQUESTS=2", "METRICS=('is',)"],
            "is needs the weights of c3d, .* get one of conv3d_deepnetA_ucf.npz",
        ),
        ("k600_prediction", ["NUM_REQUESTS=3"], "fvd needs the weights of i3d"),
        ("ssv2_painting", ["NUM_REQUESTS=3"], "fvd needs the weights of i3d"),
        (
            "ssv2_painting",
            ["NUM_REQUESTS=3", "WEIGHTS={'i3d': 'pyproject.toml'}"],
            "pyproject.toml is cut off, or was not written by tools/convert_metric_weights.py",
        ),
        (
            "ssv2_painting",
            [
                "NUM_REQUESTS=3",
                "METRICS=('frechet_toy_changes',)",
                "protocol.Protocol.num_frames=1",
            ],
            "frechet_toy_changes needs clips of at least 2 frames, got 1; ask for other frames",
        ),
        (
            "davis_stylization",
            ["NUM_REQUESTS=4", "WEIGHTS={}"],
            "clipsim needs the weights of clip",
        ),
        (
            "shapes_world",
            ["PLUGINS=('none.py',)"],
            "Plug-in none.py was not found: neither an inst",
        ),
        ("k600_prediction", [], "asks for 50,000 clips, but .* has 4; bring as many"),
        (
            "k600_prediction",
            ["NUM_REQUESTS=3", "protocol.Protocol.task='future_prediction_7'"],
            "'k600_prediction': This checkpoint was not trained for 'future_prediction_7'",
        ),
        (
            "ssv2_painting",
            ["NUM_REQUESTS=3", "inside/protocol.Protocol.mask='mask.png'"],
            "ssv2_inpainting needs the mask mask.png; there is no such file",
        ),
        (
            "davis_stylization",
            ["NUM_REQUESTS=4", "DEPTH_MODEL='midas'"],
            "needs the depth model midas, which has no config.json",
        ),
        (
            "davis_stylization",
            ["NUM_REQUESTS=4", "WEIGHTS={'clip': 'no'}"],
            "weights of clip at no",
        ),
        ("shapes_world", ["SPLIT='test'"], "has no clip of split 'test'"),
        ("shapes_world", ["THEN=()"], "shapes_pitch of protocol .* listens, and text_to_video"),
        ("shapes_world", ["TOKENIZERS=''"], "needs the tokenizers that the dataset was prepared"),
        ("shapes_world", ["METRICS=('psnrr',)"], "Expected metrics among all, .*; got psnrr"),
        ("shapes_world", ["CHECKPOINT='none'"], "Expected a trained model in none, found nothing"),
        ("shapes_world", ["TOKENIZERS='none'"], "Expected a trained visual tokenizer in none"),
        ("shapes_world", ["protocol.Protocol.num_frames=18"], "scores 18 frames, .* clips of 17"),
        ("shapes_world", ["SPLITS=('test',)"], "has no split test, only held_out, train, valid"),
        (
            "shapes_world",
            ["SPLITS=('validation',)", "DATA_DIR='none'"],
            "Dataset none does not exist, expected the --out of `poet prepare`",
        ),
        (
            "shapes_world",
            ["SPLITS=('validation',)", "TASKS=('poet_sing',)"],
            "was not trained for poet_sing; it was trained for poet_",
        ),
    ],
)
def test_what_is_missing_is_named_before_anything_runs(tiny, tmp_path, capsys, name, words, says):
    assert protocol(tiny, tmp_path / "out", name, *(f"--gin.{word}" for word in words)) == 2
    error = capsys.readouterr().err.splitlines()
    assert re.search(says, error[-1]) and error[-1].startswith("error: "), error
    assert not (tmp_path / "out").exists()


def test_bindings_without_a_file_are_refused(capsys):
    assert cli.main(["evaluate", "--gin.CHECKPOINT=out/model"]) == 2
    assert "Bindings need a --gin_file, such as gin/runs/evaluate.gin" in capsys.readouterr().err
    assert cli.main(["evaluate", "--gin_file=gin/runs/evaluate.gin"]) == 2
    assert "CHECKPOINT has no value" in capsys.readouterr().err
    words = ["--gin.CHECKPOINT=x", "--gin.SPLITS=()"]
    assert cli.main(["evaluate", "--gin_file=gin/runs/evaluate.gin", *words]) == 2
    assert "There is nothing to evaluate; give splits" in capsys.readouterr().err
