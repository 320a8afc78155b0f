"""Published T5 encoders from a local folder, in the tree of `text_encoder.T5Encoder`.

The folder holds `config.json` and `model.safetensors`, or `model.safetensors.index.json` with its
parts, as Hugging Face lays them out. Only the encoder's tensors are read, one at a time. `.bin`
files are pickles: `tools/convert_t5.py` turns them into safetensors first.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from poet.models.text_encoder import TextEncoderConfig

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
# The same tensor under its two names; files hold either.
_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")
_EPSILON = 1e-6


def read_config(folder: epath.PathLike) -> TextEncoderConfig:
    """Sizes of the encoder in a folder.

    Raises:
      ValueError: There is no config.json, it is of another kind of model, or of a T5 that this
        encoder does not compute.
    """
    path = epath.Path(folder) / CONFIG_NAME
    facts = _read_json(path)
    kind = facts.get("model_type")
    if kind != "t5":
        raise ValueError(f"{path} is of model_type {kind!r}; expected 't5' (T5 or T5 v1.1).")
    feed_forward = facts.get("feed_forward_proj", "relu")
    if feed_forward not in ("relu", "gated-gelu"):
        raise ValueError(
            f"{path} has feed_forward_proj={feed_forward!r}; this encoder computes 'relu' (T5) and"
            " 'gated-gelu' (T5 v1.1)."
        )
    if abs(facts.get("layer_norm_epsilon", _EPSILON) - _EPSILON) > 1e-12:
        raise ValueError(
            f"{path} has layer_norm_epsilon={facts['layer_norm_epsilon']}; this encoder has"
            f" {_EPSILON}, as all published ones."
        )
    names = {
        "num_ids": "vocab_size",
        "num_layers": "num_layers",
        "d_model": "d_model",
        "num_heads": "num_heads",
        "head_dim": "d_kv",
        "mlp_dim": "d_ff",
    }
    missing = [name for name in names.values() if not isinstance(facts.get(name), int)]
    if missing:
        raise ValueError(f"{path} does not say {', '.join(missing)}; copy it again.")
    sizes = {ours: facts[theirs] for ours, theirs in names.items()}
    return TextEncoderConfig(
        **sizes,
        num_buckets=facts.get("relative_attention_num_buckets", 32),
        max_distance=facts.get("relative_attention_max_distance", 128),
        is_gated=feed_forward == "gated-gelu",
    )


def read_params(folder: epath.PathLike, config: TextEncoderConfig | None = None) -> dict[str, Any]:
    """The encoder's parameters, float32, as `T5Encoder.init` would make them (unboxed).

    Args:
      folder: See the module.
      config: What they must fit; None takes the folder's own.

    Raises:
      ValueError: A file is missing or cut off, a tensor is missing or of another shape.
    """
    config = config or read_config(folder)
    params: dict[str, Any] = {}
    with _Tensors(epath.Path(folder)) as tensors:
        for place, names, shape, arrange in _layout(config):
            name = next((name for name in names if name in tensors), None)
            if name is None:
                raise ValueError(
                    f"{folder} has no tensor {names[0]}; expected a T5 encoder of"
                    f" {config.num_layers} layers. Give the folder of one, or correct the config."
                )
            value = tensors.read(name, shape)
            _put(params, place, np.ascontiguousarray(arrange(value)))
    return params


def _layout(config: TextEncoderConfig) -> Iterator[tuple]:
    """(place in our tree, their names, their shape, their array -> ours) of every parameter."""
    dim, heads, width = config.d_model, config.num_heads, config.head_dim
    inner = heads * width

    def same(x):
        return x

    def linear(x):  # Theirs are [out, in].
        return x.T

    yield ("embedding",), _EMBEDDINGS, (config.num_ids, dim), same
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    yield ("relative_bias",), (bias,), (config.num_buckets, heads), same
    yield ("final_norm", "scale"), ("encoder.final_layer_norm.weight",), (dim,), same
    for index in range(config.num_layers):
        block, ours = f"encoder.block.{index}.layer", f"block_{index}"
        for sub, norm in ((0, "attention_norm"), (1, "mlp_norm")):
            yield (ours, norm, "scale"), (f"{block}.{sub}.layer_norm.weight",), (dim,), same
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
            yield (
                (ours, name, "kernel"),
                (f"{block}.0.SelfAttention.{letter}.weight",),
                (inner, dim),
                lambda x: x.T.reshape(dim, heads, width),
            )
        yield (
            (ours, "out", "kernel"),
            (f"{block}.0.SelfAttention.o.weight",),
            (dim, inner),
            lambda x: x.T.reshape(heads, width, dim),
        )
        wide = {"gate": "wi_0", "up": "wi_1"} if config.is_gated else {"up": "wi"}
        for name, theirs in wide.items():
            theirs = f"{block}.1.DenseReluDense.{theirs}.weight"
            yield (ours, "mlp", name, "kernel"), (theirs,), (config.mlp_dim, dim), linear
        theirs = f"{block}.1.DenseReluDense.wo.weight"
        yield (ours, "mlp", "down", "kernel"), (theirs,), (dim, config.mlp_dim), linear


class _Tensors(contextlib.ExitStack):
    """The tensors of a folder by name; a file is opened when its first tensor is read."""

    def __init__(self, folder: epath.Path):
        super().__init__()
        self._folder, self._open = folder, {}
        if (folder / INDEX_NAME).exists():
            self._file_of = _read_index(folder / INDEX_NAME)
        elif (folder / WEIGHTS_NAME).exists():
            self._file_of = dict.fromkeys(self._opened(WEIGHTS_NAME).keys(), WEIGHTS_NAME)
        else:
            pickles = sorted(path.name for path in folder.glob("*.bin")) if folder.is_dir() else []
            way_out = "copy it there"
            if pickles:
                way_out = f"convert {pickles[0]} with tools/convert_t5.py (pickles are not read)"
            raise ValueError(f"Expected {WEIGHTS_NAME} in {folder}, found none; {way_out}.")

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """float32, checked to have this shape."""
        from safetensors import SafetensorError

        file = self._file_of[name]
        try:
            tensors = self._opened(file)
            found = tuple(tensors.get_slice(name).get_shape())
            if found != shape:
                raise ValueError(
                    f"{name} in {self._folder / file} has shape {found}, expected {shape} by the"
                    " config; give weights and config of the same model."
                )
            return np.asarray(tensors.get_tensor(name)).astype(np.float32)
        except SafetensorError as error:
            raise _damaged(self._folder / file, error) from error

    def _opened(self, file: str):
        from safetensors import SafetensorError, safe_open

        if file not in self._open:
            path = self._folder / file
            try:
                self._open[file] = self.enter_context(safe_open(path, framework="numpy"))
            except (SafetensorError, OSError) as error:
                raise _damaged(path, error) from error
        return self._open[file]


def _read_index(path: epath.Path) -> dict[str, str]:
    file_of = _read_json(path).get("weight_map")
    is_flat = isinstance(file_of, dict) and all(
        isinstance(file, str) and "/" not in file and file.endswith(".safetensors")
        for file in file_of.values()
    )
    if not is_flat:
        raise ValueError(
            f"{path} has no weight_map from tensors to .safetensors files beside it; copy it again."
        )
    return file_of


def _read_json(path: epath.Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(
            f"Expected {path.name} in {path.parent}, found none; give the folder of a T5 as Hugging"
            " Face lays it out."
        )
    try:
        facts = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); copy it again.") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path} holds no JSON object; copy it again.")
    return facts


def _damaged(path: epath.Path, error: Exception) -> ValueError:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ValueError(
        f"{path} is missing or no whole safetensors file ({first_line[:120]}); copy it again."
    )


def _put(params: dict[str, Any], place: tuple[str, ...], value: np.ndarray) -> None:
    for name in place[:-1]:
        params = params.setdefault(name, {})
    params[place[-1]] = value
