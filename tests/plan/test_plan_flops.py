"""Model FLOPs by hand, and against a compiled, unrolled model."""

import dataclasses
import types

import pytest

from poet.models import flops
from poet.models.config import PrefixLMConfig
from poet.models.prefix_lm import PrefixLM
from poet.models.text_encoder import TextEncoderConfig
from poet.plan import costs, hlo
from poet.plan.sizes import TokenSizes
from poet.tokens import tasks
from poet.train import partitioning
from poet.train.lm_program import LMPrograms
from poet.train.optimizer import OptimizerConfig, make_optimizer

SIZES = TokenSizes(num_visual=1024, audio_levels=(), height_px=32, width_px=32).sequence_sizes(
    8, 64
)
CONFIG = PrefixLMConfig(
    vocabulary=SIZES.vocabulary,
    text=TextEncoderConfig(
        num_ids=64, num_layers=1, d_model=64, num_heads=2, head_dim=32, mlp_dim=96
    ),
    num_layers=2,
    d_model=128,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    mlp_dim=256,
    text_slots=8,
    layers_per_iteration=2,
)


def plan_of(name):
    return SIZES.plan(tasks.get(name))


def test_an_example_by_hand():
    # Unconditional: P = 2 (<bos> <task>), 80 visual tokens between delimiters, <eos>: N = 84 rows.
    plan = plan_of("unconditional")
    assert (plan.prefix_length, plan.length - 1) == (2, 84)
    found = flops.example_flops(CONFIG, plan)
    assert found.layers == 2 * 84 * 2 * 128 * (2 * 128 + 2 * 64 + 3 * 256)
    # The prefix sees itself, row i >= 2 sees i + 1 rows.
    assert found.attention == 4 * (2 * 2 + sum(range(3, 85))) * 128 * 2
    assert found.head == 2 * 82 * 128 * (256 + 1024 + 64)
    assert found.text == 0


def test_a_text_adds_the_encoder_and_its_projection():
    found = flops.example_flops(CONFIG, plan_of("text_to_video"))
    encoder = 2 * 8 * 64 * (4 * 64 + 3 * 96) + 4 * 8**2 * 64
    assert found.text == encoder + 2 * 8 * 64 * 128


def test_a_step_is_three_passes_and_one_of_a_frozen_encoder():
    plan = plan_of("text_to_video")
    each = flops.example_flops(CONFIG, plan)
    assert flops.step_flops(CONFIG, plan, 5) == 15 * each.total
    frozen = flops.step_flops(CONFIG, plan, 5, text_is_frozen=True)
    assert frozen == 5 * (3 * (each.total - each.text) + each.text)


@pytest.fixture(scope="module")
def compiled():
    """The gradients of two unrolled layers on one device."""
    mesh = partitioning.make_mesh(partitioning.MeshConfig(num_devices=1))
    plan = plan_of("text_to_video")
    groups = {"t2v": types.SimpleNamespace(name="t2v", plan=plan, batch_size=4)}
    tx = make_optimizer(OptimizerConfig(), 10)
    made = LMPrograms(PrefixLM(CONFIG), tx, mesh, types.SimpleNamespace(groups=groups))
    found = made.compile_gradients("t2v")
    return getattr(found, "func", found)


def test_the_compiled_model_multiplies_as_much_as_was_counted(compiled):
    computed = flops.example_flops(CONFIG, plan_of("text_to_video"), as_computed=True)
    expected = 4 * 3 * computed.total
    counted = costs.count(hlo.parse(compiled.as_text())).flops
    # The encoder's first layer needs no gradient of its input; products of a few rows are fused.
    assert counted == pytest.approx(expected, rel=0.02)
    # XLA's own count has everything that is no product as well.
    assert compiled.cost_analysis()["flops"] == pytest.approx(expected, rel=0.25)


def test_needed_pairs_are_fewer_than_computed_ones():
    plan = plan_of("future_prediction")
    needed = flops.example_flops(CONFIG, plan)
    computed = flops.example_flops(CONFIG, plan, as_computed=True)
    assert needed.attention < computed.attention
    assert dataclasses.replace(needed, attention=0.0) == dataclasses.replace(
        computed, attention=0.0
    )
