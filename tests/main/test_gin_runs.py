"""Every gin file that comes with Poet can be read, and nothing in it goes unread."""

import pathlib

import gin
import pytest

from poet.main import commands

GIN = pathlib.Path(__file__).parents[2] / "gin"


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


@pytest.mark.parametrize("name", sorted(path.stem for path in (GIN / "runs").glob("*.gin")))
def test_runs(name, tmp_path):
    from poet.train import lm

    commands.read_gin([f"gin/runs/{name}.gin"], [f"MODEL_DIR = '{tmp_path}'", "DATA_DIR = 'x'"])
    assert commands.call_configured(lm.LMRun).loop.num_steps > 0


@pytest.mark.parametrize("name", sorted(path.stem for path in (GIN / "tokenizers").glob("*.gin")))
def test_tokenizers(name):
    from poet.train import tokenizer_run

    commands.read_gin([f"gin/tokenizers/{name}.gin"], [])
    run = commands.call_configured(tokenizer_run.TokenizerRun)
    assert run.recipe.kind in name


@pytest.mark.parametrize("path", sorted((GIN / "runs").glob("*.gin")), ids=lambda path: path.stem)
def test_runs_begin_with_what_they_cost(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("poet train --gin_file" in line for line in head)
    assert any("core" in line for line in head)
