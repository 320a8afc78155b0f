"""Reads arrays of a checkpoint so that all processes get them, or none does.

Where the mesh has replicas, the processes of the first one read and send to the others: storage
serves one copy of the state, however many replicas there are.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from poet.train import agreement

_REPLICA = "replica"
# Sent at a time; a device holds them twice for that long.
_CHUNK_BYTES = 2**29


def read(path: epath.Path, like: Any) -> Any:
    """The arrays of one item of a checkpoint; every process of the job has to call it.

    Args:
      path: Such as MODEL_DIR/checkpoints/120/params.
      like: ShapeDtypeStructs with the shapes, types and shardings to restore to.

    Raises:
      ValueError: on every process, when one of them could not read its part; on that one with
        Orbax's error as the cause.
    """
    mesh = replicated_mesh(like)
    readers = mesh and first_replica(mesh)
    found, error = None, None
    if readers is None or jax.process_index() in {d.process_index for d in readers.devices.flat}:
        try:
            found = _read_here(path, like if readers is None else on_mesh(like, readers))
        except Exception as problem:  # Orbax raises many types for unreadable files.
            error = problem
    if not agreement.all_say(error is None):
        if isinstance(error, (ConnectionError, TimeoutError)):
            raise error  # The files may be good: the next start can read them.
        words = "another process could not read its part; its log says why"
        if error is not None:
            words = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ValueError(f"{path} cannot be read: {words}") from error
    return found if readers is None else send(found, like)


def absolute(path: epath.Path) -> epath.Path:
    """The path as Orbax wants it. (etils' own `resolve` puts gs:// below the working folder.)"""
    return path if "://" in str(path) else path.resolve()


def replicated_mesh(like: Any) -> Mesh | None:
    """The mesh that all arrays lie on, if it has replicas and every replica has all of them."""
    shardings = [leaf.sharding for leaf in jax.tree.leaves(like)]
    if not shardings or not all(isinstance(sharding, NamedSharding) for sharding in shardings):
        return None
    mesh = shardings[0].mesh
    if mesh.shape.get(_REPLICA, 1) == 1 or any(sharding.mesh != mesh for sharding in shardings):
        return None
    names = {name for sharding in shardings for axes in sharding.spec for name in _names(axes)}
    return None if _REPLICA in names else mesh


def first_replica(mesh: Mesh) -> Mesh:
    """The devices of a mesh that hold the first copy, as a mesh with the same axes."""
    axis = mesh.axis_names.index(_REPLICA)
    return Mesh(mesh.devices.take([0], axis), mesh.axis_names, axis_types=mesh.axis_types)


def on_mesh(like: Any, mesh: Mesh) -> Any:
    """The same shapes on another mesh with the same axes."""

    def moved(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, leaf.sharding.spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(moved, like)


def send(found: Any, like: Any) -> Any:
    """Copies arrays of the first replica to all, bit by bit; every process has to call it.

    Args:
      found: Arrays on `first_replica`; None on a process that has none of its devices.
      like: Shapes with the shardings that come out.
    """
    shapes, structure = jax.tree.flatten(like)
    arrays = [None] * len(shapes) if found is None else jax.tree.leaves(found)
    sent: list[jax.Array] = []
    while len(sent) < len(shapes):
        chunk, num_bytes = [], 0
        while len(sent) + len(chunk) < len(shapes) and num_bytes < _CHUNK_BYTES:
            at = len(sent) + len(chunk)
            chunk.append(_with_blanks(arrays[at], shapes[at]))
            num_bytes += chunk[-1].addressable_shards[0].data.nbytes
            arrays[at] = None
        shardings = [leaf.sharding for leaf in shapes[len(sent) : len(sent) + len(chunk)]]
        sent += jax.block_until_ready(jax.jit(_first, out_shardings=shardings)(chunk))
    return jax.tree.unflatten(structure, sent)


def _read_here(path: epath.Path, like: Any) -> Any:
    # The handler, not a checkpointer: that one waits for all processes after reading, and so would
    # wait for ever for one that could not read.
    handler = ocp.StandardCheckpointHandler()
    try:
        found = handler.restore(absolute(path), args=ocp.args.StandardRestore(like))
        return jax.block_until_ready(found)
    finally:
        handler.close()


def _with_blanks(array: jax.Array | None, like: Any) -> jax.Array:
    """[replicas, ...]: the array on the devices of the first replica, zeros on the others."""
    mesh, spec = like.sharding.mesh, like.sharding.spec
    sharding = NamedSharding(mesh, PartitionSpec(_REPLICA, *spec))
    shards = {} if array is None else {s.device: s.data for s in array.addressable_shards}
    parts, shape = [], (mesh.shape[_REPLICA], *like.shape)
    blank = np.zeros((1, *like.sharding.shard_shape(like.shape)), like.dtype)
    for device in sharding.addressable_devices:
        data = shards[device][None] if device in shards else jax.device_put(blank, device)
        parts.append(data)
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _first(chunk: list[jax.Array]) -> list[jax.Array]:
    """The first of each [replicas, ...], as a sum of bits: a sum of floats would lose -0.0."""
    return [_from_words(jnp.sum(_words(x), axis=0, dtype=jnp.int32), x.dtype) for x in chunk]


def _words(x: jax.Array) -> jax.Array:
    if x.dtype == jnp.bool_:
        return x.astype(jnp.int32)
    return jax.lax.bitcast_convert_type(x, _unsigned(x.dtype)).astype(jnp.int32)


def _from_words(words: jax.Array, dtype: Any) -> jax.Array:
    if dtype == jnp.bool_:
        return words.astype(dtype)
    return jax.lax.bitcast_convert_type(words.astype(_unsigned(dtype)), dtype)


def _unsigned(dtype: Any) -> Any:
    return {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[jnp.dtype(dtype).itemsize]


def _names(axes: Any) -> tuple[str, ...]:
    return axes if isinstance(axes, tuple) else () if axes is None else (axes,)
