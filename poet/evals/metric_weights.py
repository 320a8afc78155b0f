"""Weights of metrics' networks in files of our own; tools/convert_metric_weights.py writes them.

A file is .safetensors or .npz: tensors by the names of our networks, and beside them what it was
made from: kind, sha256 of the source, which tensor of the source became which of ours, and how
many numbers there are. Loading checks kind, names, shapes and count. A source whose sha256 is known
is "verified"; any other is used all the same, and its note says so: callers put the note into
their results.

Nothing is looked for or fetched: a missing file is an error that says what to get.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from poet.evals import c3d, i3d, vggish

Kind = Literal["i3d", "c3d", "clip", "vggish"]
KINDS = ("i3d", "c3d", "clip", "vggish")
_FORMAT = "poet metric weights 1"
_FACTS = "facts"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublicFile:
    """A published file: what it is called, where it is from in words, and how to know it.

    Attributes:
      sha256: Its first digits, all 64 where known; empty where not known.
      num_bytes: 0 where not known.
    """

    name: str
    origin: str
    sha256: str = ""
    num_bytes: int = 0

    def __str__(self):
        facts = [f"{self.num_bytes:,} bytes"] if self.num_bytes else []
        facts += [f"sha256 {self.sha256}{'' if len(self.sha256) == 64 else '...'}"] * bool(
            self.sha256
        )
        return f"{self.name} ({'; '.join([self.origin, *facts])})"


# Digests are those of spec/evaluation.md; the eight of vggish are a part of the file's name.
PUBLIC_FILES: dict[str, tuple[PublicFile, ...]] = {
    "i3d": (
        PublicFile(
            name="i3d_torchscript.pt",
            origin="StyleGAN-V's TorchScript port of DeepMind's i3d-kinetics-400",
            sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
            num_bytes=51_235_320,
        ),
        PublicFile(name="i3d_pretrained_400.pt", origin="state dict used by VideoGPT and TATS"),
        PublicFile(name="i3d_k400.flax", origin="MAGVIT's folder metrics/frechet_distance"),
        PublicFile(
            name="deepmind/i3d-kinetics-400/1", origin="TensorFlow Hub, a folder with variables/"
        ),
    ),
    "c3d": (
        PublicFile(
            name="conv3d_deepnetA_ucf.npz and mean2.npz", origin="TGAN2's pair, from its README"
        ),
        PublicFile(name="c3d_ucf101.flax", origin="MAGVIT's folder metrics/inception_score"),
    ),
    "clip": (
        PublicFile(
            name="openai/clip-vit-base-patch16 or -patch32",
            origin="Hugging Face, the folder with config.json, model.safetensors, vocab.json,"
            " merges.txt and preprocessor_config.json",
        ),
    ),
    "vggish": (
        PublicFile(name="vggish_model.ckpt", origin="AudioSet's VGGish of the TensorFlow models"),
        PublicFile(
            name="vggish-10086976.pth", origin="harritaylor's torchvggish", sha256="10086976"
        ),
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A network whose weights a file holds.

    Attributes:
      module: The Flax module.
      inputs: What it is called with, as shapes and types.
      num_numbers: How many numbers it must have; None where that depends on a config.
      uncounted: Names of tensors that the count leaves out.
    """

    module: nn.Module
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    num_numbers: int | None = None
    uncounted: tuple[str, ...] = ()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name with slashes -> shape of every tensor."""
        return dict(_shapes(self.module, self.inputs))

    def count(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """How many numbers tensors of these shapes have, without the uncounted."""
        return sum(math.prod(shape) for name, shape in shapes.items() if name not in self.uncounted)


@functools.lru_cache(maxsize=8)  # Tracing a network takes a second.
def _shapes(module, inputs):
    tree = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    flat: dict[str, Any] = traverse_util.flatten_dict(tree, sep="/")
    return {name: leaf.shape for name, leaf in flat.items()}


def network_of(kind: Kind) -> Network:
    """The published network of a kind.

    Raises:
      ValueError: The kind is CLIP, whose sizes depend on its config: see `clip_scorer`.
    """
    if kind == "clip":
        raise ValueError("CLIP's sizes are in its own config; open it with `clip_scorer.load`.")
    if kind == "i3d":
        inputs = jax.ShapeDtypeStruct((1, i3d.MIN_FRAMES, i3d.SIZE_PX, i3d.SIZE_PX, 3), jnp.float32)
        return Network(module=i3d.I3D(), inputs=(inputs,), num_numbers=i3d.NUM_NUMBERS)
    if kind == "c3d":
        inputs = jax.ShapeDtypeStruct((1, c3d.NUM_FRAMES, c3d.SIZE_PX, c3d.SIZE_PX, 3), jnp.float32)
        return Network(
            module=c3d.C3D(),
            inputs=(inputs,),
            num_numbers=c3d.NUM_NUMBERS,
            uncounted=("offset",),
        )
    inputs = jax.ShapeDtypeStruct((1, 96, 64), jnp.float32)
    return Network(module=vggish.VGGish(), inputs=(inputs,), num_numbers=vggish.NUM_NUMBERS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricWeights:
    """What a file holds.

    Attributes:
      params: The network's tree, float32.
      facts: Everything written beside it: kind, source, source_sha256, num_numbers, key_map, ...
    """

    params: dict[str, Any]
    facts: dict[str, Any]

    def for_results(self) -> dict[str, str]:
        """What belongs beside a score: weights' source, its sha256 and the note."""
        facts = self.facts
        return {
            "weights": facts["source"],
            "weights_sha256": facts["source_sha256"],
            "weights_note": note_of(facts["kind"], facts["source_sha256"]),
        }


