import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "tools" / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
