"""Rules, meshes, and what layers make of them. Shapes only: nothing is compiled."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from poet.layers import sharding
from poet.train.partitioning import RULES, MeshConfig, make_mesh


def shapes(num_heads, num_kv_heads, length=6):
    """Of queries, keys and values with few heads a device."""
    counts = (num_heads, num_kv_heads, num_kv_heads)
    heads = [jax.ShapeDtypeStruct((2, length, count, 4), jnp.float32) for count in counts]
    return [x.shape for x in jax.eval_shape(sharding.heads_apart, *heads)]


@pytest.fixture
def split_sequences():
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=1, sequence=2, tensor=2))):
        with nn.logical_axis_rules(RULES):
            yield


def test_the_rules_say_which_axes_split_what(split_sequences):
    assert sharding.mesh_axes("length") == ("sequence",)
    assert sharding.mesh_axes("attended_heads") == ("tensor", "sequence")
    assert sharding.mesh_axes("batch") == (), "axes of one device split nothing"
    assert sharding.mesh_axes("kv") == sharding.mesh_axes("unheard_of") == ()
    assert sharding.num_ways(("tensor", "sequence")) == 4 and sharding.num_ways(()) == 1
    assert [sharding.positions_to_add(n) for n in (5, 6)] == [1, 0]


def test_without_rules_or_mesh_nothing_is_split():
    assert sharding.mesh_axes("length") == () and sharding.positions_to_add(5) == 0
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=1, sequence=2, tensor=2))):
        assert sharding.mesh_axes("length") == ()
    with nn.logical_axis_rules(RULES):
        assert sharding.mesh_axes("length") == ()
    assert shapes(3, 1) == [(2, 6, 3, 4), (2, 6, 1, 4), (2, 6, 1, 4)]


@pytest.mark.parametrize("num_kv_heads, spread", [(1, 4), (2, 4), (4, 4), (12, 12), (6, 12)])
def test_keys_are_repeated_until_they_divide(split_sequences, num_kv_heads, spread):
    q, k, v = shapes(12, num_kv_heads)
    assert q[2] == 12 and k == v and k[2] == spread


def test_query_heads_that_do_not_divide_are_refused(split_sequences):
    with pytest.raises(ValueError, match="num_heads=6 cannot be split over tensor x sequence = 4"):
        shapes(6, 2)
