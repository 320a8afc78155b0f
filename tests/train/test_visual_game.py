"""The visual tokenizer against its discriminators."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from poet.tokenizers.adversarial import AdversarialConfig
from poet.tokenizers.discriminator import DiscriminatorConfig
from poet.tokenizers.magvit2 import MagvitConfig
from poet.train import compiling, visual_step
from poet.train.visual_step import VisualLossConfig

MODEL = MagvitConfig(
    base_channels=4, multipliers=(1, 1, 2, 2), blocks_per_stage=1, norm_groups=2, num_bits=6
)
LOSSES = VisualLossConfig(
    ema_decay=0.9,
    discriminator=DiscriminatorConfig(base_channels=4, multipliers=(1, 2)),
    adversarial=AdversarialConfig(
        generator_weight=0.5, r1_weight=0.01, r1_period=2, learning_rate=2e-3
    ),
)
# Programs that run a few times are compiled fast rather than well.
FAST = {"xla_backend_optimization_level": 0}
TX = optax.sgd(1e-3)
SHAPES = {"images": (4, 1, 16, 16), "5_frames": (2, 5, 16, 16)}


def batch_of(group, seed=0):
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.integers(0, 256, (*SHAPES[group], 3), dtype=np.uint8))


def init(key, losses=LOSSES):
    return visual_step.init(key, MODEL, losses, TX, [shape[1:] for shape in SHAPES.values()])


@pytest.fixture(scope="module")
def key():
    return jax.random.key(0)


@pytest.fixture(scope="module")
def state(key):
    return compiling.run_once(init, key)


@pytest.fixture(scope="module")
def programs():
    """Gradients of both groups and one update for both, compiled fast rather than well."""
    step = visual_step.make_step(MODEL, LOSSES, TX, inflate_at=1)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(init, key)

    def compiled(function, *args, **options):
        lowered = jax.jit(function, **options).lower(*args)
        return lowered.compile(compiler_options=FAST)

    found = {}
    for name, shape in SHAPES.items():
        batch = jax.ShapeDtypeStruct((*shape, 3), jnp.uint8)
        found[f"gradients/{name}"] = compiled(step.gradients, state, batch, key)
    grads, _ = jax.eval_shape(step.gradients, state, batch, key)
    return found | {"update": compiled(step.update, state, grads, key, donate_argnums=0)}


def run(programs, state, key, groups):
    rows = []
    for number, group in enumerate(groups):
        grads, measures = programs[f"gradients/{group}"](state, batch_of(group, number), key)
        state, moved = programs["update"](jax.tree.map(jnp.copy, state), grads, key)
        rows.append({name: float(value) for name, value in (measures | moved).items()})
    return state, rows


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


@pytest.mark.slow
def test_each_shape_has_its_discriminator_and_moves_only_that(programs, state, key):
    assert set(state.extra["game"]) == {"1x16x16", "5x16x16"}
    after, _ = run(programs, state, key, ["images"])
    before, now = state.extra["game"], after.extra["game"]
    assert not equal(before["1x16x16"]["params"], now["1x16x16"]["params"])
    assert equal(before["5x16x16"], now["5x16x16"])
    assert float(now["1x16x16"]["means"]["real"]) != 0.0


@pytest.mark.slow
def test_measures_of_the_game_and_the_rarer_slope_penalty(programs, state, key):
    _, rows = run(programs, state, key, ["images", "5_frames", "5_frames"])
    names = {"adversarial", "discriminator", "logit_real", "logit_fake", "r1", "lecam"}
    assert (
        names <= set(rows[0])
        and np.isfinite([value for row in rows for value in row.values()]).all()
    )
    assert [row["r1"] > 0 for row in rows] == [True, False, True]


@pytest.mark.slow
def test_the_discriminator_learns_to_tell_its_batch(programs, state, key):
    """Restored noise is flat: the discriminator tells it from noise within a few steps."""
    _, rows = run(programs, state, key, ["5_frames"] * 40)
    last = {name: np.mean([row[name] for row in rows[-10:]]) for name in rows[0]}
    # 2 log 2 = 1.386 is a discriminator that knows nothing.
    assert abs(rows[0]["discriminator"] - 2 * np.log(2)) < 0.1
    assert last["discriminator"] < 0.9
    assert last["logit_real"] > last["logit_fake"] + 0.5


@pytest.mark.slow
def test_the_game_reaches_the_tokenizer_by_its_weight_only(state, key):
    """Weight 0 gives the gradients of training without a discriminator; 0.5 gives others."""

    @functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
    def grads_of(losses, state):
        step = visual_step.make_step(MODEL, losses, TX)
        return step.gradients(state, batch_of("images"), key)[0]["params"]

    deaf = dataclasses.replace(LOSSES, adversarial=AdversarialConfig(generator_weight=0.0))
    alone = dataclasses.replace(LOSSES, discriminator=None)
    with_game, without_weight = grads_of(LOSSES, state), grads_of(deaf, state)
    plain = grads_of(alone, state.replace(extra={"ema": state.extra["ema"]}))
    differences = [
        max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, pair), strict=True))
        for pair in ((without_weight, plain), (with_game, plain))
    ]
    assert differences[0] < 1e-6 < 1e-4 < differences[1]


@pytest.mark.slow
def test_inflation_leaves_the_discriminators_alone(programs, state, key):
    """The state is inflated after step 1: weights of the newest frame only, average included."""
    after, _ = run(programs, state, key, ["images"])
    assert after.step == 1
    kernel = after.params["encoder"]["conv_in"]["kernel"]
    assert float(jnp.abs(kernel[:-1]).max()) == 0.0 < float(jnp.abs(kernel[-1]).max())
    assert float(jnp.abs(after.extra["ema"]["encoder"]["conv_in"]["kernel"][:-1]).max()) == 0.0
    shapes = jax.tree.map(jnp.shape, state.extra["game"])
    assert jax.tree.map(jnp.shape, after.extra["game"]) == shapes
    other = after.extra["game"]["1x16x16"]["params"]["conv_in"]["kernel"]
    assert float(jnp.abs(other[:-1]).max()) > 0.0
