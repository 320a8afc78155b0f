"""Published weight files of I3D, C3D and VGGish, brought to the names and axes of our networks.

Files are read as data by `read_source`; which layout they have is seen from their names. For each
kind, the layouts and what their names were checked against:

  i3d     tf         TensorFlow Hub's variables; against public converters of them, the one typing
                     error of the original (Mixed_5b, branch 2) included
          flax       MAGVIT's msgpack; against its public Flax module
          videogpt   i3d_pretrained_400.pt; against the public class that loads it
          hassony2   the TorchScript file: its class is named after this public torch port, whose
                     names these are; the file itself was not seen
          by order   any other TorchScript: units in the order of the file, if all shapes fit
  c3d     chainer    TGAN2's two .npz; against its public code. Offset: minus the middle of the mean
          flax       MAGVIT's msgpack; against its public Flax module
  vggish  tf         TF-Slim's variables; against the public definition
          torch      torchvggish's state dict; against the public class
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import serialization, traverse_util

from poet.evals import c3d, i3d, torch_archive, vggish
from poet.tokenizers import weight_files

_TORCH = (".pt", ".pth", ".bin")
_MSGPACK = (".flax", ".msgpack")
# The middle of TGAN2's mean pictures of 128 x 171.
_MEAN_FROM = 8


class Imported(NamedTuple):
    """Tensors by our names, and which of the source's each was made from."""

    tensors: dict[str, np.ndarray]
    key_map: dict[str, str]
    layout: str


class _Layout(NamedTuple):
    """Names of an I3D unit's tensors: `base` gives its path, the rest what is appended."""

    base: Callable[[str], list[str]]
    kernel: str
    bias: str
    mean: str
    variance: str
    beta: str
    gain: str | None
    is_torch: bool


