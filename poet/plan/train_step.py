"""The training step of a language model: its groups and programs, without a dataset."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from poet.data import registry
from poet.data.groups import (
    AgdConfig,
    Group,
    SequenceSizes,
    SizedTask,
    make_groups,
    phase_shares,
)
from poet.models import flops
from poet.models.config import PrefixLMConfig
from poet.models.prefix_lm import PrefixLM
from poet.plan import kernels, memory, roofline
from poet.plan.chips import Topology
from poet.plan.costs import Op
from poet.plan.measure import Part, Program
from poet.plan.memory import Setting
from poet.train import lm, partitioning
from poet.train.lm import LMRun
from poet.train.lm_program import LMPrograms, TextStart
from poet.train.optimizer import make_optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """A training run on a mesh, ready to be compiled.

    Attributes:
      parts: Groups, most frequent first.
      facts: What stands beside every number.
      replicated: Large arrays of the state of which every chip holds a copy.
      left_out: Task -> why it is not trained.
      setting: What could be changed.
      num_heads: Which the mesh's `tensor` must divide.
      smallest: Tokens of the smallest batch.
    """

    parts: tuple[Part, ...]
    facts: Mapping[str, Any]
    replicated: Mapping[str, float]
    left_out: Mapping[str, str]
    setting: Setting
    num_heads: int
    smallest: int


def with_setting(run: LMRun, setting: Setting) -> LMRun:
    """The run with another batch, rematerialisation, mesh, and way to gather the head."""
    tiles = run.model.tiles
    if setting.head_by_tiles and not tiles.gathers_by_tile:
        # As in gin/models/head_by_tiles.gin.
        tiles = dataclasses.replace(tiles, num_ids=8192, gathers_by_tile=True)
    return dataclasses.replace(
        run,
        batch_tokens=setting.batch_tokens,
        model=dataclasses.replace(run.model, remat_policy=setting.remat_policy, tiles=tiles),
        mesh=dataclasses.replace(run.mesh, tensor=setting.tensor, replica=setting.replica),
    )


def groups_of(
    run: LMRun, sizes: SequenceSizes, ways: int
) -> tuple[dict[str, Group], dict[str, float], dict[str, str]]:
    """(groups, share of the steps of each, task -> why it is left out), as `poet train` has them.

    A curriculum's two phases are averaged over the run.

    Args:
      run: The settings.
      sizes: Of clips and id table.
      ways: Equal parts that a batch's rows are cut into.

    Raises:
      ValueError: when a task does not fit the clips and the run does not leave such tasks out.
    """
    registry.load_task_modules(run.task_modules)
    tasks, left_out = [], {}
    for entry, share in registry.resolve(run.mixture_or_task_name, run.task_weights):
        sized = SizedTask(name=entry.name, entry=entry, sizes=sizes, records={})
        try:
            _ = sized.plan
        except ValueError as error:
            if run.on_unserved_task == "raise":
                raise
            left_out[entry.name] = str(error)
            continue
        tasks.append((sized, share))
    if not tasks:
        raise ValueError(f"No task of {run.mixture_or_task_name!r} fits the clips: {left_out}.")
    config = AgdConfig(
        batch_tokens=run.batch_tokens, data_parallel_size=ways, curriculum=run.curriculum
    )
    groups, group_of = make_groups(tasks, config)
    phases = phase_shares([(sized, share) for sized, share in tasks], run.curriculum)
    spans = np.ones(1)
    if len(phases) == 2:
        spans = np.array([run.curriculum.switch_at, 1 - run.curriculum.switch_at])
    shares = dict.fromkeys(groups, 0.0)
    for (sized, _), share in zip(tasks, spans @ phases, strict=True):
        shares[group_of[sized.name]] += float(share)
    return groups, shares, left_out


def plan_training(run: LMRun, sizes: SequenceSizes, topology: Topology, mesh: Mesh) -> TrainPlan:
    """The groups of a run on a mesh, with what compiles them; compiles nothing itself."""
    config = lm.model_for(run.model, sizes, keeps_text_rows=bool(run.text_weights))
    ways = partitioning.batch_ways(mesh) * run.updates.num_micro_batches
    groups, shares, left_out = groups_of(run, sizes, ways)
    for group in groups.values():
        lm.check_limits(config, group.plan.clip, group.plan.sound)
    tx = make_optimizer(run.optimizer, run.loop.num_steps)
    text = TextStart(weights=run.text_weights, is_frozen=run.text_is_frozen)
    programs = LMPrograms(
        PrefixLM(config, run.schedule),
        tx,
        mesh,
        types.SimpleNamespace(groups=groups),
        text,
        run.updates,
        run.adapters,
    )
    held = _held(programs, run)
    state_bytes = memory.bytes_on_chip(held)
    gradient_bytes = memory.bytes_on_chip(_moving(programs, run))
    update = Program(
        name="update",
        compile=programs.compile_update,
        state_bytes=state_bytes,
        argument_bytes=gradient_bytes,
    )
    parts = []
    for name in sorted(groups, key=lambda name: -shares[name]):
        group = groups[name]
        parts.append(
            Part(
                name=name,
                share=shares[name],
                batch_size=group.batch_size,
                tokens=group.tokens_per_step,
                model_flops=flops.step_flops(
                    config,
                    group.plan,
                    group.batch_size,
                    run.text_is_frozen,
                    run.adapters is not None,
                ),
                programs=(
                    dataclasses.replace(
                        _gradients(programs, group, state_bytes, mesh),
                        kernels=_kernels(config, group, mesh, ways),
                    ),
                    update,
                ),
            )
        )
    facts = _facts(run, config, topology, mesh, programs) | {
        "state_bytes_per_chip": state_bytes,
        "gradient_bytes_per_chip": gradient_bytes,
        "batch_tokens": run.batch_tokens,
    }
    return TrainPlan(
        parts=tuple(parts),
        facts=facts,
        replicated=memory.replicated_bytes(held) if mesh.size > mesh.shape["replica"] else {},
        left_out=left_out,
        setting=Setting(
            batch_tokens=run.batch_tokens,
            remat_policy=run.model.remat_policy,
            tensor=run.mesh.tensor,
            replica=run.mesh.replica,
            topology=topology,
            head_by_tiles=config.tiles.gathers_by_tile,
            whole_head_bytes=_whole_head_bytes(config, mesh, trains=run.adapters is None),
        ),
        num_heads=config.block.num_kv_heads,
        smallest=ways * max(group.plan.length for group in groups.values()),
    )


def _whole_head_bytes(config: PrefixLMConfig, mesh: Mesh, trains: bool) -> float:
    """Bytes that a chip holds of a gathered table: none where its width is not split.

    In the type of the products; where it trains, its gradient in float32, and that once more while
    it is summed.
    """
    if mesh.shape["fsdp"] == 1 or config.d_model % mesh.shape["fsdp"]:
        return 0.0
    numbers = config.vocabulary.size * config.d_model / mesh.shape["tensor"]
    return numbers * (np.dtype(config.dtype).itemsize + (4 + 4 if trains else 0))


def _held(programs: LMPrograms, run: LMRun) -> Any:
    """Shapes of all that stays on the chips: the state, and the base that adapters adapt."""
    if run.adapters is None:
        return programs.state_shapes
    return {"state": programs.state_shapes, "base": programs.model_shapes}


def _moving(programs: LMPrograms, run: LMRun) -> dict[str, Any]:
    """Shapes of the parameters that train, and so of the gradients."""
    return {
        name: tree
        for name, tree in programs.state_shapes.params.items()
        if not (run.text_is_frozen and name == "text_encoder")
    }


def _gradients(programs: LMPrograms, group: Group, state_bytes: float, mesh: Mesh) -> Program:
    rows = group.batch_size / partitioning.batch_ways(mesh)
    return Program(
        name=f"gradients/{group.name}",
        compile=lambda: programs.compile_gradients(group.name),
        state_bytes=state_bytes,
        argument_bytes=rows * (12.0 * group.plan.length + 4.0 * group.plan.num_text_slots + 1.0),
    )


def _kernels(config: PrefixLMConfig, group: Group, mesh: Mesh, ways: int) -> dict[str, Op]:
    """What attention's kernel does in one run of a layer, if the program has it."""
    fed = group.plan.length - 1
    return kernels.attention_kernels(
        config.attention_blocks,
        fed + -fed % mesh.shape["sequence"],
        group.plan.prefix_length,
        num_rows=group.batch_size // ways,
        num_heads=config.num_heads // (mesh.shape["tensor"] * mesh.shape["sequence"]),
        head_dim=config.head_dim,
    )


