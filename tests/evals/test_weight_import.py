"""Published layouts of I3D, C3D and VGGish, written here by their names and brought to our tree."""

import numpy as np
import pytest
from flax import serialization, traverse_util
from random_weights import TINY_C3D, TINY_VGGISH, random_i3d, random_params
from torch_files import write_zip

from poet.evals import metric_weights, weight_import

TF_BRANCHES = {
    "b0": "Branch_0/Conv3d_0a_1x1",
    "b1a": "Branch_1/Conv3d_0a_1x1",
    "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1",
    "b2b": "Branch_2/Conv3d_0b_3x3",
    "b3": "Branch_3/Conv3d_0b_1x1",
}
TORCH_BRANCHES = {
    "videogpt": {each: each for each in TF_BRANCHES} | {"b3": "b3b"},
    "hassony2": {
        "b0": "branch_0",
        "b1a": "branch_1.0",
        "b1b": "branch_1.1",
        "b2a": "branch_2.0",
        "b2b": "branch_2.1",
        "b3": "branch_3.1",
    },
}


@pytest.fixture(scope="module")
def ours():
    return random_i3d()


def units(ours):
    """unit -> {kernel, mean, ...} in the order of the network."""
    found = {}
    for unit in weight_import.i3d_units():
        names = [name for name in ours if name.rsplit("/", 1)[0] == unit]
        found[unit] = {name.rsplit("/", 1)[1]: ours[name] for name in names}
    return found


def as_tf(ours):
    found = {"global_step": np.array(3)}
    for unit, parts in units(ours).items():
        layer, _, branch = unit.partition("/")
        base = f"{layer}/{TF_BRANCHES[branch]}" if branch else layer
        base = "Logits/Conv3d_0c_1x1" if unit == "logits" else base
        if unit == "Mixed_5b/b2b":
            base = base.replace("0b_3x3", "0a_3x3")  # The original's typing error.
        base = f"RGB/inception_i3d/{base}"
        found[f"{base}/conv_3d/w"] = parts["kernel"]
        if unit == "logits":
            found[f"{base}/conv_3d/b"] = parts["bias"]
            continue
        for theirs, name in (
            ("beta", "beta"),
            ("moving_mean", "mean"),
            ("moving_variance", "variance"),
        ):
            found[f"{base}/batch_norm/{theirs}"] = parts[name].reshape(1, 1, 1, 1, -1)
    return found


def as_flax(ours):
    found = {}
    for unit, parts in units(ours).items():
        layer, _, branch = unit.partition("/")
        path = (layer, TF_BRANCHES[branch].replace("/", ".")) if branch else (layer,)
        path = ("Logits.Conv3d_0c_1x1",) if unit == "logits" else path
        found["params", *path, "conv_3d", "kernel"] = parts["kernel"]
        if unit == "logits":
            found["params", *path, "conv_3d", "bias"] = parts["bias"]
            continue
        found["params", *path, "batch_norm", "beta"] = parts["beta"]
        found["params", *path, "batch_norm", "moving_mean"] = parts["mean"]
        found["params", *path, "batch_norm", "moving_variance"] = parts["variance"]
    return traverse_util.unflatten_dict(found)


def as_torch(ours, layout):
    found = {}
    norm = {"videogpt": "bn", "hassony2": "batch3d", "unknown": "norm"}[layout]
    conv = "conv" if layout == "unknown" else "conv3d"
    for number, (unit, parts) in enumerate(units(ours).items()):
        layer, _, branch = unit.partition("/")
        if layout == "unknown":
            base = f"net.layer{number}"
        elif layout == "videogpt":
            base = f"{layer}.{TORCH_BRANCHES[layout][branch]}" if branch else layer
        else:
            base = f"{layer}.{TORCH_BRANCHES[layout][branch]}" if branch else layer
            base = "conv3d_0c_1x1" if unit == "logits" else base.lower()
        found[f"{base}.{conv}.weight"] = parts["kernel"].transpose(4, 3, 0, 1, 2)
        if unit == "logits":
            found[f"{base}.{conv}.bias"] = parts["bias"]
            continue
        found[f"{base}.{norm}.weight"] = np.ones_like(parts["beta"])
        found[f"{base}.{norm}.bias"] = parts["beta"]
        found[f"{base}.{norm}.running_mean"] = parts["mean"]
        found[f"{base}.{norm}.running_var"] = parts["variance"]
        found[f"{base}.{norm}.num_batches_tracked"] = np.array(0)
    if layout == "videogpt":  # Its class defines the last layer first.
        last = [name for name in found if name.startswith("logits")]
        found = {name: found[name] for name in last} | found
    return found


