"""Every gin file that comes with Poet can be read, and nothing in it goes unread."""

import pathlib
import re

import gin
import pytest

from poet.main import commands

GIN = pathlib.Path(__file__).parents[2] / "gin"


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


RUNS = sorted(path for path in (GIN / "runs").glob("*.gin") if path.stem != "evaluate")
PROTOCOLS = sorted((GIN / "protocols").glob("*.gin"))


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_protocols(path):
    """Nothing of a protocol goes unread, and its head says what a person brings."""
    from poet.evals.checkpoint_evaluation import CheckpointEvaluation

    bound = [f"{name} = 'x'" for name in ("CHECKPOINT", "TOKENIZERS", "CLIPS")]
    commands.read_gin([f"gin/protocols/{path.name}"], bound)
    found = commands.call_configured(CheckpointEvaluation)
    assert all(protocol.folder == "x" for protocol in found.protocols)
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert "# Bring:" in head and any("poet evaluate --gin_file" in line for line in head)


@pytest.mark.parametrize("name", [path.stem for path in RUNS])
def test_runs(name, tmp_path):
    from poet.train import lm

    own = re.findall(r"^(\w+) = %gin.REQUIRED", (GIN / "runs" / f"{name}.gin").read_text(), re.M)
    macros = {"MODEL_DIR", "DATA_DIR", *own}  # the first two may be asked for by an included file
    commands.read_gin([f"gin/runs/{name}.gin"], [f"{macro} = '{tmp_path}'" for macro in macros])
    assert commands.call_configured(lm.LMRun).loop.num_steps > 0


@pytest.mark.parametrize("name", sorted(path.stem for path in (GIN / "tokenizers").glob("*.gin")))
def test_tokenizers(name):
    from poet.train import tokenizer_run

    commands.read_gin([f"gin/tokenizers/{name}.gin"], [])
    run = commands.call_configured(tokenizer_run.TokenizerRun)
    assert run.recipe.kind in name


@pytest.mark.parametrize(
    ("name", "low", "high"), [("visual_base", 55e6, 61e6), ("visual_paper", 371e6, 376.1e6)]
)
def test_sizes_of_the_large_tokenizers(name, low, high):
    """With their game: the shapes of every batch's state, nothing of it in memory."""
    import jax
    import optax

    from poet.train import tokenizer_run

    commands.read_gin([f"gin/tokenizers/{name}.gin"], [])
    recipe = commands.call_configured(tokenizer_run.TokenizerRun).recipe
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: recipe.init(key, optax.sgd(1.0)), key)
    assert low < sum(leaf.size for leaf in jax.tree.leaves(state.params)) < high
    assert set(state.extra["game"]) == {"1x128x128", "17x128x128"}


def test_size_of_the_published_audio_tokenizer():
    import jax
    import optax

    from poet.train import tokenizer_run

    commands.read_gin(["gin/tokenizers/audio_base.gin"], [])
    recipe = commands.call_configured(tokenizer_run.TokenizerRun).recipe
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: recipe.init(key, optax.sgd(1.0)), key)
    millions = sum(leaf.size for leaf in jax.tree.leaves(state.params)) / 1e6
    assert abs(millions - 8.4) < 0.15
    assert state.extra["codebooks"].centroids.shape == (4, 1024, 256)
    assert recipe.model.samples_per_frame == 320
    assert set(state.extra["game"]["params"]) == {"stft", "wave_0", "wave_1", "wave_2"}


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_runs_begin_with_what_they_cost(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("poet train --gin_file" in line for line in head)
    assert any("core" in line for line in head)
