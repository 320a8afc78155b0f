import argparse
import importlib.util
import json
from pathlib import Path

import gin
import numpy as np
import pytest

from poet.data import writer
from poet.main import commands
from poet.media.write import write_video
from poet.models.config import PrefixLMConfig
from tools import benchmark_decode, benchmark_train, presets

ROOT = Path(__file__).parents[2]
SIZE_FLAGS = ("layers", "d_model", "heads", "kv_heads", "mlp", "vocab")


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "tools" / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_tokenizer_is_measured_against_the_device(benchmark, capsys):
    argv = ["tokenizer", "--gin_file=gin/tokenizers/visual_tiny.gin", "--size_px=16"]
    argv += ["--num_frames=5", "--batch_size=2", "--repeats=2"]
    assert benchmark.main([*argv, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["clips"] == "2 x 5 x 16 x 16"
    for half in ("encode", "decode"):
        row = facts[half]
        assert row["flops"] > 1e6 and row["bytes"] > 0
        assert row["achieved_flops"] == pytest.approx(
            row["flops"] * row["clips_per_second"] / 2, rel=1e-6
        )
        assert 0 < row["share_of_peak"] < 1
    table = benchmark._table(facts)
    assert "GFLOP/s" in table and table.count("%") == 2


def test_the_peak_is_that_of_a_product(benchmark):
    assert 1e8 < benchmark.measure_peak_flops(size=256) < 1e15


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mfu_is_against_the_peak_of_the_same_type(benchmark, capsys, monkeypatch, dtype):
    """A product in bfloat16 on an accelerator is several times as fast as one in float32."""

    def program(*_):
        return lambda state, *_: (state, {"loss_nats": 0.0}), argparse.Namespace(params={}), [None]

    peaks = {"float32": 1e9, "bfloat16": 8e9}
    monkeypatch.setattr(benchmark_train, "_program", program)
    monkeypatch.setattr(benchmark_train, "measure_peak_flops", peaks.__getitem__)
    sizes = ["--layers=1", "--d_model=16", "--heads=2", "--mlp=16", "--vocab=64"]
    asked = ["--batch=1", "--prefix=8", "--length=11", "--steps=1", f"--dtype={dtype}"]
    assert benchmark.main(["train", *sizes, *asked]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["peak_dtype"], facts["peak_flops"]) == (dtype, peaks[dtype])
    assert facts["mfu"] == pytest.approx(facts["achieved_flops"] / peaks[dtype])


@pytest.mark.slow
def test_decoding_is_compared_with_a_bare_loop(benchmark, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in "ab":
        frames = rng.integers(0, 255, (17, 32, 32, 3), dtype=np.uint8)
        write_video(tmp_path / f"{name}.mp4", frames, 8)
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    argv = ["media", "--media", str(tmp_path), "--size_px", "16", "--repeats", "1", "--json"]
    assert benchmark.main(argv) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["files"] == 2 and facts["source_frames"] == 34
    assert facts["poet_over_bare"] > 0 and facts["poet_in_processes_over_bare"] > 0


def test_batches_are_timed_and_their_padding_counted(benchmark, tmp_path, capsys):
    ids = np.zeros((5, 2, 2), np.int32)
    record = {"clip_id": "a", "caption": "b", "visual": ids, "num_frames": 17, "has_audio": 0}
    record["audio"] = np.zeros((2, 0), np.int32)
    metadata = {
        "fingerprints": {},
        "num_codes": {"visual": 8, "audio": [4, 4]},
        "preprocessing": {
            **{"num_frames": 17, "height_px": 16, "width_px": 16},
            **{"frames_per_second": 8.0, "sample_rate_hz": 16_000},
        },
    }
    writer.write_dataset(tmp_path / "ds", {"train": [record]}, metadata)
    argv = ["data", "--dataset", str(tmp_path / "ds"), "--batch_tokens", "500", "--num_steps", "3"]
    assert benchmark.main(argv) == 0
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(lines["padding_in_groups"]) == 0 < float(lines["padding_to_the_longest"])
    assert float(lines["tokens_per_second"].replace(",", "")) > 0


def test_decoding_of_the_model_is_one_line_of_json(benchmark, capsys):
    sizes = ["--layers=1", "--d_model=16", "--heads=2", "--mlp=16", "--vocab=64"]
    asked = ["--batch=2", "--prefix=8", "--new=32", "--frame=16", "--repeats=1", "--guidance=2"]
    assert benchmark.main(["decode", *sizes, *asked]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["tokens_per_s"] == pytest.approx(2 * 32 / facts["total_s"])
    assert facts["passes_per_s"] == pytest.approx(32 / facts["total_s"])
    assert facts["ms_a_step"] == pytest.approx(1e3 * facts["total_s"] / 32)
    # Matrices of the layer (16 x (3 + 1) x 16 + 3 x 16 x 16), norms, the head, and for twice two
    # rows keys and values of 8 + 32 / 2 positions, 4 bytes a number.
    layer = 4 * 16 * 16 + 3 * 16 * 16 + 2 * 16 + 2 * 8
    assert facts["bytes_a_step"] == 4 * (layer + 16 * 64 + 4 * 24 * 2 * 16)
    assert 0 < facts["first_frame_s"] and 0 < facts["roofline_share"]
    assert "bytes_per_s" in facts and "peak_memory_bytes" in facts


def test_diagonal_passes_are_counted(benchmark, capsys):
    sizes = ["--layers=1", "--d_model=16", "--heads=2", "--mlp=16", "--vocab=64"]
    asked = ["--batch=1", "--prefix=8", "--new=64", "--frame=32", "--repeats=1"]
    assert benchmark.main(["decode", *sizes, *asked, "--schedule=diagonal"]) == 0
    facts = json.loads(capsys.readouterr().out)
    # Four rows of 16 columns in all, each one pass behind the row above.
    assert facts["passes_per_s"] * facts["total_s"] == pytest.approx(16 + 3)


def test_a_prefix_that_is_too_short_is_refused(benchmark):
    with pytest.raises(SystemExit, match="Expected --prefix of 5 or more"):
        benchmark.main(["decode", "--prefix=3"])


def test_training_of_the_model_is_one_line_of_json(benchmark, capsys):
    sizes = ["--layers=1", "--d_model=16", "--heads=2", "--mlp=16", "--vocab=64"]
    asked = ["--batch=2", "--prefix=8", "--length=42", "--steps=2"]
    assert benchmark.main(["train", *sizes, *asked]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["tokens_per_s"] == pytest.approx(2 * 42 / facts["median_step_s"])
    assert facts["mfu"] == pytest.approx(facts["achieved_flops"] / facts["peak_flops"])
    # 41 rows through the layer's kernels, 9 x 9 + (10 + ... + 41) pairs, 32 rows through the head;
    # text: 4 slots through a layer of width 64 and its projection.
    layer = 41 * (4 * 16 * 16 + 3 * 16 * 16)
    pairs = 2 * 16 * (9 * 9 + sum(range(10, 42)))
    head = 32 * 16 * facts_ids(facts)
    text = 4 * (7 * 64 * 64) + 2 * 64 * 4 * 4 + 4 * 64 * 16
    assert facts["model_flops"] == 2 * 3 * 2 * (layer + pairs + head + text)
    assert facts["vocabulary"] == {
        "is_counted": True,
        "ids": facts_ids(facts),
        "positions": 2 * 32,
        "share_of_model_flops": pytest.approx(2 * 3 * 2 * head / facts["model_flops"]),
    }
    assert abs(facts["loss_nats"] - np.log(facts_ids(facts))) < 1.5


def facts_ids(facts):
    """Ids of the table: specials, codes, one audio level of 16, text of 256."""
    from poet.tokens.vocabulary import Vocabulary

    vocabulary = Vocabulary(num_visual=facts["setting"]["vocab"], audio_levels=(16,), num_text=256)
    return vocabulary.size


@pytest.mark.parametrize(
    ("what", "sizes"),
    [
        ("loss", {"num_tokens": 512, "num_ids": 40_000, "d_model": 8}),
        ("attention", {"batch": 1, "length": 70, "prefix": 9, "heads": 2, "head_dim": 8}),
    ],
)
def test_kernels_are_compared_with_plain_forms(benchmark, capsys, what, sizes):
    argv = [what, "--repeats=1", *(f"--{name}={value}" for name, value in sizes.items())]
    assert benchmark.main(argv) == 0
    facts = json.loads(capsys.readouterr().out)
    ours = facts["tiled" if what == "loss" else "prefix"]
    assert ours["value"] == pytest.approx(facts["plain"]["value"], rel=1e-4)
    assert ours["median_s"] > 0
    if what == "loss":
        # All logits are 82 MB; their tiles, once kept, are as many, and never stand there twice.
        assert ours["temporary_bytes"] < facts["plain"]["temporary_bytes"]


# Of a run's model; tests/main/test_model_presets.py has their parameters.
HIDDEN = {"tiny": 64, "demo": 384, "300m": 2688, "1b": 5504, "8b": 10_880}


@pytest.mark.parametrize("name", presets.GIN_MODELS)
def test_presets_are_the_model_files(name):
    args = argparse.Namespace(**dict.fromkeys(SIZE_FLAGS), preset=name, prefix=68, new=80)
    args.frame, args.dtype = 256, "float32"
    made, _ = benchmark_decode.model_of(args)
    assert made.mlp_dim == args.mlp == HIDDEN[name]
    commands.read_gin([f"gin/models/{name}.gin"], [])
    run = gin.get_configurable(PrefixLMConfig)()
    gin.clear_config()
    for field in ("num_layers", "d_model", "num_heads", "num_kv_heads", "head_dim", "mlp_dim"):
        assert getattr(made, field) == getattr(run, field), field


def test_flags_change_a_preset():
    args = argparse.Namespace(**dict.fromkeys(SIZE_FLAGS) | {"layers": 8, "mlp": 1}, preset="8b")
    presets.fill_in(args)
    assert (args.layers, args.mlp, args.d_model, args.vocab) == (8, 1, 4096, 262_144)


@pytest.mark.slow
def test_a_kernel_is_measured_beside_plain_attention(benchmark, capsys):
    sizes = ["--batch=1", "--length=20", "--prefix=9", "--heads=1", "--head_dim=8", "--repeats=1"]
    assert benchmark.main(["attention", *sizes, "--kernel=splash_interpreted"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["splash_interpreted"]["value"] == pytest.approx(facts["plain"]["value"], rel=1e-4)


def test_a_kernel_for_other_devices_is_not_measured(benchmark):
    with pytest.raises(ValueError, match="'cudnn' is for NVIDIA GPUs, this program is for cpu"):
        benchmark.main(["attention", "--kernel=cudnn", "--dtype=bfloat16"])


def test_every_model_file_is_a_preset():
    """Except the parts that run files add to one."""
    files = {path.stem for path in (ROOT / "gin" / "models").glob("*.gin")}
    assert files - {"t5", "large_tiles", "head_by_tiles"} == set(presets.GIN_MODELS)


def test_lengths_of_training_are_refused(benchmark):
    with pytest.raises(SystemExit, match=r"Expected a --length of --prefix \+ 3 or more"):
        benchmark.main(["train", "--length=8", "--prefix=8"])