def read_source(path: str | Path) -> tuple[dict[str, np.ndarray], frozenset[float]]:
    """(name -> tensor, batch norms' epsilons that the file tells) of a published file.

    Raises:
      ValueError: The file is missing, damaged, or of a kind that is not read here.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"Expected a weight file at {path}, found none; check the path.")
    if path.suffix in _TORCH:
        return torch_archive.read(path)
    if path.suffix == ".safetensors":
        return weight_files.read(path), frozenset()
    if path.suffix not in (".npz", *_MSGPACK):
        known = ", ".join((*_TORCH, ".safetensors", ".npz", *_MSGPACK))
        raise ValueError(f"{path} ends in {path.suffix or 'nothing'!r}; expected one of {known}.")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}, frozenset()
        tree = serialization.msgpack_restore(path.read_bytes())
        flat = traverse_util.flatten_dict(tree, sep="/")
        return {name: np.asarray(value) for name, value in flat.items()}, frozenset()
    except Exception as error:  # Damaged archives raise many types.
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise ValueError(f"{path} is cut off or damaged ({first}); get it again.") from error


def import_i3d(found: Mapping[str, np.ndarray], epsilon: float = i3d.EPSILON) -> Imported:
    """I3D's tensors from a file of any known layout.

    Args:
      found: As `read_source` gives them.
      epsilon: What the file's own network adds to variances. Our network adds 0.001, so the
        variances are shifted by the difference. (VideoGPT's class adds 1e-5 to the tensors of
        i3d_pretrained_400.pt, the other known networks 0.001.)

    Raises:
      ValueError: The layout is not known, or a tensor is missing or of another size.
    """
    units = i3d_units()
    for name, layout in _I3D_LAYOUTS.items():
        for base in layout.base(units[0]):
            first = f"{base}{layout.kernel}"
            prefix = next((key[: -len(first)] for key in found if key.endswith(first)), None)
            if prefix is not None:
                bases = {unit: [prefix + each for each in layout.base(unit)] for unit in units}
                return _i3d_units(found, layout, bases, epsilon, name)
    return _i3d_by_order(found, units, epsilon)


def i3d_units() -> list[str]:
    """Paths of the units that have a convolution, first to last, the last layer at the end."""
    mixed = [f"{name}/{branch}" for name in i3d.MIXED for branch in i3d.BRANCHES]
    return ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", *mixed, "logits"]


def _i3d_units(found, layout: _Layout, bases, epsilon: float, name: str) -> Imported:
    pick = _Picker(found)
    for unit, tries in bases.items():
        base = next((each for each in tries if each + layout.kernel in found), tries[0])
        kernel = pick.one(base + layout.kernel)
        kernel = kernel.transpose(2, 3, 4, 1, 0) if layout.is_torch else kernel
        if unit == "logits":
            pick.put(f"{unit}/kernel", kernel, base + layout.kernel)
            pick.put(f"{unit}/bias", pick.one(base + layout.bias).reshape(-1), base + layout.bias)
            continue
        mean, variance, beta = (
            pick.one(base + key).reshape(-1) for key in (layout.mean, layout.variance, layout.beta)
        )
        if layout.gain and base + layout.gain in found:
            # Ours has no gain: the same numbers come from a scaled kernel and mean.
            gain = pick.one(base + layout.gain).reshape(-1)
            kernel, mean = kernel * gain, mean * gain
        pick.put(f"{unit}/kernel", kernel, base + layout.kernel)
        pick.put(f"{unit}/mean", mean, base + layout.mean)
        pick.put(f"{unit}/variance", variance + (epsilon - i3d.EPSILON), base + layout.variance)
        pick.put(f"{unit}/beta", beta, base + layout.beta)
    return Imported(pick.tensors, pick.key_map, name)


def _i3d_by_order(found, units, epsilon: float) -> Imported:
    """Units of a torch file with unknown names: a module each, with a convolution and its norm."""
    kernels = [name for name, value in found.items() if value.ndim == 5]
    # The last layer may be defined first; no other has 400 outputs.
    kernels.sort(key=lambda name: len(found[name]) == i3d.NUM_CLASSES)
    means = [name for name in found if name.endswith(".running_mean")]
    if len(kernels) != len(units) or len(means) != len(units) - 1:
        raise ValueError(
            f"Expected an I3D of {len(units)} convolutions in a known layout"
            f" ({', '.join(_I3D_LAYOUTS)}), got {len(found)} tensors of which {len(kernels)} are"
            f" kernels in space and time, such as {next(iter(found), 'none')}."
        )
    theirs = {}
    for unit, kernel in zip(units, kernels, strict=True):
        base = kernel.rsplit(".", 2)[0]
        theirs[f"{unit}.conv3d.weight"] = kernel
        if unit == "logits":
            theirs[f"{unit}.conv3d.bias"] = kernel.removesuffix("weight") + "bias"
            continue
        norm = next((name for name in means if name.startswith(f"{base}.")), "")
        for last in ("weight", "bias", "running_mean", "running_var"):
            theirs[f"{unit}.bn.{last}"] = norm.removesuffix("running_mean") + last
    renamed = {ours: found[name] for ours, name in theirs.items() if name in found}
    bases = {unit: [unit] for unit in units}
    made = _i3d_units(renamed, _I3D_LAYOUTS["videogpt"], bases, epsilon, "by order")
    return made._replace(key_map={ours: theirs[name] for ours, name in made.key_map.items()})


def import_c3d(found: Mapping[str, np.ndarray]) -> Imported:
    """C3D's tensors from TGAN2's two files together, or from MAGVIT's.

    Raises:
      ValueError: The layout is not known, or a tensor is missing.
    """
    pick = _Picker(_without(found, "params/"))
    is_flax = "conv1a/kernel" in pick.found
    kernel, bias = ("kernel", "bias") if is_flax else ("W", "b")
    for name in (*c3d.CONVS, *c3d.DENSES):
        value = pick.one(f"{name}/{kernel}")
        if not is_flax:
            value = value.transpose(2, 3, 4, 1, 0) if value.ndim == 5 else value.T
        pick.put(f"{name}/kernel", value, f"{name}/{kernel}")
        pick.put(f"{name}/bias", pick.one(f"{name}/{bias}"), f"{name}/{bias}")
    if is_flax:
        pick.put("offset", pick.one("x_offset"), "x_offset")
        return Imported(pick.tensors, pick.key_map, "flax")
    mean = pick.one("mean")
    middle = slice(_MEAN_FROM, _MEAN_FROM + c3d.SIZE_PX)
    # [3, 16, 128, 171], perhaps behind an axis of one; blue comes first, as in our network.
    offset = -mean.reshape(mean.shape[-4:])[:, :, middle, middle].transpose(1, 2, 3, 0)
    pick.put("offset", offset, "mean")
    return Imported(pick.tensors, pick.key_map, "chainer")


def import_vggish(found: Mapping[str, np.ndarray]) -> Imported:
    """VGGish's tensors from TensorFlow's checkpoint or torchvggish's state dict.

    Raises:
      ValueError: The layout is not known, or a tensor is missing.
    """
    pick = _Picker(_without(found, "vggish/"))
    is_torch = "features.0.weight" in found
    convs = (0, 3, 6, 8, 11, 13)  # Places of the convolutions between ReLUs and maxima.
    names = [f"features.{place}" for place in convs] + [
        f"embeddings.{place}" for place in (0, 2, 4)
    ]
    for place, name in enumerate((*vggish.CONVS, *vggish.DENSES)):
        if is_torch:
            source, kernel, bias = names[place], ".weight", ".bias"
        else:  # conv3/conv3_1, fc1/fc1_2, but conv1 and fc2.
            group = name.split("_")[0]
            source = name if group == name else f"{group}/{name}"
            kernel, bias = "/weights", "/biases"
        value = pick.one(source + kernel)
        if is_torch:
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        pick.put(f"{name}/kernel", value, source + kernel)
        pick.put(f"{name}/bias", pick.one(source + bias), source + bias)
    return Imported(pick.tensors, pick.key_map, "torch" if is_torch else "tf")


class _Picker:
    """Takes tensors by the source's names and remembers what became of them."""

    def __init__(self, found: Mapping[str, np.ndarray]):
        self.found = found
        self.tensors: dict[str, np.ndarray] = {}
        self.key_map: dict[str, str] = {}

    def one(self, name: str) -> np.ndarray:
        if name not in self.found:
            raise ValueError(
                f"The file has no tensor {name} ({len(self.found)} others are there, such as"
                f" {next(iter(self.found), 'none')}); give the file of that network."
            )
        return np.asarray(self.found[name], np.float32)

    def put(self, ours: str, value: np.ndarray, theirs: str) -> None:
        self.tensors[ours] = np.ascontiguousarray(value, np.float32)
        self.key_map[ours] = theirs


