"""Do all hosts run the same thing, and do copies of a parameter still hold the same bits?

A host with other code, settings or data does not fail: the run goes on and is wrong. The same is
true of a device whose memory flipped a bit that the other replicas do not have.
"""

import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

import poet
from poet.train.meta import first_difference
from poet.train.partitioning import path_names

_DIGEST_BYTES = 8


class DisagreementError(ValueError):
    """Hosts or replicas differ; says which and in what."""


def check_hosts(facts: Mapping[str, Any]) -> None:
    """Compares facts and Poet's own code over all processes; does nothing for a single one.

    Args:
      facts: Name -> settings, such as an `OptimizerConfig` or the dataset's fingerprint; the same
        names on every process.

    Raises:
      DisagreementError: naming the facts that differ, the processes whose are not those of process
        0, and the first setting that differs with both values. Every process raises it.
    """
    if jax.process_count() == 1:
        return
    # Alone and first: other code may have other facts, and could not be compared by them.
    _compare({"code": code_fingerprint()})
    _compare({"deterministic operations": _asks_for_equal_bits(), **facts})


def _compare(facts: Mapping[str, Any]) -> None:
    texts = {name: json.dumps(describe(facts[name]), sort_keys=True) for name in sorted(facts)}
    digests = gather(np.stack([_digest(text) for text in texts.values()]))
    is_other = (digests != digests[:1]).any(axis=2)
    if is_other.any():
        at = int(np.flatnonzero(is_other.any(axis=0))[0])
        name = list(texts)[at]
        check_digests(list(texts), digests, name, gather_texts(texts[name]))


def check_digests(
    names: list[str], digests: np.ndarray, shown: str = "", texts: Sequence[str] = ()
) -> None:
    """DisagreementError unless all rows of [processes, names, bytes] are alike.

    Args:
      names: Of the facts.
      digests: Of all processes.
      shown: The fact whose `texts`, one JSON of each process, say what differs in it.
      texts: See `shown`.
    """
    is_other = (digests != digests[:1]).any(axis=2)
    if is_other.any():
        words = [
            f"{name} (process {', '.join(map(str, np.flatnonzero(is_other[:, at])))})"
            for at, name in enumerate(names)
            if is_other[:, at].any()
        ]
        raise DisagreementError(
            f"Expected the same on all {len(digests)} processes, but these differ from process 0:"
            f" {'; '.join(words)}.{_first_of(shown, texts)} Give every host the same code, gin"
            " files and data, then start again."
        )


def _first_of(name: str, texts: Sequence[str]) -> str:
    other = next((at for at, text in enumerate(texts) if text != texts[0]), None)
    if other is None:
        return ""
    inner, first, its = first_difference(json.loads(texts[0]), json.loads(texts[other]))
    what = f"{name}.{inner}" if inner else name
    return f" {what} is {str(first)[:80]} on process 0 and {str(its)[:80]} on process {other}."


def gather(mine: np.ndarray) -> np.ndarray:
    """[processes, ...]: the arrays of all, which have one shape; all of them have to ask."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(mine))


def gather_texts(mine: str) -> list[str]:
    """The texts of all processes, of any lengths; all of them have to ask."""
    encoded = np.frombuffer(mine.encode(), np.uint8)
    lengths = gather(np.asarray(len(encoded)))
    padded = np.pad(encoded, (0, int(lengths.max()) - len(encoded)))
    rows = zip(gather(padded), lengths, strict=True)
    return [bytes(row[:length].astype(np.uint8)).decode() for row, length in rows]


def describe(value: Any) -> Any:
    """Settings as JSON that is the same wherever they are: no addresses of objects, no order."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(json.dumps(describe(part), sort_keys=True) for part in value)
    if isinstance(value, functools.partial):
        return {"is": describe(value.func), "args": describe([value.args, value.keywords])}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (np.ndarray, jax.Array)):
        return hashlib.sha256(np.asarray(value).tobytes()).hexdigest()
    named = value if hasattr(value, "__qualname__") else type(value)
    about = {"is": f"{named.__module__}.{named.__qualname__}"}
    if str(named.__module__).partition(".")[0] != "poet":
        about["file"] = _file_fingerprint(named.__module__)
    if named is value:
        return about
    if hasattr(value, "fingerprint"):
        return about | {"fingerprint": str(value.fingerprint)}
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return about | {name: describe(part) for name, part in fields.items()}
    if isinstance(value, np.dtype | np.generic):
        return about | {"value": str(value)}
    return about


