"""Mesh and shardings."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import meta
from jax.sharding import PartitionSpec

from poet.train import partitioning
from poet.train.partitioning import MeshConfig


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.initializers.ones
        wide = self.param("wide", nn.with_logical_partitioning(init, ("embed", "mlp")), (8, 12))
        odd = self.param("odd", nn.with_logical_partitioning(init, ("embed", "mlp")), (6, 7))
        return x, wide, odd, self.param("plain", init, (3,))


@pytest.fixture(scope="module")
def boxed():
    return jax.eval_shape(Model().init, jax.random.key(0), jnp.zeros(1))["params"]


def test_all_devices_are_on_fsdp_by_default():
    mesh = partitioning.make_mesh()
    assert dict(mesh.shape) == {"replica": 1, "fsdp": 4, "sequence": 1, "tensor": 1}
    assert partitioning.batch_ways(mesh) == 4


def test_the_rules_shard_by_logical_axis_and_uneven_dimensions_stay_whole(boxed):
    mesh = partitioning.make_mesh(MeshConfig(fsdp=2, tensor=2))
    specs = jax.tree.map(lambda s: s.spec, partitioning.param_shardings(boxed, mesh))
    assert specs["wide"] == PartitionSpec("fsdp", "tensor")
    assert specs["odd"] == PartitionSpec("fsdp", None)
    assert specs["plain"] == PartitionSpec()


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_moments_live_where_their_parameters_live(boxed, name):
    tx = {"adamw": optax.adamw(1e-3), "adafactor": optax.adafactor(1e-3, min_dim_size_to_factor=1)}
    mesh = partitioning.make_mesh(MeshConfig(fsdp=2, tensor=2))
    params = meta.unbox(boxed)
    shardings = partitioning.param_shardings(boxed, mesh)
    state = jax.eval_shape(tx[name].init, params)
    found = partitioning.opt_state_shardings(state, params, shardings, mesh)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    specs = {
        partitioning.path_names(path)[-2:]: (leaf.shape, sharding.spec)
        for (path, leaf), sharding in zip(leaves, jax.tree.leaves(found), strict=True)
    }
    if name == "adamw":
        assert specs["mu", "wide"] == ((8, 12), PartitionSpec("fsdp", "tensor"))
        assert specs["nu", "odd"] == ((6, 7), PartitionSpec("fsdp", None))
    else:
        # Rows have lost the larger dimension, columns the smaller one.
        assert specs["v_row", "wide"] == ((8,), PartitionSpec("fsdp"))
        assert specs["v_col", "wide"] == ((12,), PartitionSpec("tensor"))


def test_rows_are_split_over_replica_and_fsdp():
    mesh = partitioning.make_mesh(MeshConfig(replica=2, fsdp=2))
    batch = partitioning.shard_batch({"x": np.arange(8.0).reshape(8, 1)}, mesh)
    assert {shard.data.shape for shard in batch["x"].addressable_shards} == {(2, 1)}
    with pytest.raises(ValueError, match="batch of 6 rows .x. cannot be split over 4 devices"):
        partitioning.shard_batch({"x": np.zeros((6, 1))}, mesh)


@pytest.mark.parametrize("config", [MeshConfig(fsdp=3), MeshConfig(tensor=3), MeshConfig(fsdp=0)])
def test_a_mesh_that_does_not_fit_is_refused(config):
    with pytest.raises(ValueError, match="does not fit 4 device"):
        partitioning.make_mesh(config)


def described(num_slices, platform="tpu"):
    """Eight devices of equal slices, in an order that mixes them."""
    return [
        types.SimpleNamespace(
            id=i, slice_index=i % num_slices, platform=platform, device_kind="described"
        )
        for i in range(8)
    ]


def slices_of(grid):
    """The slices of every device, in the mesh's shape."""
    return np.vectorize(lambda device: device.slice_index)(grid)


def test_slices_lie_along_replica():
    grid = partitioning.lay_out([4, 1, 1, 2], described(2, "gpu"))
    np.testing.assert_array_equal(slices_of(grid)[:, 0, 0], [[0, 0], [0, 0], [1, 1], [1, 1]])
    assert sorted(device.id for device in grid.flat) == list(range(8))


def test_nodes_of_gpus_may_lie_along_fsdp():
    grid = partitioning.lay_out([2, 4, 1, 1], described(4, "gpu"))
    np.testing.assert_array_equal(slices_of(grid)[:, :, 0, 0], [[0, 0, 1, 1], [2, 2, 3, 3]])


@pytest.mark.parametrize(
    "sizes, platform, words",
    [
        ((1, 8, 1, 1), "tpu", r"replica=1 and fsdp=8 over 4 slices; set replica to 4"),
        ((2, 4, 1, 1), "tpu", r"replica=2 and fsdp=4 over 4 slices; set replica to 4"),
        ((1, 2, 1, 4), "gpu", r"over 4 slices; choose replica x fsdp to be 4 or a multiple"),
    ],
)
def test_slices_share_only_a_batch(sizes, platform, words):
    with pytest.raises(ValueError, match=words):
        partitioning.lay_out(sizes, described(4, platform))
