"""Held-out losses and accuracies by name, for raw and averaged weights, by hand."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from poet.data.batches import AgdBatches
from poet.train import lm_watch, loop, partitioning, state
from poet.train.held_out import HeldOut


class Batches(AgdBatches):
    """Two tasks of one group; a batch holds the nats that its loss should find."""

    def __init__(self):
        self.groups = {"a": types.SimpleNamespace(task_names=("a", "b"))}
        self.asked = []

    def eval_batches(self, task, split, count):
        self.asked.append((task, split, count))
        if split == "held_out" and task == "b":
            return []
        return [("a", {"nats": np.full(1, {"a": 2.0, "b": 6.0}[task], np.float32)})]


def compiled(group):
    """Four tokens a batch, one of them sound; the parameter multiplies the loss."""

    def measure(params, batch):
        nats = params["scale"] * batch["nats"][0]
        whole = {"nats": nats, "correct": 2.0 * params["scale"], "num_tokens": 4.0}
        sound = {"nats": nats / 4, "correct": 0.0, "num_tokens": 1.0}
        return {"all": whole, "audio_0": sound, "visual/frame_00": sound | {"num_tokens": 0.0}}

    return measure


@pytest.fixture
def held_out():
    mesh = partitioning.make_mesh(partitioning.MeshConfig(num_devices=1))
    return HeldOut(Batches(), ("validation", "held_out"), 8, compiled, mesh)


def test_numbers_by_task_and_part_of_both_weights(held_out):
    params = {"scale": jnp.ones(()), "frozen": jnp.ones(())}
    now = state.create(params, {}, ema={"scale": jnp.full((), 0.5)})
    found = held_out(now, 10)
    raw = {
        "loss_nats/validation/a": 0.5,
        "loss_nats/validation/b": 1.5,
        "loss_nats/validation": 1.0,  # 8 nats of 8 tokens
        "loss_nats/validation/by_part/audio_0": 1.0,
        "loss_nats/held_out/a": 0.5,
        "loss_nats/held_out": 0.5,
        "loss_nats/held_out/by_part/audio_0": 0.5,
        "accuracy/validation/a": 0.5,
        "accuracy/validation/b": 0.5,
        "accuracy/validation": 0.5,
        "accuracy/validation/by_part/audio_0": 0.0,
        "accuracy/held_out/a": 0.5,
        "accuracy/held_out": 0.5,
        "accuracy/held_out/by_part/audio_0": 0.0,
    }
    averaged = {name.replace("/", "_ema/", 1): value / 2 for name, value in raw.items()}
    assert found == raw | averaged


def test_the_same_batches_serve_every_look(held_out):
    now = state.create({"scale": jnp.ones(())}, {})
    first = held_out(now, 10)
    assert "loss_nats_ema/validation" not in first and held_out(now, 20) == first
    assert len(held_out._batches.asked) == 4


@pytest.mark.parametrize(
    ("wanted", "is_fine"),
    [
        ("loss_nats/validation", True),
        ("loss_nats/validation/poet_text_to_video", True),
        ("loss_nats_ema/validation", False),
        ("loss_nats/held_out", False),
        ("loss_nats", False),
    ],
)
def test_the_best_is_chosen_by_what_is_measured(wanted, is_fine):
    run = types.SimpleNamespace(
        loop=loop.LoopConfig(model_dir="somewhere", num_steps=9, eval_period=3, best_of=wanted),
        updates=types.SimpleNamespace(ema_decay=0.0),
        evaluation=types.SimpleNamespace(num_examples=4),
    )
    if is_fine:
        return lm_watch._check_best_of(run, ("validation",))
    with pytest.raises(ValueError, match="one of loss_nats/validation, or such a name"):
        lm_watch._check_best_of(run, ("validation",))
