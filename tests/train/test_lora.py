"""Adapters: what they compute, what is saved, and that their base never changes."""

import dataclasses
import importlib.util
import pathlib
import shutil
import types

import flax.linen as nn
import gin
import jax
import jax.numpy as jnp
import mesh_programs
import numpy as np
import optax
import pytest
import tiny_lm
from jax.interpreters import partial_eval
from jax.sharding import NamedSharding, PartitionSpec
from jaxprs import equations

from poet.layers.linear import Linear
from poet.main import train as train_command
from poet.models.prefix_lm import PrefixLM
from poet.sample import loading
from poet.train import checkpoint, lora, metrics, partitioning, state
from poet.train.lora import LoraConfig

CONFIG = LoraConfig(rank=3, alpha=6.0)
ONE_LAYER = dataclasses.replace(tiny_lm.CONFIG, num_layers=1)
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


def one_layer():
    params = tiny_lm.lively_params()
    return params | {"layers": jax.tree.map(lambda leaf: leaf[:1], params["layers"])}


def lively(config, params):
    """Adapters whose B is not zero."""
    draw = np.random.default_rng(0)
    made = lora.init(config, params, jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf + 0.05 * draw.normal(size=leaf.shape), made)


def test_logits_merged_or_beside_are_those_of_a_formula_written_here():
    """x W + 2 (x A) B, added by hand to the base's own product in every linear map of the block."""
    params, plan = one_layer(), tiny_lm.plan_of("image_to_video")
    batch = tiny_lm.batch_of("image_to_video")
    adapters = lively(CONFIG, params)
    block = adapters["layers"]["block"]
    pairs = block | block["mlp"]
    seen = []

    def by_hand(call, args, kwargs, context):
        y, module = call(*args, **kwargs), context.module
        if not isinstance(module, Linear) or "layers" not in module.path:
            return y
        seen.append(module.name)
        pair, num_in = pairs[module.name], lora.KERNELS[module.name]
        low = jnp.tensordot(args[0], pair["a"][0], num_in)
        return y + 2.0 * jnp.tensordot(low, pair["b"][0], 1)

    def logits(variables):
        hidden = PrefixLM(ONE_LAYER).apply(variables, plan, batch)
        return hidden @ params["head"]["visual"].T

    with nn.intercept_methods(by_hand):
        want = jax.jit(lambda: logits({"params": params}))()
    plain = jax.jit(logits)
    merged = plain({"params": lora.merge(CONFIG, params, adapters)})
    np.testing.assert_allclose(merged, want, atol=1e-5)
    np.testing.assert_allclose(plain(lora.beside(CONFIG, params, adapters)), want, atol=1e-5)
    assert set(seen) == set(lora.KERNELS)
    assert np.abs(want - plain({"params": params})).max() > 0.01


def test_no_gradient_of_a_kernels_shape_is_formed():
    params, plan = one_layer(), tiny_lm.plan_of("image_to_video")
    batch, adapters = tiny_lm.batch_of("image_to_video"), lively(CONFIG, params)
    # As products see them: query (and out), key and value, gate and up, down; d is 16.
    kernels = {(16, 16), (16, 8), (16, 24), (24, 16)}

    def formed(variables):
        def loss(pairs):
            return PrefixLM(ONE_LAYER).apply(variables(pairs), plan, batch, method="loss")[0]

        jaxpr = jax.make_jaxpr(jax.grad(loss))(adapters).jaxpr
        jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
        products = [one for one in equations(jaxpr) if one.primitive.name == "dot_general"]
        shapes = [product.outvars[0].aval.shape for product in products]
        return [s for s in shapes if s in kernels or s[::-1] in kernels]

    assert len(formed(lambda pairs: {"params": lora.merge(CONFIG, params, pairs)})) == 7
    assert formed(lambda pairs: lora.beside(CONFIG, params, pairs)) == []


@pytest.mark.slow
def test_on_a_mesh_loss_and_gradients_are_those_of_one_device():
    config = mesh_programs.CONFIG
    base = mesh_programs.params_of(config)
    adapters = jax.device_get(lively(CONFIG, base))

    def run(mesh):
        programs, batch = mesh_programs.programs_on(mesh, config, adapters=CONFIG)
        programs.adapt(jax.tree.map(put, base, programs.model_shapes))
        params = jax.tree.map(put, adapters, programs.state_shapes.params)
        begun = state.create(params, optax.sgd(1.0).init(params))
        batch = partitioning.shard_batch(batch, mesh)
        compiled = programs.compile_gradients("it")
        return jax.device_get(compiled(begun, batch, jax.random.key(0)))

    (want, facts), (got, got_facts) = (
        run(mesh_programs.mesh_of(*sizes)) for sizes in ((1, 1, 1, 1), (1, 2, 1, 2))
    )
    np.testing.assert_allclose(got_facts["loss_nats"], facts["loss_nats"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * abs(b).max()), got, want)
    assert all(abs(leaf).max() > 0 for leaf in jax.tree.leaves(want))


