"""The converter from end to end, on files that are written here."""

import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from poet.evals import clip_scorer, i3d, metric_weights, weight_import

ROOT = pathlib.Path(__file__).parents[2]


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool():
    return loaded(ROOT / "tools" / "convert_metric_weights.py")


def i3d_state():
    """A state dict with the names of VideoGPT's class."""
    shapes = metric_weights.network_of("i3d").shapes()
    draws = np.random.default_rng(0).random(8 * 1024 * 1024, np.float32) + 0.5
    names = {"kernel": "conv3d.weight", "bias": "conv3d.bias", "mean": "bn.running_mean"}
    names |= {"variance": "bn.running_var", "beta": "bn.bias"}
    found = {}
    for name, shape in shapes.items():
        unit, _, part = name.rpartition("/")
        unit = f"{unit}b" if unit.endswith("b3") else unit
        shape = (shape[4], shape[3], *shape[:3]) if len(shape) == 5 else shape
        found[f"{unit.replace('/', '.')}.{names[part]}"] = draws[: np.prod(shape)].reshape(shape)
    return found


def test_i3d_is_converted_and_loaded(tool, tmp_path, capsys):
    source, target = tmp_path / "i3d_pretrained_400.safetensors", tmp_path / "i3d.safetensors"
    save_file(i3d_state(), source)
    argv = ["--kind=i3d", f"--src={source}", f"--dst={target}", "--epsilon=1e-5"]
    assert tool.main(argv) == 0
    said = capsys.readouterr().out
    assert "12,704,544 numbers of i3d" in said and "UNVERIFIED WEIGHTS: sha256" in said
    weights = metric_weights.load(target, "i3d")
    facts = weights.facts
    assert facts["layout"] == "videogpt" and facts["source_epsilon"] == 1e-5
    assert facts["num_numbers"] == i3d.NUM_NUMBERS
    assert facts["source_sha256"] == metric_weights.sha256_of(source)
    assert facts["key_map"]["Mixed_3b/b3/mean"] == "Mixed_3b.b3b.bn.running_mean"
    assert weights.params["Mixed_3b"]["b3"]["mean"].shape == (32,)
    assert tool.main(argv) == 2
    assert "is there already" in capsys.readouterr().err


def test_clip_is_one_whole_file(tool, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "evals")
    tiny_clip = loaded(ROOT / "tests" / "evals" / "tiny_clip.py")
    folder = tiny_clip.write(tmp_path / "clip")
    for target in (tmp_path / "clip.safetensors", tmp_path / "clip.npz"):
        assert tool.main(["--kind=clip", f"--src={folder}", f"--dst={target}"]) == 0
        scorer, facts = clip_scorer.load(target)
        again, facts_again = clip_scorer.load(folder)
        assert facts == facts_again
        captions = list(tiny_clip.CAPTIONS)
        np.testing.assert_array_equal(
            scorer.caption_features(captions), again.caption_features(captions)
        )


def test_what_cannot_be_converted_ends_in_a_sentence(tool, tmp_path, capsys):
    target = f"--dst={tmp_path / 'a.npz'}"
    assert tool.main(["--kind=i3d", f"--src={tmp_path / 'absent.pt'}", target]) == 2
    error = capsys.readouterr().err
    assert "found none. Poet fetches nothing: get one of i3d_torchscript.pt" in error
    np.savez(tmp_path / "other.npz", conv=np.zeros(3))
    assert tool.main(["--kind=c3d", f"--src={tmp_path / 'other.npz'}", target]) == 2
    assert "has no tensor conv1a/W" in capsys.readouterr().err
    assert not (tmp_path / "a.npz").exists()


def test_without_tensorflow_a_checkpoint_is_refused(tool, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "vggish_model.ckpt").write_bytes(b"")
    argv = ["--kind=vggish", f"--src={tmp_path / 'vggish_model.ckpt'}"]
    assert tool.main([*argv, f"--dst={tmp_path / 'a.npz'}"]) == 2
    assert "TensorFlow, which is not installed" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_checkpoints_of_tensorflow_are_read_as_data(tool, tmp_path):
    """Both versions of the format, one file (VGGish's) and a folder of TensorFlow Hub (I3D's)."""
    tf = pytest.importorskip("tensorflow")
    values = {"vggish/conv1/weights": np.ones((3, 3, 1, 4), np.float32), "vggish/fc2/biases": [2.0]}
    names = list(values)
    tensors = [tf.constant(value, tf.float32) for value in values.values()]
    single = tmp_path / "vggish_model.ckpt"
    tf.raw_ops.Save(filename=str(single), tensor_names=names, data=tensors)
    (tmp_path / "hub" / "variables").mkdir(parents=True)
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "hub" / "variables" / "variables"),
        tensor_names=names,
        shape_and_slices=[""] * 2,
        tensors=tensors,
    )
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "new"),
        tensor_names=names,
        shape_and_slices=[""] * 2,
        tensors=tensors,
    )
    for path in (single, tmp_path / "hub", tmp_path / "new", tmp_path / "new.index"):
        assert tool._is_there(path) and tool._is_tensorflow(path)
        assert len(tool._sha256(path)) == 64
        found = tool._tensorflow_tensors(path)
        assert sorted(found) == sorted(names)
        for name, value in values.items():
            np.testing.assert_array_equal(found[name], value)
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="is no whole checkpoint of TensorFlow"):
        tool._tensorflow_tensors(tmp_path / "bad.ckpt")


def test_facts_of_a_conversion_are_json(tool, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(i3d_state(), path)
    _, facts = tool._converted("i3d", [path], None)
    assert json.loads(json.dumps(facts))["source_epsilon"] == i3d.EPSILON
    assert len(facts["key_map"]) == 4 * (len(weight_import.i3d_units()) - 1) + 2
