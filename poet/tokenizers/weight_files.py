"""Tensors out of weight files that other people made: read as data, never run.

`.safetensors` needs nothing else. `.pt`, `.pth` and `.bin` are pickles; they are read where torch
is installed, by its loader that builds tensors only and refuses everything else.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_PICKLES = (".pt", ".pth", ".bin")


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Name -> tensor, float32 where it is floating-point.

    Raises:
      ValueError: The file is missing, of another kind, cut off, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"Expected a weight file at {path}, found none; check the path.")
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    elif path.suffix in _PICKLES:
        tensors = _read_pickle(path)
    else:
        raise ValueError(
            f"{path} ends in {path.suffix or 'nothing'!r}; expected .safetensors or one of"
            f" {', '.join(_PICKLES)}."
        )
    return {name: _plain(value) for name, value in tensors.items()}


def picked(
    found: Mapping[str, np.ndarray],
    wanted: Mapping[str, Sequence[int | None]],
    kind: str,
    where: str,
) -> dict[str, np.ndarray]:
    """The wanted tensors; convolutions as [rows, columns, in, out], matrices as [in, out].

    Args:
      found: Tensors as torch stores them, outputs first.
      wanted: Name -> shape as torch stores it, None for any size.
      kind: What they are for, in errors.
      where: Where they are from, in errors.

    Raises:
      ValueError: One is missing, or of another shape.
    """
    chosen = {}
    for name, shape in wanted.items():
        if name not in found:
            raise ValueError(
                f"{where} has no tensor {name}, which {kind} needs ({len(found)} others are"
                " there); give the file of that network."
            )
        value = found[name]
        fits = len(value.shape) == len(shape) and all(
            size is None or size == has for size, has in zip(shape, value.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"{name} in {where} has shape {value.shape}, but {kind} needs"
                f" {tuple('any' if size is None else size for size in shape)}; give the file of"
                " that network."
            )
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        chosen[name] = np.ascontiguousarray(value.T if value.ndim == 2 else value)
    return chosen


def _read_safetensors(path):
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({_first_line(error)}); copy it again."
        ) from error


def _read_pickle(path):
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path} is a pickle of torch, which is not installed: `make setup EXTRAS=torch`, or"
            " convert the file to safetensors."
        ) from error
    try:
        # weights_only: tensors and plain containers; a pickle that calls anything is refused.
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for files that are not its own.
        raise ValueError(
            f"{path} is cut off, or holds more than tensors, and was not run"
            f" ({_first_line(error)}); get it again from a source you trust."
        ) from error
    tensors = tensors.get("state_dict", tensors) if isinstance(tensors, dict) else {}
    if not tensors or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise ValueError(f"{path} holds no table of tensors; expected a state_dict.")
    return {name: value.float().numpy() for name, value in tensors.items()}


def _plain(value):
    is_float = value.dtype.kind == "f" or value.dtype.name == "bfloat16"
    return np.asarray(value, np.float32) if is_float else np.asarray(value)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
