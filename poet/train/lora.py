"""Low-rank adapters: small parameters that train beside a base that never changes.

A kernel W [in, out] acts as W + (alpha / rank) A B with A [in, rank] and B [rank, out] (Hu et al.,
"LoRA", arXiv 2106.09685). A starts random and B at zero, so that a run begins with its base. While
they train, x A B is added to x W (`beside`): a sum in the kernel's place would be a second copy of
the model, and its gradient a third. For generating, which wants one product, they are merged.
Checkpoints hold A and B alone, and the base's path and fingerprint.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from poet.layers.linear import ADAPTERS
from poet.train import checkpoint
from poet.train.meta import from_json
from poet.train.origin import Origin
from poet.train.partitioning import path_names

# Facts of a run of adapters have this kind.
KIND = "prefix_lm_lora"
# Kernel of a block -> axes that it contracts, not counting the layers in front.
KERNELS = {"query": 1, "key": 1, "value": 1, "out": 2, "gate": 1, "up": 1, "down": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which adapters there are.

    Attributes:
      rank: Columns of A and rows of B.
      alpha: The adapters' product counts alpha / rank.
      kernels: Names from ``KERNELS``: of every layer, these are adapted.
    """

    rank: int = 16
    alpha: float = 16.0
    kernels: tuple[str, ...] = tuple(KERNELS)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", tuple(self.kernels))
        if self.rank < 1:
            raise ValueError(f"LoraConfig rank={self.rank} must be at least 1; 16 is usual.")
        unknown = sorted(set(self.kernels) - KERNELS.keys())
        if unknown or not self.kernels:
            raise ValueError(
                f"LoraConfig kernels={list(self.kernels)} should be names of a block's kernels;"
                f" choose among {', '.join(KERNELS)}."
            )


def init(config: LoraConfig, params: Any, key: Any) -> dict[str, Any]:
    """Adapters by the kernel's names, "a" [layers, in..., rank] and "b" [layers, rank, out...].

    Args:
      config: Which.
      params: The base's parameters, or their shapes.
      key: Draws A; B is zero.
    """
    made = {}
    for index, (names, kernel) in enumerate(_kernels(config, params).items()):
        num_in = KERNELS[names[-1]]
        lead, out = kernel.shape[: 1 + num_in], kernel.shape[1 + num_in :]
        spread = math.prod(lead[1:]) ** -0.5
        a = spread * jax.random.normal(jax.random.fold_in(key, index), (*lead, config.rank))
        made[names] = {"a": a, "b": jnp.zeros((lead[0], config.rank, *out))}
    return _nested(made)


def shardings(config: LoraConfig, param_shardings: Any) -> dict[str, Any]:
    """A lies as the kernel's inputs do and B as its outputs; the rank is whole everywhere."""
    made = {}
    for names, sharding in _kernels(config, param_shardings).items():
        num_in, count = KERNELS[names[-1]], 1 + _NUM_AXES[names[-1]]
        spec = (*sharding.spec, *(None,) * (count - len(sharding.spec)))
        a, b = (*spec[: 1 + num_in], None), (spec[0], None, *spec[1 + num_in :])
        made[names] = {
            part: NamedSharding(sharding.mesh, PartitionSpec(*axes))
            for part, axes in (("a", a), ("b", b))
        }
    return _nested(made)


def beside(config: LoraConfig, params: Any, adapters: Any) -> dict[str, Any]:
    """Variables for the model's `apply` in which the adapters act beside the base's kernels."""
    share = config.alpha / config.rank
    scaled = {
        names: {"a": pair["a"], "b": share * pair["b"]}
        for names in _kernels(config, params)
        for pair in [_at(adapters, names)]
    }
    return {"params": params, ADAPTERS: _nested(scaled)}