def _asks_for_equal_bits() -> bool:
    """Of `--deterministic`: how programs are compiled is in no configuration."""
    return "xla_gpu_deterministic_ops" in os.environ.get("XLA_FLAGS", "")


def all_say(is_fine: bool) -> bool:
    """Whether every process says so; all of them have to ask at the same place."""
    if jax.process_count() == 1:
        return is_fine
    return bool(np.all(gather(np.asarray(is_fine))))


def code_fingerprint() -> str:
    """SHA-256 of Poet's Python files, names included."""
    root, found = Path(poet.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root).as_posix()}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def files_fingerprints(modules: Sequence[str]) -> list[str]:
    """SHA-256 of the files behind `LMRun.task_modules`: names of loaded modules, or .py files.

    Folders may be called differently on another host, so that only what is in the files counts.
    """
    return [_file_fingerprint(name) for name in modules]


def _file_fingerprint(name: str) -> str:
    path = None if name.endswith(".py") else getattr(sys.modules.get(name), "__file__", None)
    path = path or (name if name.endswith(".py") else name.replace(".", os.sep) + ".py")
    content = Path(path).read_bytes() if os.path.isfile(path) else name.encode()
    return hashlib.sha256(content).hexdigest()


def _digest(text: str) -> np.ndarray:
    whole = hashlib.sha256(text.encode()).digest()
    return np.frombuffer(whole[:_DIGEST_BYTES], np.uint8).astype(np.int32)


def check_replicas(tree: Any) -> None:
    """Compares the bits of all copies of every array, on the devices.

    Args:
      tree: Arrays on one mesh, as a train state's parameters are.

    Raises:
      DisagreementError: naming the arrays of which two copies differ. Every process raises it.
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    arrays = [leaf for _, leaf in leaves]
    if not arrays or arrays[0].sharding.num_devices == 1:
        return
    mesh = arrays[0].sharding.mesh
    differs = np.asarray(_differs(mesh, tuple(leaf.sharding.spec for leaf in arrays))(arrays))
    if differs.any():
        pairs = zip(leaves, differs, strict=True)
        names = ["/".join(path_names(path)) for (path, _), is_bad in pairs if is_bad]
        raise DisagreementError(
            f"Copies of {len(names)} of {len(leaves)} parameters differ between devices, first"
            f" {', '.join(names[:3])}. A device or its memory is at fault: find it (its host logs"
            " other losses), leave it out and start again from the last checkpoint."
        )


@functools.lru_cache
def _differs(mesh: Mesh, specs: tuple[PartitionSpec, ...]) -> Any:
    """Compiled arrays -> bool for each: do two copies of a part differ?"""

    def look(blocks: list[jax.Array]) -> jax.Array:
        found = []
        for block, spec in zip(blocks, specs, strict=True):
            used = {name for entry in spec for name in np.atleast_1d(entry or ())}
            copies = tuple(name for name in mesh.axis_names if name not in used)
            total = _bits(block)
            same = jax.lax.pmax(total, copies) == jax.lax.pmin(total, copies)
            found.append(jax.lax.pmax((~same).astype(jnp.int32), mesh.axis_names))
        return jnp.stack(found) > 0

    # Copies that should be alike are what is in doubt here: jax must not assume it.
    return jax.jit(
        jax.shard_map(
            look, mesh=mesh, in_specs=(list(specs),), out_specs=PartitionSpec(), check_vma=False
        )
    )


def _bits(block: jax.Array) -> jax.Array:
    """Sum of an array's bits as 32-bit words, modulo 2^31; one flipped bit always changes it."""
    if jnp.issubdtype(block.dtype, jnp.inexact):
        words = {4: jnp.uint32, 2: jnp.uint16, 1: jnp.uint8}[block.dtype.itemsize]
        block = jax.lax.bitcast_convert_type(block, words)
    # Signed, since not every backend compares unsigned words across devices.
    return jnp.sum(block.astype(jnp.uint32), dtype=jnp.uint32).astype(jnp.int32)
