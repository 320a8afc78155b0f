"""The language model's training step on any mesh, and what its compiled program says of itself."""

import collections
import dataclasses
import re

import jax
import numpy as np
import optax
import tiny_lm
from flax.core import meta

from poet.data.batches import AgdBatches
from poet.data.groups import Group
from poet.layers.tiled_loss import LossTiles
from poet.models.prefix_lm import PrefixLM
from poet.tokens import sequence
from poet.tokens.clip import ClipShape
from poet.tokens.schedule import RASTER
from poet.tokens.vocabulary import Vocabulary
from poet.train import partitioning
from poet.train import state as train_state
from poet.train.lm_program import LMPrograms
from poet.train.partitioning import MeshConfig

# Eight heads for eight devices, two keys for them; tiles of few tokens and ids, so that all devices
# loop. With this clip 21 positions are fed, and the last 11 predict: neither 4 nor 8 divides them.
CONFIG = dataclasses.replace(
    tiny_lm.CONFIG, num_heads=8, tiles=LossTiles(num_tokens=8, num_ids=20, z_loss=1e-2)
)
BATCH, CLIP = 8, ClipShape(9, 8, 24)
Clips = collections.namedtuple("Clips", "number, shape")
SHORT = Clips(BATCH, CLIP)
# replica x fsdp x sequence x tensor: each alone over eight devices, then each beside others.
EIGHT = [
    (8, 1, 1, 1),
    (1, 8, 1, 1),
    (1, 1, 8, 1),
    (1, 1, 1, 8),
    (2, 2, 2, 1),
    (2, 2, 1, 2),
    (2, 1, 2, 2),
    (1, 2, 2, 2),
]
# The paper's vocabulary in small: its visual table is by far the largest array of the model.
LARGE_VOCABULARY = dataclasses.replace(
    CONFIG,
    d_model=32,
    vocabulary=Vocabulary(num_visual=4096, audio_levels=(5, 6), num_text=20),
    tiles=LossTiles(num_tokens=8, num_ids=1024),
)
# Numbers of the visual table.
LARGE_TABLE = 4096 * 32


def mesh_of(replica, fsdp, sequence, tensor):
    """The mesh of these sizes, over as many of the devices as it takes."""
    sizes = {"replica": replica, "fsdp": fsdp, "sequence": sequence, "tensor": tensor}
    return partitioning.make_mesh(
        MeshConfig(**sizes, num_devices=replica * fsdp * sequence * tensor)
    )


def plan_and_batch(config=CONFIG, task="text_to_video", clips=SHORT):
    """A plan and a batch of it whose rows and positions have different weights."""
    plan = sequence.plan(
        tiny_lm.tasks.get(task), clips.shape, tiny_lm.SOUND, config.text_slots, config.vocabulary
    )
    visual = np.random.default_rng(2).integers(0, 12, (clips.number, *clips.shape.grid))
    fields = tiny_lm.random_fields(batch_size=clips.number) | {"visual": visual}
    batch = sequence.assemble(plan, fields)
    weights = np.random.default_rng(1).uniform(0.5, 1.5, batch["decoder_loss_weights"].shape)
    batch["decoder_loss_weights"] = (batch["decoder_loss_weights"] * weights).astype(np.float32)
    return plan, batch | {"text_is_dropped": np.arange(clips.number) % 3 == 0}


class _OneGroup(AgdBatches):
    """Batches that are known by their group alone, for what only compiles."""

    def __init__(self, group):
        self.groups = {group.name: group}


def programs_on(
    mesh, config=CONFIG, schedule=RASTER, clips=SHORT, adapters=None, task="text_to_video"
):
    """(the programs of a run with one group "it", its batch)."""
    plan, batch = plan_and_batch(config, task, clips)
    batches = _OneGroup(Group(name="it", plan=plan, batch_size=clips.number, task_names=("it",)))
    model, tx = PrefixLM(config, schedule), optax.sgd(1.0)
    return LMPrograms(model, tx, mesh, batches, adapters=adapters), batch


def params_of(config=CONFIG):
    """Parameters with a head large enough that losses and gradients are not all alike."""
    plan, batch = plan_and_batch(config)
    init = jax.jit(lambda key: PrefixLM(config).init(key, plan, batch))
    params = meta.unbox(init(jax.random.key(0))["params"])
    params |= {"head": jax.tree.map(lambda table: 20 * table, params["head"])}
    return jax.device_get(params)


def loss_and_gradients(
    mesh, params, config=CONFIG, schedule=RASTER, clips=SHORT, task="text_to_video"
):
    """{"loss": ..., "a/b/c": gradient, ...} of the compiled step on a mesh, as numpy."""
    programs, batch = programs_on(mesh, config, schedule, clips, task=task)
    compiled = programs.compile_gradients("it")  # with the base of adapters, {}, bound in front
    params = jax.tree.map(
        lambda value, like: jax.device_put(value, like.sharding),
        params,
        programs.state_shapes.params,
    )
    state = train_state.create(params, optax.sgd(1.0).init(params))
    grads, measures = compiled(state, partitioning.shard_batch(batch, mesh), jax.random.key(0))
    found = {
        "/".join(partitioning.path_names(path)): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
    }
    return jax.device_get(found | measures)


def step_text(mesh, config, task="text_to_video"):
    """What a compiled training step says of itself."""
    return programs_on(mesh, config, task=task)[0].compile_gradients("it").func.as_text()


def differences(got, want):
    """Name -> largest difference of an array, relative to its largest number."""
    assert got.keys() == want.keys()
    return {
        name: float(np.abs(got[name] - value).max() / max(np.abs(value).max(), 1e-30))
        for name, value in want.items()
    }


def sizes_of(text):
    """Elements of every array that a compiled program's instructions make, on one device."""
    return [_elements(dims) for dims in re.findall(r"\b[a-z]+\d+\[([\d,]*)\]", text)]


def gathers(text):
    """[(elements of the result, whether it is in a loop)] of every all-gather of a program."""
    found = []
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))
    inside = _reached(text, bodies)
    for name, lines in _computations(text).items():
        for line in lines:
            made = re.search(r"= \(?\w+\[([\d,]*)\].* all-gather(?:-start)?\(", line)
            if made:
                found.append((_elements(made[1]), name in inside))
    return found


def _elements(dims):
    return int(np.prod([int(n) for n in dims.split(",") if n], dtype=np.int64))


def _computations(text):
    """Name of a computation -> its lines."""
    found, name = {}, None
    for line in text.splitlines():
        start = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
        if start:
            name = start[1]
        found.setdefault(name, []).append(line)
    return found


def _reached(text, names):
    """These computations and all that they call."""
    known, found, todo = _computations(text), set(), list(names)
    while todo:
        name = todo.pop()
        if name in known and name not in found:
            found.add(name)
            words = re.findall(r"[\w.\-]+", " ".join(known[name]))
            todo += [word for word in set(words) if word in known]
    return found
