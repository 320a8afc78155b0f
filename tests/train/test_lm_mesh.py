"""The language model's training step on meshes: numbers of one device, programs without copies."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import mesh_programs
import numpy as np
import pytest
import real_processes

from poet.layers.tiled_loss import LossTiles
from poet.tokens.clip import ClipShape
from poet.tokens.fed_rows import fed_rows
from poet.tokens.schedule import RASTER, Schedule

DIAGONAL = Schedule("diagonal")
BY_TILES = LossTiles(num_tokens=8, num_ids=3, max_kept_logits=0, z_loss=1e-2, gathers_by_tile=True)


def off_one_device(order, shapes):
    """{mesh: {"loss_nats": ..., gradient: ...}}: how far each is from one device, relatively."""
    params, schedule = mesh_programs.params_of(), Schedule(order)
    one = mesh_programs.loss_and_gradients(
        mesh_programs.mesh_of(1, 1, 1, 1), params, schedule=schedule
    )
    assert np.abs(one["layers/block/key/kernel"]).max() > 1e-4, "gradients are more than rounding"
    found = {}
    for shape in shapes:
        mesh = mesh_programs.mesh_of(*shape)
        got = mesh_programs.loss_and_gradients(mesh, params, schedule=schedule)
        found[str(tuple(shape))] = mesh_programs.differences(got, one)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("schedule", "shapes"), [(RASTER, mesh_programs.EIGHT), (DIAGONAL, [(1, 2, 4, 1)])]
)
def test_eight_devices_give_the_numbers_of_one(schedule, shapes):
    plan, _ = mesh_programs.plan_and_batch()
    num_fed = plan.length - 1
    if schedule != RASTER:
        num_fed += fed_rows(plan, schedule).num_extra
        assert num_fed > plan.length - 1
    assert num_fed % 4 and (plan.length - 1 - plan.prefix_length) % 4, "padding is tried"
    found = real_processes.on_eight_devices(off_one_device, schedule.name, shapes)
    assert len(found) == len(shapes)
    for shape, off in found.items():
        assert max(off.values()) < 1e-5, (shape, sorted(off.items(), key=lambda x: -x[1])[:5])


# The paper's pictures: 41 frames of 128 x 128 pixels are 11 x 16 x 16 codes.
LONG = mesh_programs.Clips(2, ClipShape(41, 128, 128))
LONG_CONFIG = dataclasses.replace(
    mesh_programs.CONFIG, tiles=LossTiles(num_tokens=512, num_ids=20, z_loss=1e-2)
)


def off_unsplit_sequences(shapes):
    """As `off_one_device`, of long clips."""
    params = mesh_programs.params_of(LONG_CONFIG)

    def on(shape):
        mesh = mesh_programs.mesh_of(*shape)
        return mesh_programs.loss_and_gradients(mesh, params, LONG_CONFIG, clips=LONG)

    one = on((1, 1, 1, 1))
    assert np.abs(one["layers/block/key/kernel"]).max() > 1e-5, "gradients are more than rounding"
    return {str(tuple(shape)): mesh_programs.differences(on(shape), one) for shape in shapes}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_long_sequences_split_over_devices_give_the_numbers_of_one():
    """2,828 positions are fed: eight devices split them with padding, four without."""
    plan, _ = mesh_programs.plan_and_batch(LONG_CONFIG, clips=LONG)
    assert plan.clip.grid == (11, 16, 16) and plan.length - 1 == 2828
    found = real_processes.on_eight_devices(off_unsplit_sequences, [(1, 1, 8, 1), (1, 2, 4, 1)])
    assert len(found) == 2
    for shape, off in found.items():
        assert max(off.values()) < 1e-5, (shape, sorted(off.items(), key=lambda x: -x[1])[:5])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 2, 1, 2), (1, 2, 2, 1)])
def test_the_compiled_step_has_no_copy_of_the_head(shape):
    """Each table's width is gathered once, before the loops; nothing is as large as it is whole."""
    text = mesh_programs.step_text(mesh_programs.mesh_of(*shape), mesh_programs.LARGE_VOCABULARY)
    gathered = mesh_programs.LARGE_TABLE // shape[-1]
    assert max(mesh_programs.sizes_of(text)) <= gathered
    large = [g for g in mesh_programs.gathers(text) if g[0] >= gathered]
    assert large == [(gathered, False)] * 2, "one of the embedding, one of the head"


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 2, 1, 2)])
def test_by_tiles_no_device_holds_a_whole_table(shape):
    """Neither of embedding nor head, nor of their gradients; tiles are of 64 and 512 rows."""
    tiles = LossTiles(num_tokens=8, num_ids=64, max_kept_logits=0, gathers_by_tile=True)
    config = dataclasses.replace(mesh_programs.LARGE_VOCABULARY, tiles=tiles)
    text = mesh_programs.step_text(mesh_programs.mesh_of(*shape), config)
    split = mesh_programs.LARGE_TABLE // (shape[1] * shape[-1])
    assert max(mesh_programs.sizes_of(text)) <= split
    assert max(elements for elements, _ in mesh_programs.gathers(text)) == 512 * 32


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (2, 2, 1, 1), (1, 2, 1, 2), (1, 2, 2, 1)])
def test_by_tiles_the_numbers_are_those_of_one_device(shape):
    """Of a task with two runs of visual tokens, one before the prefix ends and one after it."""
    config = dataclasses.replace(mesh_programs.CONFIG, tiles=BY_TILES)
    params = mesh_programs.params_of()
    one = mesh_programs.loss_and_gradients(
        mesh_programs.mesh_of(1, 1, 1, 1), params, task="image_to_video"
    )
    mesh = mesh_programs.mesh_of(*shape)
    got = mesh_programs.loss_and_gradients(mesh, params, config, task="image_to_video")
    off = mesh_programs.differences(got, one)
    assert max(off.values()) < 1e-5, sorted(off.items(), key=lambda x: -x[1])[:5]


@pytest.mark.slow
def test_a_table_is_summed_once_however_many_runs_of_its_tokens_there_are():
    """One reduce-scatter of the embedding's visual table and one of the head's."""
    mesh = mesh_programs.mesh_of(1, 4, 1, 1)
    config, task = mesh_programs.LARGE_VOCABULARY, "image_to_video"
    plan, _ = mesh_programs.plan_and_batch(config, task)
    assert sum(slot.kind == "visual" for slot in plan.slots) == 2
    text = mesh_programs.step_text(mesh, config, task)
    part = f"f32[4096,{32 // 4}]"
    assert len(re.findall(rf"= {re.escape(part)}\S* reduce-scatter\(", text)) == 2


def test_a_copy_in_a_loop_would_be_seen():
    """A table of 8 x 64 split over four devices, gathered anew for every one of three factors."""
    mesh = mesh_programs.mesh_of(1, 4, 1, 1)
    split, whole = (
        jax.NamedSharding(mesh, jax.sharding.PartitionSpec(None, axis)) for axis in ("fsdp", None)
    )

    def total(table, factors):
        def add(carry, factor):
            copy = jax.lax.with_sharding_constraint(jnp.sin(table * carry * factor), whole)
            return carry + jnp.sum(copy @ copy.T), None

        return jax.lax.scan(add, jnp.float32(1.0), factors)[0]

    args = jax.ShapeDtypeStruct((8, 64), "f4", sharding=split), jax.ShapeDtypeStruct((3,), "f4")
    text = jax.jit(total).lower(*args).compile().as_text()
    assert (8 * 64, True) in mesh_programs.gathers(text)
    assert max(mesh_programs.sizes_of(text)) >= 8 * 64
