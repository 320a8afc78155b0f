"""Tensors out of files that torch wrote, without torch and without running anything in them.

Three layouts, told apart by their first bytes: the zip of `torch.save`, the zip of TorchScript
(`torch.jit.save`, whose code is left unread but for one number), and the bare pickles of torch
before 1.6. A pickle may name code to call; here every name but those that build tensors and plain
containers ends the reading. Checked against torch 2.14, which wrote all three.
"""

import math
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_TYPES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
# What the pickles before torch 1.6 begin with.
_OLD_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_CODE_BYTES = 1 << 20


class TorchFile(NamedTuple):
    """What a file holds.

    Attributes:
      tensors: Name with dots -> array, in the order of the file; bfloat16 as float32.
      epsilons: What the batch norms of TorchScript's code add to variances, as its text says;
        empty for other files.
    """

    tensors: dict[str, np.ndarray]
    epsilons: frozenset[float] = frozenset()


class _Storage(NamedTuple):
    key: str
    dtype: Any
    num_elements: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Module:
    """Stands for an object of TorchScript: keeps what belongs to it."""

    state: Any = None

    def __setstate__(self, state):
        self.state = state


class _Table(OrderedDict):
    """A dictionary that takes no attributes, whatever the pickle wants to set."""

    def __setstate__(self, state):
        del state


class _Call:
    """A function that a pickle may call, but not change."""

    __slots__ = ("_function",)

    def __init__(self, function):
        self._function = function

    def __call__(self, *args):
        return self._function(*args)

    def __setstate__(self, state):
        raise pickle.UnpicklingError("the file sets attributes of a function")


def read(path: str | Path) -> TorchFile:
    """The tensors of a file of torch, or of a TorchScript archive.

    Raises:
      ValueError: The file is missing, cut off, or holds more than tensors and containers.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"Expected a weight file at {path}, found none; check the path.")
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_old(path)
    except Exception as error:  # A damaged pickle may raise anything.
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise ValueError(
            f"{path} is cut off, or holds more than tensors, and was not run ({first}); get it"
            " again from a source you trust."
        ) from error


def _read_zip(path: Path) -> TorchFile:
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.count("/") == 1]
        index = next(name for name in pickles if name.endswith("/data.pkl"))
        top = index.removesuffix("data.pkl")
        sizes = {item.filename: item.file_size for item in archive.infolist()}
        if f"{top}byteorder" in sizes and archive.read(f"{top}byteorder") != b"little":
            raise ValueError("its numbers are big-endian, which is not read here")
        with archive.open(index) as stream:
            found = _Unpickler(stream).load()
        limit = os.path.getsize(path)
        tensors = {}
        for name, tensor in _flat(found, ""):
            record = f"{top}data/{tensor.storage.key}"
            # torch stores numbers uncompressed; a compressed record could be a bomb.
            if sizes.get(record, limit + 1) > limit:
                raise ValueError(f"the numbers of {name} are missing")
            tensors[name] = _array(tensor, archive.read(record))
        epsilons = _epsilons(archive, sizes)
    if not tensors:
        raise ValueError("it holds no tensors")
    return TorchFile(tensors, epsilons)


def _epsilons(archive, sizes) -> frozenset[float]:
    """Constants `eps` in the text of TorchScript's batch norms; the text is searched, not run."""
    found = set()
    for name, size in sizes.items():
        if "/code/" in name and "batchnorm" in name and name.endswith(".py"):
            if size > _MAX_CODE_BYTES:
                raise ValueError(f"{name} is too long")
            text = archive.read(name).decode(errors="replace")
            found |= {
                float(value) for value in re.findall(r"\beps : [\w\[\]]+ = ([\d.e+-]+)", text)
            }
    return frozenset(found)


def _read_old(path: Path) -> TorchFile:
    with open(path, "rb") as stream:
        magic, _, _, found, keys = (_Unpickler(stream).load() for _ in range(5))
        if magic != _OLD_MAGIC:
            raise ValueError("it does not begin as torch's files do")
        named = list(_flat(found, ""))
        itemsize = {tensor.storage.key: tensor.storage.dtype.itemsize for _, tensor in named}
        stored = {}
        for key in keys:
            num_elements = int.from_bytes(stream.read(8), "little")
            num_bytes = num_elements * itemsize.get(key, 1)
            if num_bytes > os.path.getsize(path):
                raise ValueError(f"storage {key} is longer than the file")
            stored[key] = stream.read(num_bytes)
        return TorchFile(
            {name: _array(tensor, stored[tensor.storage.key]) for name, tensor in named}
        )


class _Unpickler(pickle.Unpickler):
    """Knows the names that tensors are made of and no others."""

    def find_class(self, module: str, name: str):
        if module == "torch" and name in _TYPES:
            return np.dtype(_TYPES[name])
        if module == "collections" and name == "OrderedDict":
            return _Table
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _Call(_rebuilt)
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _Call(lambda data, *_: data)
        if module == "torch.jit._pickle" and name in _LISTS:
            return _Call(lambda values: values)
        if module.partition(".")[0] == "__torch__":
            return _Module
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid):
        kind, dtype, key, _, num_elements = pid[:5]
        if kind != "storage" or (len(pid) > 5 and pid[5] is not None):
            raise pickle.UnpicklingError("it holds a storage of an unknown kind")
        return _Storage(str(key), dtype, int(num_elements))


def _rebuilt(storage, offset, shape, strides, *_):
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _flat(found, prefix: str):
    """(name, tensor) of a tree of modules and dictionaries, depth first."""
    if isinstance(found, _Module):
        found = found.state
    if isinstance(found, _Tensor):
        yield prefix, found
    elif isinstance(found, dict):
        for name, value in found.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))


def _array(tensor: _Tensor, stored: bytes) -> np.ndarray:
    flat = np.frombuffer(stored, tensor.storage.dtype)
    shape, strides = tensor.shape, tensor.strides
    pairs = list(zip(shape, strides, strict=True))
    if tensor.offset < 0 or any(size < 0 or stride < 0 for size, stride in pairs):
        raise ValueError("a tensor has a negative size")
    last = tensor.offset + sum((size - 1) * stride for size, stride in pairs)
    if math.prod(shape) and last >= len(flat) or math.prod(shape) > len(flat):
        raise ValueError("a tensor is longer than its numbers")
    steps = [stride * flat.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], shape, steps)
    return np.array(view, np.float32 if flat.dtype == jnp.bfloat16 else flat.dtype)
