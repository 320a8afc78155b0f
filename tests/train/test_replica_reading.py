"""One replica reads a checkpoint and sends it to the others, bit by bit."""

import gc
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real_processes
from jax.sharding import NamedSharding, PartitionSpec

from poet.train import agreement, checkpoint, partitioning, reading, state
from poet.train.partitioning import MeshConfig

SPECS = {
    "kernel": PartitionSpec("fsdp", "tensor"),
    "scale": PartitionSpec(),
    "half": PartitionSpec(None, "fsdp"),
    "counts": PartitionSpec("tensor"),
    "flags": PartitionSpec(),
}


def make_state():
    """Numbers of several types, with bits that sums of floats would lose."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(8, 16)).astype(np.float32)
    kernel[0, :4] = [-0.0, np.inf, 1e-45, 0.0]
    kernel[1, :2] = np.array([0x7FC12345, 0xFFC00001], np.uint32).view(np.float32)
    params = {
        "kernel": kernel,
        "scale": np.full(3, -0.0, np.float32),
        "half": rng.normal(size=(2, 8)).astype(jnp.bfloat16),
        "counts": np.array([-1, 2**31 - 1, -(2**31), 0], np.int32),
        "flags": np.array([True, False]),
    }
    made = state.create(jax.tree.map(jnp.asarray, params), {"kernel": jnp.asarray(kernel[::-1])})
    return made.replace(step=jnp.asarray(7, jnp.int32))


def like_on(mesh):
    """Shapes of that state on a mesh."""

    def shape(path, leaf):
        names = partitioning.path_names(path)
        spec = SPECS.get(names[-1], PartitionSpec())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(shape, make_state())


def mesh_of(replica, fsdp, tensor):
    return partitioning.make_mesh(
        MeshConfig(replica=replica, fsdp=fsdp, tensor=tensor, num_devices=replica * fsdp * tensor)
    )


def bits(tree):
    """Every array's type and bytes on every device."""
    found = []
    for leaf in jax.tree.leaves(tree):
        shards = sorted(leaf.addressable_shards, key=lambda shard: shard.device.id)
        found.append(
            (str(leaf.dtype), [(s.device.id, np.asarray(s.data).tobytes()) for s in shards])
        )
    return found


def devices_read_onto(folder, shape):
    """Restores in both ways and compares all bits; returns the devices of the reading replica."""
    with checkpoint.Checkpoints(folder) as checkpoints:
        checkpoints.save(make_state(), {})
    like, seen, read_here = like_on(mesh_of(*shape)), [], reading._read_here

    def spy(path, like):
        seen.append({d.id for leaf in jax.tree.leaves(like) for d in leaf.sharding.device_set})
        return read_here(path, like)

    with checkpoint.Checkpoints(folder) as checkpoints, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_read_here", spy)
        sent = checkpoints.restore_latest(like)
        patch.setattr(reading, "replicated_mesh", lambda like: None)
        plain = checkpoints.restore_latest(like)
    assert bits(sent) == bits(plain)
    assert int(sent.step) == 7
    np.testing.assert_array_equal(sent.params["kernel"], make_state().params["kernel"])
    assert [leaf.sharding for leaf in jax.tree.leaves(sent)] == [
        leaf.sharding for leaf in jax.tree.leaves(like)
    ]
    with_all = set(range(np.prod(shape)))
    assert seen[2:] == [with_all, with_all], "the plain way reads onto all devices"
    return seen[:2]


@pytest.mark.parametrize("shape", [(2, 2, 1), (4, 1, 1), (2, 1, 2)])
def test_one_replica_of_four_devices_reads_for_all(tmp_path, shape):
    first = set(range(shape[1] * shape[2]))
    assert devices_read_onto(tmp_path, shape) == [first, first]


def test_pieces_are_sent_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 40)
    devices_read_onto(tmp_path, (2, 2, 1))


def first_devices_read_onto(folder, shapes):
    """{mesh: devices that the first of two reads went onto, sorted}."""
    found = {}
    for shape in shapes:
        first, _ = devices_read_onto(pathlib.Path(folder) / "x".join(map(str, shape)), shape)
        found[str(shape)] = sorted(map(int, first))
    return found


@pytest.mark.slow
def test_one_replica_of_eight_devices_reads_for_all(tmp_path):
    shapes = [[2, 2, 2], [4, 2, 1], [8, 1, 1], [2, 1, 4]]
    found = real_processes.on_eight_devices(first_devices_read_onto, str(tmp_path), shapes)
    assert found == {str(shape): list(range(8 // shape[0])) for shape in shapes}


def test_what_has_no_replicas_is_read_as_it_is():
    whole = like_on(mesh_of(1, 4, 1))
    assert reading.replicated_mesh(whole) is None
    assert reading.replicated_mesh({}) is None
    assert reading.replicated_mesh({"x": jax.ShapeDtypeStruct((2,), jnp.float32)}) is None
    mesh = mesh_of(2, 2, 1)
    assert reading.replicated_mesh(like_on(mesh)) == mesh
    split = NamedSharding(mesh, PartitionSpec(("replica", "fsdp")))
    rows = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=split)
    assert reading.replicated_mesh({"rows": rows}) is None


# Orbax leaves reads that failed unfinished.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("others_can", [True, False])
def test_what_one_process_cannot_read_no_process_reads(tmp_path, monkeypatch, others_can):
    """Other processes are played: they say yes, or no."""
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(), {})
    path = checkpoints.folder / "7" / "params"
    like = like_on(mesh_of(2, 2, 1)).params
    if others_can:
        like["kernel"] = jax.ShapeDtypeStruct((9, 9), jnp.float32, sharding=like["scale"].sharding)
        says = "params cannot be read: .*shape"
    else:
        says = "params cannot be read: another process could not read its part"
    monkeypatch.setattr(agreement, "all_say", lambda is_fine: is_fine and others_can)
    with pytest.raises(ValueError, match=says):
        reading.read(path, like)
    gc.collect()


TWO = """
import pathlib, sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
import test_replica_reading
from poet.train import checkpoint, reading

read_here, reads = reading._read_here, []
reading._read_here = lambda *given: reads.append(given[0].name) or read_here(*given)
folder, made = pathlib.Path(sys.argv[3]), test_replica_reading.make_state()
like = test_replica_reading.like_on(test_replica_reading.mesh_of(2, 2, 1))
whole = jax.tree.map(
    lambda leaf, want: jax.make_array_from_callback(
        want.shape, want.sharding, lambda at: np.asarray(leaf)[at]), made, like)
with checkpoint.Checkpoints(folder) as checkpoints:
    checkpoints.save(whole, {})
with checkpoint.Checkpoints(folder) as checkpoints:
    found = checkpoints.restore_latest(like)
assert test_replica_reading.bits(found) == test_replica_reading.bits(whole)
print("reads", reads)
for path in (folder / "checkpoints" / "7" / "rest" / "d").iterdir():
    if jax.process_index() == 0:
        path.write_bytes(b"torn")
with checkpoint.Checkpoints(folder) as checkpoints:
    try:
        checkpoints.restore_latest(like)
    except ValueError as error:
        print("refused:", str(error)[:2000].replace(chr(10), " "))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_process_of_two_reads_and_both_refuse_what_it_cannot(tmp_path):
    said = real_processes.run_two(TWO, str(tmp_path), num_devices=2, timeout_s=500)
    assert "reads ['params', 'rest']" in said[0] and "reads []" in said[1]
    assert all("refused: No checkpoint under" in text for text in said)
    assert "another process could not read its part" in said[1]
