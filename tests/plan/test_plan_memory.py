"""Memory of a chip, refusals, and what is proposed where a step does not fit."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from poet.plan import hlo, memory
from poet.plan.chips import parse_topology
from poet.plan.memory import Memory, Setting
from poet.train import partitioning
from poet.train.chips import GIB

SLICE = parse_topology("v5e:4x4")
OWN = Setting(batch_tokens=65_536, remat_policy="dots_no_batch", tensor=1, topology=SLICE)
NEEDS = Memory(resident=6 * GIB, arguments=0.0, outputs=2 * GIB, temporaries=12 * GIB)


def test_what_a_program_needs_is_added_to_the_state():
    found = types.SimpleNamespace(
        output_size_in_bytes=30,
        alias_size_in_bytes=20,
        temp_size_in_bytes=5,
        generated_code_size_in_bytes=2,
    )
    compiled = types.SimpleNamespace(memory_analysis=lambda: found)
    needed = memory.of_program(compiled, state_bytes=100, argument_bytes=7)
    assert needed.total == 100 + 7 + 10 + 5 + 2


def test_a_refusal_says_what_is_needed_and_what_fits():
    words = memory.refusal(SLICE, 20 * GIB, ["remat_policy = 'full' (was 'dots')"])
    assert words == (
        "The step does not fit: it needs 20.0 GiB a chip, v5e:4x4 has 15.8 GiB a chip. It fits"
        " with remat_policy = 'full' (was 'dots')."
    )
    assert memory.refusal(SLICE, None, None).endswith("v5e:4x4 has 15.8 GiB a chip.")
    assert "take a larger slice" in memory.refusal(SLICE, 20 * GIB, [])


def test_the_compilers_number_is_read():
    said = "RESOURCE_EXHAUSTED: HLO temporaries (22.43G) exceeds available HBM (15.75G)"
    assert memory.needed_bytes(said) == 22.43 * GIB
    assert memory.needed_bytes("Used 18.5G of 15.75G hbm. Exceeded") == 18.5 * GIB
    assert memory.needed_bytes("no number") is None


def test_the_nearest_settings_come_first():
    found = memory.proposals(OWN, NEEDS, num_heads=8, smallest=1024)
    assert found[0] == dataclasses.replace(OWN, remat_policy="full")
    assert found[0].words(OWN) == "remat_policy = 'full' (was 'dots_no_batch')"
    # Where `full` does not fit, other policies do not: what helps differently comes first.
    assert found[1] == dataclasses.replace(OWN, batch_tokens=32_768)
    assert found[1].words(OWN) == "BATCH_TOKENS = 32,768 (was 65,536)"
    policies = [each.remat_policy for each in found if each.batch_tokens == 65_536]
    assert {"attention", "dots_except_widening"} <= set(policies)
    # A larger slice has less state and fewer tokens on each chip.
    assert any(each.topology.name == "v5e:4x8" for each in found)
    assert all(memory.estimate(each, OWN, NEEDS) <= SLICE.chip.hbm_bytes for each in found)


def test_fewer_copies_of_the_state_are_proposed_down_to_one_a_slice():
    copied = dataclasses.replace(OWN, remat_policy="full", replica=8)
    two = dataclasses.replace(copied, topology=parse_topology("v5e:4x4@2"))
    needs = dataclasses.replace(NEEDS, temporaries=10 * GIB)
    for before, counts in ((copied, [4, 1]), (two, [4, 2])):
        found = memory.proposals(before, needs, num_heads=8, smallest=1024)
        assert [each.replica for each in found[:2]] == counts
        assert found[0].words(before) == "mesh replica = 4 (was 8)"
    # 6 and 2 GiB of state and gradients become half as much.
    assert memory.estimate(found[0], two, needs) == 14 * GIB
    assert all(each.replica == 1 for each in memory.proposals(OWN, NEEDS, 8, 1024))


def test_a_head_by_tiles_comes_first_where_the_whole_one_is_held():
    """9 of the 12 GiB of temporaries are the head; it grows with neither tokens nor policy."""
    own = dataclasses.replace(OWN, whole_head_bytes=9 * GIB)
    found = memory.proposals(own, NEEDS, num_heads=8, smallest=1024)
    assert found[0].words(own) == "--gin_file gin/models/head_by_tiles.gin"
    assert memory.estimate(found[0], own, NEEDS) == (6 + 2 + 3) * GIB
    # All else with it: what fits no more with it does not without.
    assert found[1] == dataclasses.replace(found[0], remat_policy="full")
    assert all(each.head_by_tiles for each in found)
    assert "gin/models/head_by_tiles.gin" in found[0].all_words()
    half = dataclasses.replace(own, batch_tokens=32_768)
    assert memory.estimate(half, own, NEEDS) == (6 + 2 + 9 + 1.5) * GIB
    split = dataclasses.replace(own, tensor=2)
    np.testing.assert_allclose(
        memory.estimate(split, own, NEEDS), (6 + 2 + 4.5 + 0.9 * 3) * GIB, rtol=1e-12
    )
    # Where it is so already, nothing of the kind is proposed, and nothing is counted of it.
    tiled = found[0]
    assert all(each.head_by_tiles for each in memory.proposals(tiled, NEEDS, 8, 1024))
    assert memory.estimate(tiled, tiled, NEEDS) == NEEDS.total


def test_batches_do_not_get_smaller_than_a_row_a_chip():
    found = memory.proposals(OWN, NEEDS, num_heads=8, smallest=65_536)
    assert all(each.batch_tokens == 65_536 for each in found)


def test_state_that_is_too_large_asks_for_more_chips_only():
    huge = dataclasses.replace(NEEDS, resident=40 * GIB)
    found = memory.proposals(OWN, huge, num_heads=8, smallest=1024)
    assert found and all(each.topology.num_chips >= 64 for each in found)


def test_large_arrays_that_every_device_holds_are_named():
    mesh = partitioning.make_mesh()
    shape = (1024, 1024)
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    tree = {
        "split": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=split),
        "whole": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=partitioning.replicated(mesh)),
        "small": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=partitioning.replicated(mesh)),
    }
    assert memory.replicated_bytes(tree) == {"['whole']": 4 * 2**20}
    assert memory.bytes_on_chip(tree) == 2**20 + 4 * 2**20 + 32


def test_the_largest_arrays_of_a_program_are_found():
    text = """HloModule m

ENTRY %main (a: f32[96,8], b: f32[8,96]) -> f32[96] {
  %a = f32[96,8] parameter(0)
  %b = f32[8,96] parameter(1)
  %c = f32[96,96] dot(%a, %b), lhs_contracting_dims={1}, metadata={op_name="jit(f)/x/y/dot"}
  ROOT %d = f32[96] fusion(%c), kind=kLoop, calls=%none
}
"""
    found = memory.largest_buffers(hlo.parse(text))
    assert found == [(4.0 * 96 * 96, "f32[96,96] x/y/dot"), (4.0 * 96, "f32[96] d")]