def _facts(
    run: LMRun, config: Any, topology: Topology, mesh: Mesh, programs: LMPrograms
) -> dict[str, Any]:
    count = {name: _count(tree) for name, tree in programs.model_shapes.items()}
    adapters = {}
    if run.adapters is not None:
        adapters["parameters_of_adapters"] = _count(programs.state_shapes.params)
    return {
        "parameters": sum(count.values()),
        "parameters_of_layers": count.get("layers", 0),
        "parameters_of_text_encoder": count.get("text_encoder", 0),
        **adapters,
        "text_is_frozen": run.text_is_frozen or run.adapters is not None,
        "num_layers": config.num_layers,
        "d_model": config.d_model,
        "dtype": np.dtype(config.dtype).name,
        "matmuls": config.matmuls,
        "remat_policy": config.remat_policy,
        **({"head": "by tiles"} if config.tiles.gathers_by_tile else {}),
        "attention": config.attention,
        "optimizer": run.optimizer.name,
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1} or {"fsdp": 1},
        "topology": topology.name,
        "num_chips": topology.num_chips,
        "codes": [config.vocabulary.num_visual, *config.vocabulary.audio_levels],
        "factors": dataclasses.asdict(roofline.CALIBRATED),
    }


def _count(tree: Any) -> int:
    return int(sum(leaf.size for leaf in jax.tree.leaves(tree)))
