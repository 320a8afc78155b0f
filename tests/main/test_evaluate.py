"""`poet evaluate` on two folders: a tiny run, two processes, a comparison, and bad input."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from poet.evals import metric_weights
from poet.main import cli
from poet.media import images, write
from poet.shapes_world import files


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folders of 4 rendered clips of two seeds: one part of names."""
    out = tmp_path_factory.mktemp("clips")
    for seed in (0, 1):
        files.write_clips(out / str(seed), seed, {"train": 3, "held_out": 1}, size_px=32)
    return out


def evaluate(clips, out, *words):
    argv = [f"--real={clips / '0'}", f"--generated={clips / '1'}", f"--out={out}"]
    return cli.main(["evaluate", *argv, *words])


def test_everything_without_weights_and_a_comparison(clips, tmp_path, capsys):
    assert evaluate(clips, tmp_path / "other") == 0
    printed = capsys.readouterr()
    assert "left out" not in printed.err
    rows = [line for line in printed.out.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 28
    facts = json.loads((tmp_path / "other" / "result.json").read_text())
    assert facts["num_real"] == facts["num_generated"] == 4 and facts["is_paired"]
    assert facts["metrics"]["shapes_law"]["mean"] == 1.0
    assert all("/17f-at-8fps" in entry["protocol"] for entry in facts["metrics"].values())
    # The same folder twice: nothing is wrong, and nothing differs.
    same = [f"--real={clips / '0'}", f"--generated={clips / '0'}", f"--out={tmp_path / 'same'}"]
    names = "psnr,shapes_all_words,frechet_shapes"
    assert cli.main(["evaluate", *same, f"--metrics={names}"]) == 0
    found = json.loads((tmp_path / "same" / "result.json").read_text())["metrics"]
    assert [entry["mean"] for entry in found.values()] == pytest.approx([100.0, 1.0, 0.0], abs=1e-9)
    results = [str(tmp_path / name / "result.json") for name in ("other", "same")]
    capsys.readouterr()
    assert cli.main(["evaluate", "--compare", *results, "--metrics=psnr,shapes_all_words"]) == 0
    assert capsys.readouterr().out.count("second is better") == 2


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Folders of 70 pictures, five parts of names; what one process measures of them."""
    folder, draw = tmp_path_factory.mktemp("alone"), np.random.default_rng(0)
    for side in ("real", "made"):
        for number in range(70):
            pixels = draw.integers(0, 256, (16, 16, 3)).astype(np.uint8)
            images.write_image(folder / side / f"{number}.png", pixels)
    flags = [f"--real={folder / 'real'}", f"--generated={folder / 'made'}", "--num_frames=1"]
    flags += ["--metrics=psnr,frechet_toy_pixels,kvd_toy_frames"]
    assert cli.main(["evaluate", *flags, f"--out={folder / 'out'}"]) == 0
    return flags, folder / "out"


@pytest.mark.parametrize(
    "num_hosts",
    [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)],
)
def test_processes_share_the_work(alone, tmp_path, num_hosts):
    """Commands side by side, each with batches of its own; whoever is last sums up.

    The result is what one alone gives.
    """
    flags, whole = alone
    argv = [sys.executable, "-m", "poet.main.cli", "evaluate", *flags, f"--out={tmp_path}"]
    hosts = [
        subprocess.Popen([*argv, f"--shard={host}/{num_hosts}", f"--batch_size={host + 1}"])
        for host in reversed(range(num_hosts))
    ]
    assert not any([host.wait(timeout=280) for host in hosts])
    assert len(list((tmp_path / "parts").glob("*/*.npz"))) == 5
    found, want = (
        json.loads((folder / "result.json").read_text())["metrics"] for folder in (tmp_path, whole)
    )
    for name, entry in want.items():
        assert found[name]["protocol"] == entry["protocol"]
        for what in ("mean", "low", "high"):
            assert found[name][what] == pytest.approx(entry[what], abs=1e-9), name
    assert (tmp_path / "result.md").read_text() == (whole / "result.md").read_text()
    # To sum up again changes nothing.
    assert cli.main(["evaluate", *flags, f"--out={tmp_path}", "--merge"]) == 0
    merged = json.loads((tmp_path / "result.json").read_text())["metrics"]
    assert merged == found and "/N=70x1" in (tmp_path / "result.md").read_text()


def test_a_merge_before_its_time_says_what_is_missing(clips, tmp_path, capsys):
    words = ["--metrics=psnr", "--only_common"]
    assert evaluate(clips, tmp_path, *words, "--merge") == 2
    assert "1 of 1 parts are not measured yet" in capsys.readouterr().err
    assert evaluate(clips, tmp_path, *words, "--shard=1/2") == 0
    assert "0 of 1 parts are measured" in capsys.readouterr().out
    assert evaluate(clips, tmp_path, *words, "--shard=0/2") == 0
    assert "| psnr |" in capsys.readouterr().out


def test_what_the_folders_do_not_allow_is_left_out_by_name(tmp_path, capsys):
    for name in ("a", "b", "c"):
        pixels = np.full((16, 16, 3), 90, np.uint8)
        images.write_image(tmp_path / "real" / f"{name}.png", pixels)
        images.write_image(tmp_path / "made" / f"{name}_0.png", pixels)
    argv = [f"--real={tmp_path / 'real'}", f"--generated={tmp_path / 'made'}", "--num_frames=1"]
    assert cli.main(["evaluate", *argv, f"--out={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr()
    assert "left out: psnr compares clips of one name" in printed.err
    assert "left out: fad_toy needs sound" in printed.err
    assert "left out: shapes_shape needs clips of at least 5 frames, got 1" in printed.err
    assert "| frechet_toy_frames |" in printed.out and "| psnr |" not in printed.out


@pytest.fixture(scope="module")
def broken(clips, tmp_path_factory):
    """Folders that cannot be measured, and weights of another network."""
    out = tmp_path_factory.mktemp("broken")
    (out / "empty").mkdir()
    (out / "unreadable").mkdir()
    (out / "unreadable" / "a.mp4").write_bytes(b"no video at all")
    (out / "torn").mkdir()
    (out / "torn" / "a.png").write_bytes(b"no picture at all")
    write.write_video(out / "short" / "a.mp4", np.zeros((1, 32, 32, 3), np.uint8), 8.0)
    write.write_video(out / "good" / "a.mp4", np.zeros((17, 32, 32, 3), np.uint8), 8.0)
    facts = {"kind": "c3d", "source": "x", "source_sha256": "0" * 64}
    metric_weights.save(out / "c3d.npz", {"a": np.zeros(2, np.float32)}, facts)
    shapes = metric_weights.network_of("i3d").shapes()
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    metric_weights.save(out / "i3d.npz", zeros, facts | {"kind": "i3d"})
    return out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--real=DIR/empty"], "empty holds no media files and no manifest.tsv"),
        (["--generated=DIR/empty"], "empty holds no media files and no manifest.tsv"),
        (["--real=DIR/none"], "There is no manifest or folder .*none"),
        (["--metrics=kvd_toy_pixels", "--real=DIR/good"], "as many real as generated clips, got 1"),
        (["--metrics=psnr", "--real=DIR/good"], "psnr compares clips of one name, but .* other n"),
        (["--real=DIR/good", "--generated=DIR/short"], "short/a.mp4 has 1 frame at 8 a second, 17"),
        (["--real=DIR/short", "--generated=DIR/good"], "short/a.mp4 has 1 frame at 8 a second, 17"),
        (["--real=DIR/good", "--generated=DIR/unreadable"], "a.mp4 cannot be decoded"),
        (
            ["--real=DIR/torn", "--generated=DIR/torn", "--num_frames=1"],
            "a.png is not a readable im",
        ),
        (
            ["--metrics=fad_toy", "--real=DIR/good", "--generated=DIR/good"],
            "good/a.mp4 has no sound",
        ),
        (
            ["--metrics=fvd"],
            "fvd needs the weights of i3d.*i3d_torchscript.pt .*--weights i3d=FILE",
        ),
        (
            ["--metrics=fvd", "--weights", "i3d=DIR/none.npz"],
            "weights of i3d at .*none.npz, found n",
        ),
        (
            ["--metrics=fvd", "--weights", "i3d=DIR/unreadable/a.mp4"],
            "a.mp4 is cut off, or was not written by tools/convert_metric_weights.py",
        ),
        (["--metrics=fvd", "--weights", "i3d=DIR/c3d.npz"], "holds weights of c3d, expected i3d"),
        (["--metrics=is", "--weights", "c3d=DIR/c3d.npz"], "has no tensor conv1a/"),
        (
            ["--metrics=fvd", "--weights", "i3d=DIR/i3d.npz", "--num_frames=8"],
            "fvd needs clips of at least 9 frames, got 8",
        ),
        (["--weights", "i3d"], "--weights expects NAME=FILE"),
        (["--metrics=psnrr"], "Expected metrics among all, .*; got psnrr"),
        (["--size=big"], "--size expects 128 or HEIGHTxWIDTH"),
        (["--fps=fast"], "--fps expects frames a second or 'native', got 'fast'"),
        (["--shard=2/2"], "--shard expects I/N with I below N"),
        (["--num_clips=0"], "--num_clips expects 1 or more, got 0"),
        (["--split=test"], "has no clip of split 'test'; its splits are held_out, train"),
        (["--repeats=9"], "one clip a repeat, got 4 clips for 9 repeats"),
        (["--metrics=shapes_law", "--fps=25"], "knows laws at 8 frames a second, got 25"),
        (["--compare", "DIR/c3d.npz", "DIR/none"], "c3d.npz is no JSON"),
    ],
)
def test_bad_input_ends_in_one_sentence(clips, broken, tmp_path, capsys, words, says):
    words = [word.replace("DIR", str(broken)) for word in words]
    assert evaluate(clips, tmp_path / "out", *words) == 2
    printed = capsys.readouterr().err.splitlines()
    (error,) = (line for line in printed if line.startswith("error: "))
    assert re.search(says, error) and printed[-1] == error
    assert not (tmp_path / "out" / "result.json").exists()


def test_real_alone_is_refused(clips, tmp_path, capsys):
    assert cli.main(["evaluate", f"--real={clips / '0'}", f"--out={tmp_path}"]) == 2
    assert "--real needs --generated" in capsys.readouterr().err
