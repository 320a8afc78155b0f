"""Hosts and replicas that differ are found and named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from poet.train import agreement, partitioning
from poet.train.partitioning import MeshConfig


@pytest.fixture(scope="module")
def mesh():
    return partitioning.make_mesh(MeshConfig(replica=2, fsdp=2))


def on(mesh, value, spec, flipped=None):
    """The value on the mesh; device `flipped` has the last bit of its first number turned."""
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    parts = []
    for number, (device, at) in enumerate(sharding.devices_indices_map(value.shape).items()):
        part = np.array(value[at])
        if number == flipped:
            part.reshape(-1).view(f"u{part.itemsize}")[0] ^= 1
        parts.append(jax.device_put(part, device))
    return jax.make_array_from_single_device_arrays(value.shape, sharding, parts)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32])
@pytest.mark.parametrize("spec", [(), ("fsdp",), (None, "fsdp")])
def test_one_flipped_bit_of_one_copy_is_found(mesh, dtype, spec):
    value = np.arange(-12, 12).reshape(4, 6).astype(dtype)
    whole = {"layers": {"kernel": on(mesh, value, spec)}, "scale": on(mesh, value[0], ())}
    agreement.check_replicas(whole)
    broken = {**whole, "layers": {"kernel": on(mesh, value, spec, flipped=3)}}
    with pytest.raises(agreement.DisagreementError, match="Copies of 1 of 2 .* layers/kernel"):
        agreement.check_replicas(broken)


def test_what_has_no_copies_cannot_differ(mesh):
    value = np.arange(16.0, dtype=np.float32).reshape(4, 4)
    agreement.check_replicas({"w": on(mesh, value, (("replica", "fsdp"),), flipped=1)})
    agreement.check_replicas({"w": jnp.ones(3)})


def test_facts_of_hosts_are_compared_by_name():
    one, other = agreement._digest({"b": 2, "a": 1}), agreement._digest("other")
    np.testing.assert_array_equal(one, agreement._digest({"a": 1, "b": 2}))
    same = np.stack([np.stack([one, other])] * 3)
    agreement.check_digests(["config", "dataset"], same)
    same[2, 1] = one
    with pytest.raises(agreement.DisagreementError, match=r"0: dataset \(process 2\)\. Give every"):
        agreement.check_digests(["config", "dataset"], same)


def test_a_single_process_agrees_with_itself():
    agreement.check_hosts({"config": object})
    assert len(agreement.code_fingerprint()) == 64
