"""The mesh, the table of logical axes, and where every array of a run lives."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.core import meta
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("replica", "fsdp", "sequence", "tensor")

# The mesh axes that split the rows of a batch.
BATCH_AXES = ("replica", "fsdp")

# Logical axis -> mesh axis. Within one array a mesh axis is used once, by the first logical axis
# that asks for it: an activation [batch, length, embed] keeps embed whole, a kernel [embed, mlp]
# splits it over fsdp.
RULES = (
    ("batch", BATCH_AXES),
    ("length", "sequence"),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    # Inside attention, where sequences are whole: `tensor` stays, the all-to-all adds `sequence`.
    ("attended_heads", ("tensor", "sequence")),
    ("kv", None),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
    ("layers", None),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the devices are laid out; one axis may be -1 and takes all devices that are left.

    Attributes:
      replica: Copies of the model that share a batch.
      fsdp: Devices that share a batch and the parameters.
      sequence: Devices that share the positions of a sequence.
      tensor: Devices that share the heads and hidden widths of a layer.
      num_devices: Use the first so many; None uses all.
    """

    replica: int = 1
    fsdp: int = -1
    sequence: int = 1
    tensor: int = 1
    num_devices: int | None = None


def make_mesh(config: MeshConfig | None = None, devices: Any = None) -> Mesh:
    """Returns the mesh over `devices` (default: all there are), axes as in MESH_AXES.

    Raises:
      ValueError: when the axes do not multiply to the number of devices, or slices of a TPU would
        share anything but a batch.
    """
    config = config or MeshConfig()
    devices = list(jax.devices() if devices is None else devices)[: config.num_devices]
    sizes = [getattr(config, name) for name in MESH_AXES]
    if sizes.count(-1) == 1:
        known = -math.prod(sizes)
        sizes[sizes.index(-1)] = len(devices) // known if len(devices) % known == 0 else 0
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        asked = " x ".join(f"{name}={getattr(config, name)}" for name in MESH_AXES)
        raise ValueError(
            f"The mesh {asked} does not fit {len(devices)} device(s);"
            " choose sizes whose product is the number of devices, or set one axis to -1."
        )
    types = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    return Mesh(lay_out(sizes, devices), MESH_AXES, axis_types=types)


