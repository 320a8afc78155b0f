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


# Of `poet evaluate` and `poet ablate`.
OTHERS = ("evaluate", "ablation", "ablation_sizes")
RUNS = sorted(path for path in (GIN / "runs").glob("*.gin") if path.stem not in OTHERS)
TIME = r"\b(a|[\d.]+) (minute|hour|day)s?\b"
SECONDS = {"minute": 60, "hour": 3600, "day": 86_400}
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
    bindings = [f"{macro} = '{tmp_path}'" for macro in macros]
    commands.read_gin([f"gin/runs/{name}.gin"], [*bindings, "MeshConfig.replica = 2"])
    run = commands.call_configured(lm.LMRun)
    assert run.loop.num_steps > 0
    assert run.mesh.replica == 2  # what tools/launch binds for two slices


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("ablation", {"T2V": 1, "T2V+I": 2, "SSL": 10, "NO T2I": 11, "ALL": 12}),
        ("ablation_sizes", {"d 32": 12, "d 64": 12, "d 128": 12}),
    ],
)
def test_comparisons(name, rows, tmp_path):
    """Each variant has its own tasks or its own size, and all may be asked for everything."""
    from poet.data import registry
    from poet.evals.ablation import Ablation

    macros = ("OUT", "DATA_DIR", "CLIPS", "TOKENIZERS")
    commands.read_gin([f"gin/runs/{name}.gin"], [f"{macro} = '{tmp_path}'" for macro in macros])
    found = commands.call_configured(Ablation)
    runs = {variant.name: variant.run for variant in found.variants}
    registry.load_task_modules(found.variants[0].run.task_modules)
    tasks = {each: len(registry.resolve(run.mixture_or_task_name)) for each, run in runs.items()}
    assert tasks == rows and {run.known_tasks for run in runs.values()} == {"poet_table1_all"}
    widths = [run.model.d_model for run in runs.values()]
    assert widths == ([32, 64, 128] if name == "ablation_sizes" else [128] * 5)
    head = (GIN / "runs" / f"{name}.gin").read_text()
    assert "poet ablate --gin_file" in head and "two CPU cores" in head


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
    assert any("core" in line or "chips" in line for line in head)
    text = " ".join(line.removeprefix("#").strip() for line in head)
    assert re.search(TIME, text, re.IGNORECASE)
    if step := re.search(r"([\d.]+) s a step", text):  # predicted, and not measured
        number, unit = re.search(TIME, text[step.end() :]).groups()
        steps = re.search(r"^TRAIN_STEPS = ([\d_]+)", path.read_text(), re.MULTILINE)[1]
        predicted = float(step[1]) * int(steps) / SECONDS[unit]
        assert abs(float(number) / predicted - 1) < 0.03, (number, predicted)


def test_any_model_file_goes_with_the_large_runs(tmp_path):
    """The later file decides every size, the type of the products too."""
    from poet.train import lm

    for name, layers, dtype in (("8b", 40, "bfloat16"), ("tiny", 2, "float32")):
        files = ["gin/runs/finetune_lora.gin", f"gin/models/{name}.gin"]
        macros = ("MODEL_DIR", "DATA_DIR", "INIT_FROM")
        commands.read_gin(files, [f"{macro} = '{tmp_path}'" for macro in macros])
        run = commands.call_configured(lm.LMRun)
        assert (run.model.num_layers, run.model.dtype) == (layers, dtype)
        assert run.adapters.rank == 16 and run.optimizer.schedule == "wsd"


def test_the_papers_recipe(tmp_path):
    """Rate, steps, and 1,024 clips of text-to-video a step, 1,351 tokens each at its sizes."""
    from poet.tokens import sequence, tasks
    from poet.tokens.clip import ClipShape
    from poet.train import lm

    macros = ("MODEL_DIR", "DATA_DIR")
    commands.read_gin(["gin/runs/paper_300m.gin"], [f"{name} = '{tmp_path}'" for name in macros])
    run = commands.call_configured(lm.LMRun)
    assert (run.optimizer.learning_rate, run.loop.num_steps) == (1e-3, 300_000)
    sizes = (ClipShape(17, 128, 128), None, run.model.text_slots, run.model.vocabulary)
    assert sequence.plan(tasks.get("text_to_video"), *sizes).length == 1351
    assert run.batch_tokens == 1024 * 1351 and run.mixture_or_task_name == "poet_table1_all"
