"""A tokenizer on two joined processes: the losses and the weights of one process."""

import sys

import jax
import numpy as np
import pytest
import real_processes

from poet.media import images
from poet.tokenizers import protocol
from poet.train import checkpoint, metrics, partitioning, tokenizer_checks

SETTINGS = [
    "--gin_file=gin/tokenizers/visual_tiny.gin",
    "--gin.VisualRecipe.num_frames=1",
    "--gin.VisualRecipe.length_shares=((1, 1.0),)",
    "--gin.VisualRecipe.height_px=16",
    "--gin.VisualRecipe.width_px=16",
    "--gin.VisualRecipe.image_steps=0",
    "--gin.VisualRecipe.frames_per_batch=4",
    "--gin.magvit2.MagvitConfig.base_channels=16",
    "--gin.TokenizerRun.preview_period=2",
    "--gin.TokenizerRun.log_period=1",
    "--gin.TokenizerRun.check_period=2",
    "--gin.TokenizerRun.straggler_period=2",
    "--gin.TokenizerRun.stall_minutes=20",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(6):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        images.write_image(folder / f"{number}.png", pixels)
    return folder


def start(pictures, out, num_devices, *more):
    words = [sys.executable, "-m", "poet.main.train_tokenizer", *SETTINGS, f"--media={pictures}"]
    return real_processes.start([*words, f"--out={out}", *more], num_devices)


def start_two(pictures, out, *of_second):
    """Two joined processes with a device each; the second one may be given more flags."""
    joined = [f"--coordinator_address={real_processes.free_address()}", "--process_count=2"]
    first = start(pictures, out, 1, *joined, "--process_index=0")
    return [first, start(pictures, out, 1, *joined, "--process_index=1", *of_second)]


def rows(out, kind, name):
    found = metrics.read_metrics(out / "train")
    return {row["step"]: row[name] for row in found if row["kind"] == kind}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_train_as_one_with_two_devices(pictures, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    alone = start(pictures, one, 2)
    said = alone.communicate(timeout=800)[0]
    assert alone.returncode == 0, said
    processes = start_two(pictures, two)
    said = [process.communicate(timeout=800)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert ["4 steps" in text for text in said] == [True, False]
    for kind, name, number in (("train", "loss", 4), ("eval", "psnr_db", 2)):
        found, expected = rows(two, kind, name), rows(one, kind, name)
        assert list(found) == list(expected) and len(found) == number
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)
    assert [row["step"] for row in metrics.read_metrics(two / "train") if row["kind"] == "hosts"]
    with np.load(one / "weights.npz") as expected, np.load(two / "weights.npz") as found:
        assert set(found) == set(expected)
        # Some are in halves while they train; the file has them whole.
        assert max(found[name].size for name in found) > 2**14
        for name in found:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)
    assert protocol.load(two).encode(np.zeros((1, 1, 16, 16, 3))).shape == (1, 1, 2, 2)
    assert checkpoint.newest_step(two / "train") == 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_process_with_other_settings_stops_both(pictures, tmp_path):
    processes = start_two(pictures, tmp_path, "--gin.SEED=1")
    said = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert "differ from process 0: loop (process 1); settings (process 1)" in said[0]


def test_a_process_without_a_device_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(ValueError, match="mesh of 4 devices has none of process 1, 2; take fewer"):
        tokenizer_checks.check_processes(partitioning.make_mesh())
