"""T5 weights of Hugging Face in our encoder: the numbers of `transformers`, and bad files refused.

tests/golden/t5_outputs.json was made with transformers 5.23 by
`POET_WRITE_GOLDEN=1 pytest tests/models/test_t5_weights.py` where torch is installed.
"""

import importlib.util
import json
import os
import pathlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from safetensors.numpy import save_file
from tiny_t5 import KINDS, config_of, tensors_of, write

from poet.models import t5_weights
from poet.models.text_encoder import T5Encoder

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "t5_outputs.json"
TEXT_IDS = np.array([[5, 40, 7, 9, 30, 2, 11, 49, 3, 1], [8, 1, 0, 0, 0, 0, 0, 0, 0, 0]])


def encode(folder):
    config, params = t5_weights.read_config(folder), t5_weights.read_params(folder)
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(T5Encoder(config).apply)
        return np.asarray(apply({"params": params}, jnp.asarray(TEXT_IDS)))


def transformers_outputs(kind):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.T5EncoderModel(transformers.T5Config(**config_of(kind))).eval()
    state = {name: torch.tensor(value) for name, value in tensors_of(kind).items()}
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    model.load_state_dict(state)
    ids = torch.tensor(TEXT_IDS)
    with torch.no_grad():
        return model(ids, attention_mask=(ids != 0).long()).last_hidden_state.numpy()


def assert_close(found, expected):
    """Relative error at most 1e-5, where there is text."""
    is_text = TEXT_IDS != 0
    error = np.abs(found - expected)[is_text].max() / np.abs(expected[is_text]).max()
    assert error <= 1e-5, error


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_written_down(kind, tmp_path):
    if os.environ.get("POET_WRITE_GOLDEN"):
        made = {each: transformers_outputs(each).tolist() for each in KINDS}
        GOLDEN.write_text(json.dumps(made) + "\n")
    golden = np.array(json.loads(GOLDEN.read_text())[kind])
    assert_close(encode(write(tmp_path, kind)), golden)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_transformers(kind, tmp_path):
    assert_close(encode(write(tmp_path, kind)), transformers_outputs(kind))


def test_the_tree_is_the_one_that_init_makes(tmp_path):
    folder = write(tmp_path)
    config, params = t5_weights.read_config(folder), t5_weights.read_params(folder)
    made = meta.unbox(jax.eval_shape(T5Encoder(config).init, jax.random.key(0), TEXT_IDS)["params"])
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, made)


def test_parts_with_an_index_whole_models_and_half_precision_are_the_same(tmp_path):
    expected = encode(write(tmp_path / "one"))
    tensors = tensors_of("gated") | {"decoder.final_layer_norm.weight": np.ones(3, np.float32)}
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    parts = write(tmp_path / "parts", tensors={})
    (parts / "model.safetensors").unlink()
    names, file_of = sorted(tensors), {}
    for number, chosen in enumerate((names[::2], names[1::2])):
        file = f"model-{number}.safetensors"
        save_file({name: tensors[name] for name in chosen}, parts / file)
        file_of |= dict.fromkeys(chosen, file)
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}))
    np.testing.assert_array_equal(encode(parts), expected)
    halves = {k: np.asarray(jnp.asarray(v, jnp.bfloat16)) for k, v in tensors_of("gated").items()}
    params = t5_weights.read_params(write(tmp_path / "half", tensors=halves))
    assert params["embedding"].dtype == np.float32
    np.testing.assert_allclose(params["embedding"], tensors_of("gated")["shared.weight"], rtol=1e-2)


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_damaged_and_hostile_files_are_one_sentence_and_run_nothing(tmp_path):
    folder = write(tmp_path / "t5")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    for content in (whole[:-40], whole[:20], (2**62).to_bytes(8, "little") + b"{}", b"", bomb):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is missing or no whole safetensors file .*copy it"):
            t5_weights.read_params(folder)
    path.unlink()
    (folder / "pytorch_model.bin").write_bytes(bomb)
    with pytest.raises(ValueError, match=r"convert pytorch_model.bin with tools/convert_t5.py"):
        t5_weights.read_params(folder)
    assert not (tmp_path / "ran").exists()


def test_other_models_are_refused_by_what_differs(tmp_path):
    tensors = tensors_of("gated")
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    folder = write(tmp_path / "a", tensors=tensors | {name: tensors[name].T.copy()})
    with pytest.raises(
        ValueError, match=r"q.weight in .* has shape \(16, 24\), expected \(24, 16\)"
    ):
        t5_weights.read_params(folder)
    folder = write(tmp_path / "b", tensors={k: v for k, v in tensors.items() if k != name})
    with pytest.raises(ValueError, match="has no tensor encoder.block.1.layer.0.SelfAttention.q"):
        t5_weights.read_params(folder)
    for change, words in (
        ({"model_type": "bert"}, "model_type 'bert'; expected 't5'"),
        ({"feed_forward_proj": "gated-silu"}, "this encoder computes 'relu'"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon=1e-05"),
        ({"d_ff": None}, "does not say d_ff"),
    ):
        (folder / "config.json").write_text(json.dumps(config_of("gated") | change))
        with pytest.raises(ValueError, match=words):
            t5_weights.read_config(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        t5_weights.read_config(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: "../../elsewhere.safetensors"}}))
    with pytest.raises(ValueError, match="has no weight_map from tensors to .safetensors files"):
        t5_weights.read_params(folder, t5_weights.read_config(write(tmp_path / "c")))


def test_pickles_are_converted_where_torch_is(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("convert_t5", ROOT / "tools" / "convert_t5.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    src = write(tmp_path / "src")
    expected = encode(src)
    (src / "model.safetensors").unlink()
    state = {name: torch.tensor(value) for name, value in tensors_of("gated").items()}
    torch.save(state, src / "pytorch_model.bin")
    assert tool.main([f"--src={src}", f"--dst={tmp_path / 'dst'}"]) == 0
    np.testing.assert_array_equal(encode(tmp_path / "dst"), expected)
    (src / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    assert tool.main([f"--src={src}", f"--dst={tmp_path / 'bad'}"]) == 2
    assert "was not run" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists() and not (tmp_path / "bad").exists()
