"""The visual tokenizer's training on meshes: the numbers of one device."""

import functools
import re
import types

import jax
import mesh_programs
import numpy as np
import optax
import pytest
import real_processes

from poet.tokenizers.adversarial import AdversarialConfig
from poet.tokenizers.discriminator import DiscriminatorConfig
from poet.tokenizers.magvit2 import MagvitConfig
from poet.tokenizers.quantizers import lfq
from poet.train import compiling, partitioning, tokenizer_checks, visual_step
from poet.train.partitioning import MeshConfig

MODEL = MagvitConfig(
    base_channels=8, multipliers=(1, 1, 2, 2), blocks_per_stage=1, norm_groups=2, num_bits=6
)
# Well-conditioned on purpose: at the paper's temperature, 0.01, the entropies amplify rounding of
# the latents 400 times, so that one device differs from itself by 2e-4 where its convolutions are
# compiled another way; and Adam's first steps are signs of gradients, however small these are.
LOSSES = visual_step.VisualLossConfig(
    quantizer=lfq.LfqLossConfig(temperature=1.0),
    ema_decay=0.9,
    discriminator=DiscriminatorConfig(base_channels=4, multipliers=(1, 2)),
    adversarial=AdversarialConfig(r1_weight=0.0, learning_rate=1e-4),
)
TX = optax.adam(1e-4, eps=1e-3)
SHAPE = (8, 1, 16, 16, 3)
NUM_STEPS = 2
# Programs that run twice are compiled fast rather than well.
FAST = {"xla_backend_optimization_level": 0}


# replica x fsdp x sequence x tensor; along the last two the tokenizer has copies.
EIGHT = [(8, 1, 1, 1), (1, 8, 1, 1), (2, 4, 1, 1), (1, 2, 2, 2)]


def compiler_of(mesh, shape):
    """(compiles of a step's halves by name, shapes of its state) for images on a mesh."""
    _, shapes, shard = begun(mesh)
    sharded = jax.tree.map(compiling.with_sharding, shapes, shard(shapes))
    rows = compiling.with_sharding(
        jax.ShapeDtypeStruct(shape, np.uint8), partitioning.batch_sharding(mesh)
    )
    step = visual_step.make_step(MODEL, LOSSES, TX)
    return compiling.step_compiles(step, sharded, {"images": rows}, shard, FAST), shapes


def begun(mesh):
    """(init, shapes of the state, tree of shapes -> shardings) of a run on a mesh."""
    init = functools.partial(
        visual_step.init, config=MODEL, loss_config=LOSSES, tx=TX, clip_shapes=[SHAPE[1:4]]
    )
    shard = functools.partial(partitioning.shardings_by_size, mesh=mesh, min_size=64)
    return init, jax.eval_shape(init, jax.random.key(0)), shard


def trained(mesh):
    """{"0/loss": ...} measures of every step on `mesh`, and {"a/b/c": gradient} of the first."""
    init, _, shard = begun(mesh)
    compiles, shapes = compiler_of(mesh, SHAPE)
    compiler = compiling.BackgroundCompiler(compiles)
    run, key = compiling.compiled_step(compiler, "images"), jax.random.key(0)
    state = compiling.run_once(init, key, out_shardings=shard(shapes))
    seen, first = {}, {}
    for number in range(NUM_STEPS):
        draw = np.random.default_rng(number)
        batch = draw.integers(0, 256, SHAPE, dtype=np.uint8)
        grads, measures = run.gradients(state, partitioning.place_rows(batch, mesh), key)
        first = first or jax.device_get(grads["params"])
        state, of_update = run.update(state, grads, key)
        seen |= {f"{number}/{k}": v for k, v in jax.device_get(measures | of_update).items()}
    leaves = jax.tree_util.tree_leaves_with_path(first)
    return seen, {"/".join(partitioning.path_names(path)): leaf for path, leaf in leaves}


def off_one_device(shapes):
    """{mesh: (off in measures, off in gradients)}: each by name, relative to one device."""
    one = trained(mesh_programs.mesh_of(1, 1, 1, 1))
    found = {}
    for shape in shapes:
        got = trained(mesh_programs.mesh_of(*shape))
        found[str(tuple(shape))] = [
            mesh_programs.differences(*pair) for pair in zip(got, one, strict=True)
        ]
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eight_devices_give_losses_and_gradients_of_one():
    found = real_processes.on_eight_devices(off_one_device, EIGHT)
    assert len(found) == len(EIGHT)
    for shape, (measures, gradients) in found.items():
        assert f"{NUM_STEPS - 1}/discriminator" in measures and len(gradients) > 10
        for off in (gradients, measures):
            assert max(off.values()) < 1e-5, (shape, sorted(off.items(), key=lambda x: -x[1])[:5])


@pytest.mark.slow
def test_parameters_are_exchanged_not_what_they_multiply():
    """Left to the partitioner this step has 187 all-to-alls and 38 sums, of rows and of parts."""
    mesh = partitioning.make_mesh(MeshConfig())
    compiles, shapes = compiler_of(mesh, (mesh.size, *SHAPE[1:]))
    text = compiles["gradients/images"]().as_text()
    assert " all-to-all(" not in text
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", text)
    sizes = {",".join(map(str, leaf.shape)) for leaf in jax.tree.leaves(shapes) if leaf.ndim > 1}
    kernels = [dims for dims in gathered if dims.count(",") > 1]
    assert len(kernels) > 20 and set(kernels) <= sizes
    assert len(re.findall(r" all-reduce\(", text)) < 8


def test_parameters_moments_and_discriminators_are_split():
    _, shapes, shard = begun(partitioning.make_mesh(MeshConfig()))
    sharded = shard(shapes)
    kernel, where = (tree.params["encoder"]["down_0"]["kernel"] for tree in (shapes, sharded))
    assert where.shard_shape(kernel.shape) == (*kernel.shape[:-1], kernel.shape[-1] // 4)
    for tree in (sharded.opt_state, sharded.extra["ema"], sharded.extra["game"]):
        assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(tree))


def test_a_run_takes_as_many_devices_as_divide_its_batches():
    assert partitioning.mesh_for_rows(None, [8, 12]).size == 4
    assert partitioning.mesh_for_rows(None, [6, 4]).size == 2
    assert partitioning.mesh_for_rows(None, [5, 4]).size == 1
    assert partitioning.mesh_for_rows(MeshConfig(num_devices=3), [4]).size == 3


def test_each_slice_of_a_tpu_has_a_copy_where_no_mesh_is_given():
    def copies(platform):
        devices = [types.SimpleNamespace(platform=platform, slice_index=i // 4) for i in range(8)]
        return partitioning._copies(devices)

    assert copies("tpu") == 2
    assert copies("gpu") == copies("cpu") == 1, "groups of GPUs may lie along fsdp"


def test_batches_that_do_not_divide_are_refused():
    batches = {"images": jax.ShapeDtypeStruct((6, 1), np.uint8)}
    with pytest.raises(ValueError, match=r"6 rows \(images\) cannot be split over 4 devices"):
        tokenizer_checks.check_rows(batches, partitioning.make_mesh())