def put(value, like):
    return jax.device_put(value, like.sharding)


def test_a_run_begins_with_its_base_and_only_named_kernels_are_adapted():
    params = one_layer()
    config = LoraConfig(rank=2, kernels=("query", "down"))
    adapters = lora.init(config, params, jax.random.key(0))
    shapes = jax.tree.map(jnp.shape, adapters["layers"]["block"])
    assert shapes == {
        "query": {"a": (1, 16, 2), "b": (1, 2, 4, 4)},
        "mlp": {"down": {"a": (1, 24, 2), "b": (1, 2, 16)}},
    }
    before = jax.tree.map(np.array, params)
    merged = lora.merge(config, params, adapters)
    jax.tree.map(np.testing.assert_array_equal, merged, before)
    moved = lora.merge(config, params, lively(config, params))
    differing = {
        partitioning.path_names(path)[-2]
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(moved), jax.tree.leaves(before), strict=True
        )
        if (a != b).any()
    }
    assert differing == {"query", "down"}
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_adapters_lie_as_their_kernels_do():
    mesh = partitioning.make_mesh(partitioning.MeshConfig(fsdp=2, tensor=2))
    places = partitioning.param_shardings(tiny_lm.boxed_params(), mesh)
    found = lora.shardings(CONFIG, places)["layers"]["block"]
    assert found["out"]["a"].spec == PartitionSpec(None, "tensor", None, None)
    assert found["out"]["b"].spec == PartitionSpec(None, None, "fsdp")
    assert found["mlp"]["up"]["a"].spec == PartitionSpec(None, "fsdp", None)
    assert found["mlp"]["up"]["b"].spec == PartitionSpec(None, None, "tensor")


def test_a_fingerprint_sees_every_bit_and_no_mesh():
    numbers = np.arange(24, dtype=np.float32).reshape(4, 6)
    found = lora.fingerprint({"w": numbers})
    mesh = partitioning.make_mesh()
    spread = jax.device_put(numbers, NamedSharding(mesh, PartitionSpec("fsdp")))
    assert lora.fingerprint({"w": spread}) == found
    turned, nudged = numbers[::-1], numbers.copy()
    nudged[3, 5] = np.nextafter(nudged[3, 5], 99)
    others = [{"w": turned}, {"w": nudged}, {"v": numbers}, {"w": numbers.reshape(6, 4)}]
    assert len({found, *map(lora.fingerprint, others)}) == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 0}, "rank=0 must be at least 1"),
        ({"kernels": ("query", "gates")}, r"kernels=.*gates.* names of a block's kernels; choose"),
        ({"kernels": ()}, "choose among query, key"),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(ValueError, match=words):
        LoraConfig(**changes)


def train(run, folder, dataset, *more):
    code = train_command.main(
        ["--gin_file", f"gin/runs/{run}.gin", "--gin_file", "gin/models/tiny.gin"]
        + [f"--gin.MODEL_DIR={folder}", f"--gin.DATA_DIR={dataset}", "--gin.BATCH_TOKENS=300"]
        + ["--gin.MIXTURE_OR_TASK_NAME=poet_unconditional"]
        + ["--gin.lm_program.Evaluation.num_examples=0", "--gin.SAVE_PERIOD=2", *more]
    )
    gin.clear_config()
    return code


def finetune(folder, base, dataset, *more):
    fast = ["--gin.WARMUP_STEPS=0", "--gin.LEARNING_RATE=1e-2", "--gin.TRAIN_STEPS=4"]
    more = (*fast, "--gin.loop.LoopConfig.log_period=1", f"--gin.INIT_FROM={base}", *more)
    return train("finetune_lora", folder, dataset, *more)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, small_dataset):
    """A base of two steps and adapters of four, with the base's files before and after."""
    out = tmp_path_factory.mktemp("lora")
    assert train("tiny", out / "base", small_dataset, "--gin.TRAIN_STEPS=2") == 0
    before = files_of(out / "base")
    assert finetune(out / "lora", out / "base", small_dataset, "--gin.EMA_DECAY=0.5") == 0
    return out, before


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def losses(folder):
    return [row["loss_nats"] for row in metrics.read_metrics(folder) if row["kind"] == "train"]