def note_of(kind: str, sha256: str) -> str:
    """ "verified: ..." for a source that is known, else a warning to print with the score."""
    for file in PUBLIC_FILES[kind]:
        if file.sha256 and any(digest.startswith(file.sha256) for digest in sha256.split("+")):
            return f"verified: {file.name}, {file.origin}"
    known = [file.name for file in PUBLIC_FILES[kind] if file.sha256]
    return (
        f"UNVERIFIED WEIGHTS: sha256 {sha256} is not that of a known {kind} file"
        f" ({', '.join(known) or 'none is known'}); scores may not compare with published ones"
    )


def sha256_of(path: str | Path) -> str:
    """sha256 of a file; of a folder, of its files' names and digests in order."""
    path = Path(path)
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        lines = [f"{each.relative_to(path).as_posix()} {sha256_of(each)}\n" for each in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def what_to_get(kind: str, path: str | Path) -> str:
    """The error's sentence for a missing file: name, size, sha256 and origin of what would do."""
    files = "; ".join(str(file) for file in PUBLIC_FILES[kind])
    return (
        f"Expected weights of {kind} at {path}, found none. Poet fetches nothing: get one of"
        f" {files} and convert it with tools/convert_metric_weights.py."
    )


def save(path: str | Path, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Writes tensors with their facts; the file appears under its name only when it is whole.

    Args:
      path: .safetensors or .npz, not there yet.
      tensors: Name with slashes -> float32.
      facts: JSON values; kind, source and source_sha256 at least.

    Raises:
      ValueError: The name ends otherwise, or the file is there already.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{path} must end in .safetensors or .npz.")
    if path.exists():
        raise ValueError(f"{path} is there already; give a new name.")
    text = json.dumps({"format": _FORMAT, **facts})
    partial = path.with_name(f".{path.name}.partial{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {**tensors, _FACTS: np.frombuffer(text.encode(), np.uint8)}
        np.savez(partial, **arrays)
    else:
        from safetensors.numpy import save_file

        whole = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        save_file(whole, partial, metadata={_FACTS: text})
    os.replace(partial, path)


def load(path: str | Path, kind: Kind, network: Network | None = None) -> MetricWeights:
    """Weights of one kind from a file that `save` wrote.

    Args:
      path: .safetensors or .npz.
      kind: What they must be for.
      network: What they must fit; None takes the published network.

    Raises:
      ValueError: The file is missing (says what to get), damaged, of another kind, or a tensor is
        missing, left over, of another shape or not finite.
    """
    facts, tensors = read(path, kind)
    network = network or network_of(kind)
    check(tensors, network, kind, str(path))
    return MetricWeights(params=traverse_util.unflatten_dict(tensors, sep="/"), facts=facts)


def read(path: str | Path, kind: Kind) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(facts, tensors) of a file of one kind, the tensors not yet checked.

    Raises:
      ValueError: The file is missing, damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(what_to_get(kind, path))
    try:
        text, tensors = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
        facts = json.loads(text)
    except Exception as error:  # numpy, zipfile and safetensors raise many types.
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise ValueError(
            f"{path} is cut off, or was not written by tools/convert_metric_weights.py ({first});"
            " convert the published file first."
        ) from error
    if facts.get("kind") != kind:
        raise ValueError(f"{path} holds weights of {facts.get('kind')}, expected {kind}.")
    return facts, tensors


def check(tensors: Mapping[str, np.ndarray], network: Network, kind: str, where: str) -> None:
    """Refuses tensors that are not exactly the network's.

    Raises:
      ValueError: One is missing, left over, of another shape or not finite, or there are more or
        fewer numbers than the network is known to have.
    """
    shapes = network.shapes()
    for name, shape in shapes.items():
        if name not in tensors:
            raise ValueError(f"{where} has no tensor {name}, which {kind} needs; convert it again.")
        if tensors[name].shape != shape:
            raise ValueError(
                f"{name} in {where} has shape {tensors[name].shape}, but {kind} needs {shape}."
            )
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"{name} in {where} is not finite; get the file again.")
    extra = sorted(set(tensors) - set(shapes))
    if extra:
        raise ValueError(f"{where} has a tensor {extra[0]} that {kind} has no place for.")
    count = network.count(shapes)
    if network.num_numbers is not None and count != network.num_numbers:
        raise ValueError(f"{kind} has {network.num_numbers:,} numbers, but {where} has {count:,}.")


def _read_npz(path):
    with np.load(path, allow_pickle=False) as archive:
        tensors = {name: archive[name] for name in archive.files}
    return bytes(tensors.pop(_FACTS)), tensors


def _read_safetensors(path):
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as stream:
        text = (stream.metadata() or {})[_FACTS]
        return text, {name: stream.get_tensor(name) for name in stream.keys()}