def merge(config: LoraConfig, params: Any, adapters: Any) -> Any:
    """Parameters of the base with the adapters' products added; neither argument is changed."""
    params = jax.tree.map(lambda leaf: leaf, params)  # new dicts around the same arrays
    for names in _kernels(config, params):
        pair = _at(adapters, names)
        # Layers lie in front of both; A's last axis meets B's second.
        contracted = ((pair["a"].ndim - 1,), (1,))
        product = jax.lax.dot_general(
            pair["a"], pair["b"], (contracted, ((0,), (0,))), precision="highest"
        )
        holder = _at(params, names)
        holder["kernel"] = holder["kernel"] + config.alpha / config.rank * product
    return params


def load_merged(
    model_dir: epath.PathLike,
    meta: Mapping[str, Any],
    like: Any = None,
    averaged: bool = False,
    base_dir: epath.PathLike = "",
) -> Any:
    """Base and adapters of a checkpoint as the parameters of one model.

    Args:
      model_dir: MODEL_DIR of the adapters.
      meta: Its facts, from `checkpoint.read_meta`.
      like: Shapes of the merged parameters, with shardings; None gives arrays on one device.
      averaged: Takes the moving average of the adapters.
      base_dir: Where the base lies now; "" is where it lay in training.

    Raises:
      ValueError: The base is not there, or is not the one that the adapters were trained on.
    """
    config = from_json(LoraConfig, meta["adapters"])
    at = meta["init_from"]
    base = Origin(str(base_dir or at["model_dir"]), at["step"])
    params = load_base(base, like, meta["base"])
    adapters_like = None
    if like is not None:
        shapes = jax.eval_shape(lambda key: init(config, like, key), jax.random.key(0))
        places = shardings(config, jax.tree.map(lambda leaf: leaf.sharding, like))
        adapters_like = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            places,
        )
    adapters = checkpoint.load_params(model_dir, meta["step"], adapters_like, averaged)
    return jax.jit(merge, static_argnums=0)(config, params, adapters)


def load_base(origin: Origin, like: Any, wanted: str = "") -> Any:
    """The base's parameters; ValueError unless their fingerprint is `wanted` (or that is "")."""
    try:
        params = origin.load(like)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"The adapters need the model they were trained on, step {origin.step} of"
            f" {origin.model_dir}, which cannot be read ({error}); put it back, or say where it"
            " lies now (--base)."
        ) from error
    if wanted and (found := fingerprint(params)) != wanted:
        raise ValueError(
            f"The adapters were trained on parameters {wanted[:12]}, but step {origin.step} of"
            f" {origin.model_dir} holds {found[:12]}; give the base they were trained on."
        )
    return params


def fingerprint(params: Any) -> str:
    """A name that other parameters do not have, whatever the mesh: equal bits, equal fingerprint.

    Two sums of all bits, the second weighted by position, in whole numbers mod 2^32: they do not
    depend on the order of adding, and nothing is gathered.
    """
    digest = hashlib.sha256(b"poet parameters v1")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        sums = [int(part) for part in _bit_sums(jnp.asarray(leaf))]
        facts = ("/".join(path_names(path)), leaf.shape, jnp.dtype(leaf.dtype).name, sums)
        digest.update(repr(facts).encode())
    return digest.hexdigest()


@jax.jit
def _bit_sums(leaf: jax.Array) -> tuple[jax.Array, jax.Array]:
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(leaf, width).astype(jnp.uint32)
    index = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    weighted = bits * (2 * index + 1)
    return bits.sum(dtype=jnp.uint32), weighted.sum(dtype=jnp.uint32)


# Axes of a kernel, not counting the layers in front.
_NUM_AXES = {"query": 3, "key": 3, "value": 3, "out": 3, "gate": 2, "up": 2, "down": 2}


def _kernels(config: LoraConfig, params: Any) -> dict[tuple[str, ...], Any]:
    """Path of each adapted kernel's module -> the kernel (or its shape or sharding), in order."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["layers"]):
        names = ("layers", *path_names(path))
        if names[-1] == "kernel" and names[-2] in config.kernels:
            found[names[:-1]] = leaf
    return found


def _at(tree: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        tree = tree[name]
    return tree


def _nested(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for names, leaf in flat.items():
        holder = tree
        for name in names[:-1]:
            holder = holder.setdefault(name, {})
        holder[names[-1]] = leaf
    return tree
