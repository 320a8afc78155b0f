"""The training step of a tokenizer: each shape of batches, without media."""

from typing import Any

import jax

from poet.plan import devices, memory, roofline
from poet.plan.chips import Topology
from poet.plan.measure import Compiler, Part, Program, Result
from poet.train import partitioning, tokenizer_checks
from poet.train.compiling import step_compiles, with_sharding
from poet.train.optimizer import convolution_kernels, make_optimizer
from poet.train.partitioning import MeshConfig
from poet.train.tokenizer_run import TokenizerRun


def plan_tokenizer(run: TokenizerRun, topology: Topology, say: Any) -> Result:
    """What the steps of a tokenizer's run need; each shape of batches counts alike.

    FLOPs are read from the compiled program (convolutions are not counted analytically): what MFU
    would be is not said.

    Raises:
      ValueError: when the rows of a batch do not divide among the chips.
      DoesNotFitError: when the compiler refuses a program for want of memory.
    """
    recipe, batches = run.recipe, run.recipe.batches()
    found = devices.devices_of(topology)
    layout, notes = devices.over_slices(run.mesh or MeshConfig(), topology)
    mesh = partitioning.make_mesh(layout, found)
    tokenizer_checks.check_rows(batches, mesh)
    tx = make_optimizer(run.optimizer, run.num_steps, convolution_kernels)
    shapes = jax.eval_shape(lambda key: recipe.init(key, tx), _KEY)
    state = jax.tree.map(with_sharding, shapes, partitioning.shardings_by_size(shapes, mesh))
    rows = partitioning.batch_sharding(mesh)
    inputs = {group: with_sharding(batch, rows) for group, batch in batches.items()}
    compiles = step_compiles(
        recipe.step(tx), state, inputs, lambda tree: partitioning.shardings_by_size(tree, mesh)
    )
    held = memory.bytes_on_chip(state)
    update = Program(
        name="update",
        compile=compiles["update"],
        state_bytes=held,
        argument_bytes=memory.bytes_on_chip(state.params),
    )
    compiler, found_rows = Compiler(topology, say), []
    for group, batch in inputs.items():
        part = Part(
            name=group,
            share=1.0 / len(inputs),
            batch_size=batch.shape[0],
            tokens=batch.shape[0],
            model_flops=None,
            programs=(
                Program(
                    name=f"gradients/{group}",
                    compile=compiles[f"gradients/{group}"],
                    state_bytes=held,
                    argument_bytes=memory.bytes_on_chip(batch),
                ),
                update,
            ),
        )
        found_rows.append(compiler.measure(part, roofline.CALIBRATED))
    facts = {
        "step": f"train {recipe.kind} tokenizer",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "optimizer": run.optimizer.name,
        "batches": {group: "x".join(map(str, batch.shape)) for group, batch in inputs.items()},
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1} or {"fsdp": 1},
        "num_chips": topology.num_chips,
    }
    return Result(
        topology=topology,
        facts=facts,
        rows=tuple(found_rows),
        replicated=memory.replicated_bytes(state, 2**24) if mesh.size > 1 else {},
        notes=notes,
    )


_KEY = jax.eval_shape(lambda: jax.random.key(0))