def assert_equal(made, expected):
    assert sorted(made.tensors) == sorted(expected) == sorted(made.key_map)
    for name, value in expected.items():
        np.testing.assert_array_equal(made.tensors[name], value)


@pytest.mark.parametrize("layout", ["tf", "videogpt", "hassony2", "by order"])
def test_i3d_from_names(layout, ours):
    if layout == "tf":
        found = as_tf(ours)
    else:
        found = as_torch(ours, "unknown" if layout == "by order" else layout)
    made = weight_import.import_i3d(found)
    assert made.layout == layout
    assert_equal(made, ours)
    assert set(made.key_map.values()) <= set(found)
    metric_weights.check(made.tensors, metric_weights.network_of("i3d"), "i3d", "it")


def test_i3d_from_a_torchscript_file(ours, tmp_path):
    """Modules in modules, as `torch.jit.save` nests them; the epsilon from their code's text."""
    flat = {tuple(name.split(".")): each for name, each in as_torch(ours, "hassony2").items()}
    tree = traverse_util.unflatten_dict(flat)
    path = tmp_path / "i3d_torchscript.pt"
    write_zip(path, tree, is_script=True, code="eps : Final[float] = 0.001\n")
    found, epsilons = weight_import.read_source(path)
    assert epsilons == {1e-3}
    made = weight_import.import_i3d(found, *epsilons)
    assert made.layout == "hassony2"
    assert_equal(made, ours)


def test_i3d_from_msgpack(ours, tmp_path):
    path = tmp_path / "i3d_k400.flax"
    path.write_bytes(serialization.to_bytes(as_flax(ours)))
    made = weight_import.import_i3d(weight_import.read_source(path)[0])
    assert made.layout == "flax"
    assert_equal(made, ours)


def test_gains_and_another_epsilon_keep_the_function(ours):
    """A unit computes gain (conv - mean) / sqrt(variance + epsilon) + beta."""
    found = as_torch(ours, "videogpt")
    unit = "Mixed_4b.b1b"
    gain = np.linspace(-2, 2, 208).astype(np.float32)
    found[f"{unit}.bn.weight"] = gain
    made = weight_import.import_i3d(found, 1e-5).tensors
    ours_unit = {name: ours[f"Mixed_4b/b1b/{name}"] for name in ("kernel", "mean", "variance")}
    theirs = gain * (ours_unit["kernel"].sum((0, 1, 2, 3)) - ours_unit["mean"])
    theirs = theirs / np.sqrt(ours_unit["variance"] + 1e-5)
    new = {name: made[f"Mixed_4b/b1b/{name}"] for name in ("kernel", "mean", "variance")}
    again = (new["kernel"].sum((0, 1, 2, 3)) - new["mean"]) / np.sqrt(new["variance"] + 1e-3)
    np.testing.assert_allclose(again, theirs, rtol=1e-4, atol=1e-4)


