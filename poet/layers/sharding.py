"""What layers ask about the mesh in force, and where arrays lie while attention looks at them.

One table decides: the logical axis rules in force (`poet.train.partitioning.RULES`). Without rules
or without a mesh nothing is split, and nothing here leaves a trace in the program.

Axes: B batch, L positions, N query heads, K key/value heads, H head width.
"""

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from poet.typing import Array, Float


def mesh_axes(logical: str) -> tuple[str, ...]:
    """Mesh axes of more than one device that a logical axis is split over, outermost first."""
    mesh = jax.sharding.get_abstract_mesh()
    names = next((to for name, to in nn.get_logical_axis_rules() if name == logical), None)
    names = (names,) if isinstance(names, str) else names or ()
    return tuple(name for name in names if mesh.shape.get(name, 1) > 1)


def num_ways(axes: tuple[str, ...]) -> int:
    """Parts that these axes of the mesh in force cut an array into."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[name] for name in axes)


@dataclasses.dataclass(frozen=True)
class TokenAxes:
    """Mesh axes that split sequences, their positions, ids of the vocabulary, and width.

    Width is that of tables: an activation, whose sequences are split over the same devices, is as
    wide as ever.
    """

    rows: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    width: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        """Whether anything is split."""
        return bool(self.rows or self.positions or self.ids)

    @property
    def tokens(self) -> PartitionSpec:
        """Of arrays [sequences, positions, ...]."""
        return PartitionSpec(self.rows or None, self.positions or None)

    @property
    def table(self) -> PartitionSpec:
        """Of tables [ids, width]."""
        return PartitionSpec(self.ids or None, self.width or None)


def token_axes(width: int) -> TokenAxes:
    """Where tokens and tables of this width lie on the mesh in force, by the rules in force."""
    rows = mesh_axes("batch")
    splits = tuple(name for name in mesh_axes("embed") if name in rows)
    if width % num_ways(splits):
        splits = ()
    return TokenAxes(rows, mesh_axes("length"), mesh_axes("vocab"), splits)


def platform() -> str:
    """What is compiled for, "cpu", "gpu" or "tpu": devices of the mesh in force, or jax's own.

    A mesh of described TPUs counts as TPU on a machine without one.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def heads_apart(
    q: Float[Array, "B L N H"], k: Float[Array, "B L K H"], v: Float[Array, "B L K H"]
) -> tuple[Float[Array, "B L N H"], Float[Array, "B L _ H"], Float[Array, "B L _ H"]]:
    """Queries, keys and values with whole sequences and few heads a device, not the reverse.

    Where positions are split, this is the all-to-all of sequence parallelism (Jacobs et al., arXiv
    2309.14509): attention then runs as on one device, static masks included. Key/value heads that
    are fewer than the devices, or do not divide, are repeated beforehand, so often that they do;
    a device still receives only the heads that its queries look at.

    Raises:
      ValueError: The query heads do not divide among the devices that share a sequence.
    """
    if not mesh_axes("length"):
        return q, k, v
    k, v = repeated_keys(q, k, v)
    axes = ("batch", None, "attended_heads", "kv")
    # Said on both sides: otherwise the compiler gathers what queries, keys and values are made of,
    # and makes them of all positions on every device.
    q, k, v = (positions_apart(x) for x in (q, k, v))
    return tuple(nn.with_logical_constraint(x, axes) for x in (q, k, v))


def repeated_keys(
    q: Float[Array, "B L N H"], k: Float[Array, "B L K H"], v: Float[Array, "B L K H"]
) -> tuple[Float[Array, "B L _ H"], Float[Array, "B L _ H"]]:
    """Keys and values, each head so often that they divide among the devices that share heads.

    Raises:
      ValueError: The query heads do not divide among these devices.
    """
    ways = num_ways(mesh_axes("attended_heads"))
    if q.shape[2] % ways:
        raise ValueError(
            f"num_heads={q.shape[2]} cannot be split over tensor x sequence = {ways} devices; use a"
            " multiple of that, or a mesh with a smaller `sequence` or `tensor`."
        )
    repeats = ways // math.gcd(ways, k.shape[2])
    if repeats > 1:
        k, v = (jnp.repeat(x, repeats, axis=2) for x in (k, v))
    return k, v


def on_each_device(
    attend: Callable[[Array, Array, Array], Array],
    q: Float[Array, "B L N H"],
    k: Float[Array, "B L K H"],
    v: Float[Array, "B L K H"],
) -> Float[Array, "B L N H"]:
    """What a kernel makes of queries, keys and values, each device on its own rows and heads.

    Rows of the batch and heads lie as in the logical axis rules in force ("batch",
    "attended_heads"); sequences are whole.

    Raises:
      ValueError: The batch or the query heads do not divide among the devices.
    """
    rows, heads = mesh_axes("batch"), mesh_axes("attended_heads")
    if len(q) % num_ways(rows):
        raise ValueError(
            f"A batch of {len(q)} sequences cannot be split over {num_ways(rows)} devices"
            f" ({' x '.join(rows)}); use a multiple of that."
        )
    if not rows and not heads:
        return attend(q, k, v)
    k, v = repeated_keys(q, k, v)
    # Axes of one device are named too: the backward pass would add up over those that are not.
    shape = jax.sharding.get_abstract_mesh().shape
    rows += tuple(name for name in shape if shape[name] == 1)
    spec = PartitionSpec(rows, None, heads or None)
    # Nothing is exchanged inside, so that there is nothing to check between devices.
    return jax.shard_map(attend, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(q, k, v)


def positions_apart(x: Array) -> Array:
    """Few positions a device: of a stream [B, L, D], or of heads [B, L, N, H] after attention."""
    if not mesh_axes("length"):
        return x
    axes = ("embed",) if x.ndim == 3 else ("heads", "kv")
    return nn.with_logical_constraint(x, ("batch", "length", *axes))


def positions_whole(x: Float[Array, "B L *D"]) -> Float[Array, "B L *D"]:
    """The same numbers with all positions on every device of `sequence`, of either direction.

    Around whatever joins, cuts or picks positions. XLA's partitioner does not get these right on
    split positions (jax 0.10.2, CPU): gradients of a table that was looked up for a part of them
    came out wrong, and a split into 8 ended the process.
    """
    if not mesh_axes("length"):
        return x
    return nn.with_logical_constraint(x, ("batch", None, "embed")[: x.ndim])


def positions_to_add(length: int) -> int:
    """Positions at the end that make a length a multiple of the devices that share a sequence."""
    return -length % num_ways(mesh_axes("length"))
