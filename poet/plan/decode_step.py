"""Decoding a batch of clips: prefix, then every pass, with the caches at their largest."""

import dataclasses
from typing import Any

import numpy as np

from poet.data import registry
from poet.data.groups import SequenceSizes
from poet.plan import devices, memory, roofline
from poet.plan.chips import Topology
from poet.plan.measure import Compiler, Part, Program, Result, refusing
from poet.sample.lowering import Batch, DecodePrograms
from poet.train import lm, partitioning
from poet.train.lm import LMRun


def plan_decoding(
    run: LMRun, sizes: SequenceSizes, topology: Topology, task_name: str, size: int, say: Any
) -> Result:
    """What a batch of requests needs; its seconds are those of the whole batch.

    Parameters lie over the run's `tensor` axis and are copied over all others; requests lie over
    those. MFU is not meant for decoding and is left out: what counts is the memory's bandwidth.

    Args:
      run: Its model and mesh are used.
      sizes: Of clips and id table.
      topology: Where.
      task_name: Of the task, with or without "poet_".
      size: Requests; 0 takes one a copy of the model.
      say: Is told what is compiled.

    Raises:
      DoesNotFitError: when the compiler refuses a program for want of memory.
    """
    config = lm.model_for(run.model, sizes, keeps_text_rows=bool(run.text_weights))
    found = devices.devices_of(topology)
    copies = max(1, len(found) // run.mesh.tensor)
    layout = dataclasses.replace(run.mesh, replica=copies, fsdp=1, sequence=1)
    mesh = partitioning.make_mesh(layout, found)
    size = size or copies
    if size % partitioning.batch_ways(mesh):
        raise ValueError(
            f"{size} requests cannot be split over {copies} copies of the model; ask for a multiple"
            f" of {copies} (--batch), or spread each copy over more devices (mesh tensor)."
        )
    task = _task(run, task_name)
    plan = sizes.plan(task)
    programs = DecodePrograms(Batch(config=config, plan=plan, size=size), mesh)
    say(f"compiling the layout of the parameters for {topology.name} ...")
    params = memory.bytes_on_chip(refusing(lambda: programs.params))
    say(f"compiling the prefix of {task.name} for {topology.name} ...")
    caches = memory.bytes_on_chip(refusing(lambda: programs.state, params))
    part = Part(
        name=task.name,
        share=1.0,
        batch_size=size,
        tokens=size * plan.length,
        model_flops=None,
        programs=(
            Program(
                name=f"prefix/{task.name}",
                compile=programs.compile_prefix,
                state_bytes=params,
                argument_bytes=0.0,
            ),
            Program(
                name=f"pass/{task.name}",
                compile=programs.compile_pass,
                state_bytes=params + caches,
                argument_bytes=0.0,
                times=programs.num_passes,
            ),
        ),
    )
    row = Compiler(topology, say).measure(part, roofline.CALIBRATED)
    facts = {
        "step": f"decode {task.name}",
        "requests": size,
        "passes": programs.num_passes,
        "parameter_bytes_per_chip": params,
        "cache_bytes_per_chip": caches,
        "dtype": np.dtype(config.dtype).name,
        "mesh": {name: count for name, count in mesh.shape.items() if count > 1} or {"fsdp": 1},
        "num_chips": topology.num_chips,
    }
    return Result(topology=topology, facts=facts, rows=(row,))


def _task(run: LMRun, name: str) -> Any:
    registry.load_task_modules(run.task_modules)
    known = {entry.name: entry.task for entry, _ in registry.resolve(run.mixture_or_task_name)}
    for full in (name, f"poet_{name}"):
        if full in known:
            return known[full]
    raise ValueError(
        f"Task {name!r} is not of {run.mixture_or_task_name!r}; choose one of"
        f" {', '.join(sorted(known))}."
    )