def test_other_files_are_refused(ours, tmp_path):
    with pytest.raises(ValueError, match="Expected an I3D of 58 convolutions in a known layout"):
        weight_import.import_i3d({"conv1.weight": np.zeros((2, 3, 3, 3))})
    found = as_torch(ours, "videogpt")
    del found["Mixed_4c.b2a.bn.running_var"]
    with pytest.raises(ValueError, match="has no tensor Mixed_4c.b2a.bn.running_var"):
        weight_import.import_i3d(found)
    (tmp_path / "a.h5").write_bytes(b"")
    (tmp_path / "a.flax").write_bytes(b"\x93")
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="ends in '.h5'; expected one of .pt, .pth"):
        weight_import.read_source(tmp_path / "a.h5")
    for name in ("a.flax", "a.npz"):
        with pytest.raises(ValueError, match="is cut off or damaged"):
            weight_import.read_source(tmp_path / name)
    with pytest.raises(ValueError, match="found none; check the path"):
        weight_import.read_source(tmp_path / "b.npz")


def test_c3d_from_the_pair_of_tgan2(tmp_path):
    ours = random_params(TINY_C3D)
    rng = np.random.default_rng(5)
    mean = rng.uniform(80, 120, (3, 16, 128, 171)).astype(np.float32)
    ours["offset"] = -mean[:, :, 8:120, 8:120].transpose(1, 2, 3, 0)
    found = {}
    for name, value in ours.items():
        layer, _, part = name.partition("/")
        if part == "kernel":
            found[f"{layer}/W"] = value.transpose(4, 3, 0, 1, 2) if value.ndim == 5 else value.T
        elif part == "bias":
            found[f"{layer}/b"] = value
    np.savez(tmp_path / "conv3d_deepnetA_ucf.npz", **found)
    np.savez(tmp_path / "mean2.npz", mean=mean)
    read = {}
    for name in ("conv3d_deepnetA_ucf", "mean2"):
        read |= weight_import.read_source(tmp_path / f"{name}.npz")[0]
    made = weight_import.import_c3d(read)
    assert made.layout == "chainer"
    assert_equal(made, ours)
    metric_weights.check(made.tensors, TINY_C3D, "c3d", "it")
    with pytest.raises(ValueError, match="has no tensor mean"):
        weight_import.import_c3d(found)


def test_c3d_from_msgpack(tmp_path):
    ours = random_params(TINY_C3D)
    theirs = {name: value for name, value in ours.items() if name != "offset"}
    tree = traverse_util.unflatten_dict(theirs | {"x_offset": ours["offset"]}, sep="/")
    (tmp_path / "c3d.flax").write_bytes(serialization.to_bytes({"params": tree}))
    made = weight_import.import_c3d(weight_import.read_source(tmp_path / "c3d.flax")[0])
    assert made.layout == "flax"
    assert_equal(made, ours)


def test_vggish_from_both_layouts():
    ours = random_params(TINY_VGGISH)
    places = ("features.0", "features.3", "features.6", "features.8", "features.11")
    places += ("features.13", "embeddings.0", "embeddings.2", "embeddings.4")
    scopes = ("conv1", "conv2", "conv3/conv3_1", "conv3/conv3_2", "conv4/conv4_1")
    scopes += ("conv4/conv4_2", "fc1/fc1_1", "fc1/fc1_2", "fc2")
    layers = ("conv1", "conv2", "conv3_1", "conv3_2", "conv4_1", "conv4_2")
    layers += ("fc1_1", "fc1_2", "fc2")
    tf, torch = {}, {}
    for layer, scope, place in zip(layers, scopes, places, strict=True):
        kernel = ours[f"{layer}/kernel"]
        tf[f"vggish/{scope}/weights"], torch_kernel = kernel, kernel.T
        if kernel.ndim == 4:
            torch_kernel = kernel.transpose(3, 2, 0, 1)
        torch[f"{place}.weight"] = torch_kernel
        tf[f"vggish/{scope}/biases"] = torch[f"{place}.bias"] = ours[f"{layer}/bias"]
    for layout, found in (("tf", tf), ("torch", torch)):
        made = weight_import.import_vggish(found)
        assert made.layout == layout
        assert_equal(made, ours)
        metric_weights.check(made.tensors, TINY_VGGISH, "vggish", "it")
