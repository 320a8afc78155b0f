"""Do all hosts run the same thing, and do copies of a parameter still hold the same bits?

A host with other code, settings or data does not fail: the run goes on and is wrong. The same is
true of a device whose memory flipped a bit that the other replicas do not have.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

import poet
from poet.train.partitioning import path_names

_DIGEST_BYTES = 8


class DisagreementError(ValueError):
    """Hosts or replicas differ; says which and in what."""


def check_hosts(facts: Mapping[str, Any]) -> None:
    """Compares facts and Poet's own code over all processes; does nothing for a single one.

    Args:
      facts: Name -> JSON, such as the operative config and the dataset's fingerprint.

    Raises:
      DisagreementError: naming the facts that differ and the processes whose are not those of
        process 0. Every process raises it.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    facts = {"code": code_fingerprint(), **facts}
    mine = np.stack([_digest(facts[name]) for name in sorted(facts)])
    check_digests(sorted(facts), np.asarray(multihost_utils.process_allgather(mine)))


def check_digests(names: list[str], digests: np.ndarray) -> None:
    """DisagreementError unless all rows of [processes, names, bytes] are alike."""
    is_other = (digests != digests[:1]).any(axis=2)
    if is_other.any():
        words = [
            f"{name} (process {', '.join(map(str, np.flatnonzero(is_other[:, at])))})"
            for at, name in enumerate(names)
            if is_other[:, at].any()
        ]
        raise DisagreementError(
            f"Expected the same on all {len(digests)} processes, but these differ from process 0:"
            f" {'; '.join(words)}. Give every host the same code, gin files and data, then start"
            " again."
        )


def all_say(is_fine: bool) -> bool:
    """Whether every process says so; all of them have to ask at the same place."""
    if jax.process_count() == 1:
        return is_fine
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(is_fine))))


def code_fingerprint() -> str:
    """SHA-256 of Poet's Python files, names included."""
    root, found = Path(poet.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root).as_posix()}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def _digest(fact: Any) -> np.ndarray:
    text = json.dumps(fact, sort_keys=True, default=str)
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