def _without(found: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in found.items()}


def _split(unit: str) -> tuple[str, str]:
    layer, _, branch = unit.partition("/")
    return layer, branch


def _tf_bases(unit: str) -> list[str]:
    layer, branch = _split(unit)
    if unit == "logits":
        return ["Logits/Conv3d_0c_1x1"]
    if not branch:
        return [layer]
    taps = "b_3x3" if branch.endswith("b") else "b_1x1" if branch == "b3" else "a_1x1"
    base = f"{layer}/Branch_{branch[1]}/Conv3d_0{taps}"
    # One unit of the original is misnamed: 0a where all others of its kind have 0b.
    return [base, base.replace("0b_3x3", "0a_3x3")]


def _flax_bases(unit: str) -> list[str]:
    layer, slash, rest = _tf_bases(unit)[0].partition("/")
    inner = rest.replace("/", ".")
    return [f"Logits.{inner}" if layer == "Logits" else f"{layer}{slash}{inner}"]


def _videogpt_bases(unit: str) -> list[str]:
    layer, branch = _split(unit)
    return [f"{layer}.{'b3b' if branch == 'b3' else branch}" if branch else layer]


def _hassony2_bases(unit: str) -> list[str]:
    layer, branch = _split(unit)
    if unit == "logits":
        return ["conv3d_0c_1x1"]
    place = {"b0": "0", "b3": "3.1"}.get(branch, f"{branch[1:2]}.{'ab'.find(branch[2:])}")
    return [f"{layer.lower()}.branch_{place}" if branch else layer.lower()]


def _torch_layout(bases, norm: str) -> _Layout:
    return _Layout(
        bases,
        kernel=".conv3d.weight",
        bias=".conv3d.bias",
        mean=f".{norm}.running_mean",
        variance=f".{norm}.running_var",
        beta=f".{norm}.bias",
        gain=f".{norm}.weight",
        is_torch=True,
    )


def _tf_layout(bases, kernel: str, bias: str) -> _Layout:
    return _Layout(
        bases,
        kernel=f"/conv_3d/{kernel}",
        bias=f"/conv_3d/{bias}",
        mean="/batch_norm/moving_mean",
        variance="/batch_norm/moving_variance",
        beta="/batch_norm/beta",
        gain=None,
        is_torch=False,
    )


_I3D_LAYOUTS = {
    "tf": _tf_layout(_tf_bases, "w", "b"),
    "flax": _tf_layout(_flax_bases, "kernel", "bias"),
    "videogpt": _torch_layout(_videogpt_bases, "bn"),
    "hassony2": _torch_layout(_hassony2_bases, "batch3d"),
}