def test_adapters_are_saved_alone_and_the_base_is_as_it_was(folders):
    out, before = folders
    assert files_of(out / "base") == before
    saved = checkpoint.load_params(out / "lora")
    assert saved.keys() == {"layers"} and np.abs(saved["layers"]["block"]["out"]["b"]).max() > 0
    meta = checkpoint.read_meta(out / "lora")
    assert meta["base"] == lora.fingerprint(checkpoint.load_params(out / "base"))
    assert meta["init_from"] == {"model_dir": str(out / "base"), "step": 2}
    got = losses(out / "lora")
    assert len(got) == 4 and got[-1] < got[0]


def test_adapters_go_on_and_end_the_same(folders, small_dataset, tmp_path):
    """Also without the average that the checkpoint has."""
    out, _ = folders
    shutil.copytree(out / "lora", tmp_path / "lora")
    shutil.rmtree(tmp_path / "lora" / checkpoint.FOLDER / "4")
    assert finetune(tmp_path / "lora", out / "base", small_dataset) == 0
    want, got = (checkpoint.load_params(folder / "lora") for folder in (out, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_another_base_is_refused(folders, small_dataset, tmp_path, capsys):
    out, _ = folders
    shutil.copytree(out / "base", tmp_path / "base")
    params = checkpoint.load_params(out / "base")
    params["text_pad"] = params["text_pad"] + 1
    shutil.rmtree(tmp_path / "base" / checkpoint.FOLDER)
    meta = checkpoint.read_meta(out / "base")
    other = state.create(params, {}).replace(step=jnp.asarray(2, jnp.int32))
    with checkpoint.Checkpoints(tmp_path / "base") as checkpoints:
        checkpoints.save(other, meta)
    shutil.copytree(out / "lora", tmp_path / "lora")
    assert finetune(tmp_path / "lora", tmp_path / "base", small_dataset, "--gin.TRAIN_STEPS=5") == 2
    assert "give the base they were trained on" in capsys.readouterr().err
    meta = checkpoint.read_meta(out / "lora")
    with pytest.raises(ValueError, match="The adapters were trained on parameters .* but step 2"):
        lora.load_merged(out / "lora", meta, base_dir=tmp_path / "base")
    with pytest.raises(ValueError, match="which cannot be read .* put it back, or say where"):
        lora.load_merged(out / "lora", meta, base_dir=tmp_path / "gone")
    assert finetune(tmp_path / "new", "", small_dataset) == 2
    assert "Adapters need the model that they adapt" in capsys.readouterr().err


@pytest.mark.slow
def test_sampling_takes_adapters_or_what_they_were_merged_to(
    folders, tmp_path, monkeypatch, capsys
):
    out, _ = folders
    spec = importlib.util.spec_from_file_location("merge_lora", ROOT / "tools" / "merge_lora.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    words = ["--checkpoint", str(out / "lora"), "--out", str(tmp_path / "merged")]
    assert tool.main(words) == 0
    prints = {"visual": "abc", "audio": "def"}
    tokenizers = tuple(types.SimpleNamespace(fingerprint=print_) for print_ in prints.values())
    monkeypatch.setattr(loading, "load_tokenizers", lambda folder: tokenizers)
    whole = loading.load_engine(tmp_path / "merged", "")
    parts = loading.load_engine(out / "lora", "")
    jax.tree.map(np.testing.assert_array_equal, parts._params, whole._params)
    spread = loading.load_engine(out / "lora", "", num_tensor=2, base_dir=out / "base")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), spread._params, whole._params
    )
    means = loading.load_engine(out / "lora", "", averaged=True)
    assert means.facts["weights"] == "averaged"
    differ = jax.tree.map(lambda a, b: bool((a != b).any()), means._params, parts._params)
    assert differ["layers"][0]["qkv"]["kernel"] and not any(jax.tree.leaves(differ["heads"]))
    with pytest.raises(ValueError, match="has no averaged weights; train with an Updates.ema_dec"):
        loading.load_engine(out / "base", "", averaged=True)
    assert parts.facts["base"] == checkpoint.read_meta(out / "lora")["base"]
    capsys.readouterr()
    assert tool.main(words) == 2
    assert "is there already; name a new folder" in capsys.readouterr().err
    assert tool.main(["--checkpoint", str(out / "base"), "--out", str(tmp_path / "x")]) == 2
    assert "should hold adapters, but holds 'prefix_lm'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is a whole model, not adapters of one; leave out --base"):
        loading.load_engine(out / "base", "", base_dir=out / "base")