def lay_out(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    """Devices in the shape of a mesh, so that axes to the right have the fastest links.

    Devices that fast links join have an equal `slice_index`, where their platform sets one: a slice
    of a TPU, or a group of GPUs. Several of them lie along `replica`; those of GPUs also along
    `fsdp`. Tried with described devices only.

    Raises:
      ValueError: when the slices would lie along another axis.
    """
    num_slices = len({getattr(device, "slice_index", 0) for device in devices})
    if num_slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    # As many slices along `replica` as it has room for, the rest along `fsdp`.
    outer = [math.gcd(sizes[0], num_slices)]
    outer += [num_slices // outer[0], 1, 1]
    is_tpu = devices[0].platform == "tpu"
    if sizes[1] % outer[1] or (is_tpu and outer[1] > 1):
        room = "set replica to" if is_tpu else "choose replica x fsdp to be"
        raise ValueError(
            f"The mesh has replica={sizes[0]} and fsdp={sizes[1]} over {num_slices} slices; {room}"
            f" {num_slices} or a multiple: what else is split over slices is exchanged over their"
            " slow network in every layer."
        )
    inner = [size // ways for size, ways in zip(sizes, outer, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(
        inner, outer, devices, allow_split_physical_axes=True
    )


def batch_ways(mesh: Mesh) -> int:
    """Number of equal parts that a batch's rows are cut into."""
    return math.prod(mesh.shape[name] for name in BATCH_AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of every leaf of a batch: rows over replica and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def shard_batch(batch: dict[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts a batch on the mesh; with several hosts each passes its own rows of the global batch.

    Raises:
      ValueError: when the rows do not divide among the devices.
    """
    sharding, ways = batch_sharding(mesh), batch_ways(mesh)
    if jax.process_count() > 1:
        return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
    for name, value in batch.items():
        if value.shape[0] % ways:
            raise ValueError(
                f"A batch of {value.shape[0]} rows ({name}) cannot be split over {ways} devices;"
                f" use a multiple of {ways}, or a mesh with smaller replica x fsdp."
            )
    return jax.device_put(batch, sharding)


def param_shardings(boxed: Any, mesh: Mesh, rules: Any = RULES) -> Any:
    """Shardings of the unboxed parameters.

    Args:
      boxed: Shapes from `jax.eval_shape(model.init, ...)["params"]`, with flax's partitioning
        boxes. Parameters without a box are replicated.
      mesh: Where they go.
      rules: Logical axis -> mesh axis.

    A dimension that its mesh axes do not divide stays whole: a small model on a large mesh trains
    rather than fails.
    """
    shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, list(rules))
    return jax.tree.map(_drop_uneven, meta.unbox(boxed), shardings)


def shardings_by_size(tree: Any, mesh: Mesh, min_size: int = 2**14) -> Any:
    """Shardings of arrays without logical axes, such as convolution kernels and their moments.

    The last axis (output channels) of arrays with at least `min_size` numbers is split over `fsdp`
    where that divides it; everything else has a whole copy on every device. Only shapes decide, so
    that parameters, gradients, moments and averages agree.

    Args:
      tree: Arrays or shapes.
    """
    ways = mesh.shape["fsdp"]

    def choose(leaf):
        if leaf.ndim < 2 or leaf.size < min_size or leaf.shape[-1] % ways:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * (leaf.ndim - 1), "fsdp"))

    return jax.tree.map(choose, tree)


def mesh_for_rows(config: MeshConfig | None, sizes: Sequence[int]) -> Mesh:
    """The mesh of `config`; without one, of as many devices as divide all these batch sizes.

    A run on more devices than that keeps its batches, and so its result, and leaves some idle.
    Without `config` each slice of a TPU has a copy of the state.
    """
    if config is not None:
        return make_mesh(config)
    rows, devices = math.gcd(*sizes), jax.devices()
    num_devices = max(n for n in range(1, len(devices) + 1) if rows % n == 0)
    return make_mesh(MeshConfig(num_devices=num_devices, replica=_copies(devices[:num_devices])))


def _copies(devices: Sequence[Any]) -> int:
    """How many slices of a TPU these are; devices of other kinds lie in one `fsdp`."""
    if devices[0].platform != "tpu":
        return 1
    return len({getattr(device, "slice_index", 0) for device in devices})


def place_rows(batch: Any, mesh: Mesh) -> jax.Array:
    """Puts one array on the mesh, rows split; with several hosts each passes the whole batch."""
    return jax.make_array_from_callback(batch.shape, batch_sharding(mesh), lambda at: batch[at])


def opt_state_shardings(opt_state: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """Shardings of an optax state, found by each leaf's path and shape.

    A moment of the parameter's shape is sharded as the parameter. A factored one, with one
    dimension less, keeps the axes of the dimensions it has. Everything else is replicated. (Boxed
    parameters cannot go through optax for this: the boxes put a kernel's axes on factored rows.)
    """
    known = {}
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        known[path_names(path)] = (leaf.shape, sharding)

    def choose(path, leaf):
        names = path_names(path)
        for start in range(len(names)):
            if names[start:] in known:
                shape, sharding = known[names[start:]]
                return _matching(leaf.shape, shape, sharding, "v_row" in names)
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(choose, opt_state)


def path_names(path: Any) -> tuple[str, ...]:
    """Names along a path of jax.tree_util, whatever the containers are."""

    def name(key):
        for field in ("key", "name", "idx"):
            if hasattr(key, field):
                return str(getattr(key, field))
        return str(key)

    return tuple(name(key) for key in path)


def _matching(shape, param_shape, sharding: NamedSharding, drops_last: bool) -> NamedSharding:
    spec = tuple(sharding.spec) + (None,) * (len(param_shape) - len(sharding.spec))
    if shape == param_shape:
        return sharding
    kept = []
    for dropped in range(len(param_shape)):
        dims = [dim for dim in range(len(param_shape)) if dim != dropped]
        if tuple(param_shape[dim] for dim in dims) == shape:
            kept.append(dims)
    if not kept:
        return replicated(sharding.mesh)
    # Equal dimensions leave a choice: adafactor's v_row has lost the later one.
    dims = kept[-1] if drops_last else kept[0]
    return NamedSharding(sharding.mesh, PartitionSpec(*[spec[dim] for dim in dims]))


def _drop_uneven(leaf: Any, sharding: NamedSharding) -> NamedSharding:
    spec = []
    for size, axes in zip(leaf.shape, tuple(sharding.spec), strict=False):
        names = axes if isinstance(axes, tuple) else () if axes is None else (axes,)
        ways = math.prod(sharding.mesh.shape[name] for name in names)
        spec.append(axes if size % ways == 0 else None)
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))
