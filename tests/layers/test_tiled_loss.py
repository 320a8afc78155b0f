import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import mesh_programs
import numpy as np
import pytest

from poet.layers.tiled_loss import LossTiles, tiled_cross_entropy
from poet.train.partitioning import RULES

SIZES, ROWS = (5, 17, 8), (8, 24, 8)
NUM_TOKENS, DIM = 11, 6


@pytest.fixture
def problem(key):
    keys = jax.random.split(key, 6)
    hidden = jax.random.normal(keys[0], (NUM_TOKENS, DIM))
    tables = tuple(
        jax.random.normal(k, (rows, DIM)) for k, rows in zip(keys[1:4], ROWS, strict=True)
    )
    targets = jax.random.randint(keys[4], (NUM_TOKENS,), 0, sum(SIZES))
    weights = jax.random.uniform(keys[5], (NUM_TOKENS,)).at[3].set(0.0)
    return hidden, tables, targets, weights


def plain(hidden, tables, targets, weights, z_loss):
    table = jnp.concatenate([t[:n] for t, n in zip(tables, SIZES, strict=True)])
    logits = hidden @ table.T
    log_sum_exp = jax.nn.logsumexp(logits, axis=-1)
    nats = log_sum_exp - jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    is_correct = (logits.argmax(axis=-1) == targets).astype(jnp.float32)
    return jnp.sum(weights * (nats + z_loss * log_sum_exp**2)), nats, is_correct


@pytest.mark.parametrize(
    "num_tokens, num_ids, max_kept_logits",
    [(4, 4, 0), (4, 100, 10**6), (11, 4, 10**6), (64, 100, 0)],
)
def test_exact_in_values_and_gradients(problem, num_tokens, num_ids, max_kept_logits):
    hidden, tables, targets, weights = problem
    tiles = LossTiles(
        num_tokens=num_tokens, num_ids=num_ids, max_kept_logits=max_kept_logits, z_loss=0.01
    )

    def ours(hidden, tables, weights):
        return tiled_cross_entropy(hidden, tables, SIZES, targets, weights, tiles)

    def theirs(hidden, tables, weights):
        return plain(hidden, tables, targets, weights, 0.01)[0]

    total, measures = jax.jit(ours)(hidden, tables, weights)
    want, nats, is_correct = plain(hidden, tables, targets, weights, 0.01)
    np.testing.assert_allclose(total, want, rtol=1e-6)
    np.testing.assert_allclose(measures["nats"], nats, rtol=1e-5)
    np.testing.assert_array_equal(measures["is_correct"], is_correct)

    both = [
        jax.grad(lambda *args, f=f: 3.0 * f(*args), argnums=(0, 1, 2))(hidden, tables, weights)
        for f in (lambda *args: jax.jit(ours)(*args)[0], theirs)
    ]
    for got, expected in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_measures_have_no_gradient(problem):
    hidden, tables, targets, weights = problem

    def total(hidden, tables):
        measures = tiled_cross_entropy(hidden, tables, SIZES, targets, weights)[1]
        return measures["nats"].sum() + measures["is_correct"].sum()

    found = jax.grad(total, argnums=(0, 1))(hidden, tables)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found))


def test_padding_rows_are_outside_the_softmax(problem):
    hidden, tables, targets, weights = problem
    full = tuple(t.at[n:].set(100.0) for t, n in zip(tables, SIZES, strict=True))
    a, b = (tiled_cross_entropy(hidden, t, SIZES, targets, weights)[0] for t in (tables, full))
    assert a == b
    grads = jax.grad(lambda t: tiled_cross_entropy(hidden, t, SIZES, targets, weights)[0])(full)
    assert all(not table[n:].any() for table, n in zip(grads, SIZES, strict=True))


def test_tokens_without_weight_count_for_nothing(problem):
    hidden, tables, targets, weights = problem

    def total(hidden):
        return tiled_cross_entropy(hidden, tables, SIZES, targets, weights)[0]

    assert total(hidden) == total(hidden.at[3].set(7.0))
    assert not jax.grad(total)(hidden)[3].any()


def test_low_precision_sums_in_float32(problem):
    hidden, tables, targets, weights = problem
    low = hidden.astype(jnp.bfloat16)
    total, _ = tiled_cross_entropy(low, tables, SIZES, targets, weights)
    rounded = [t.astype(jnp.bfloat16).astype(jnp.float32) for t in tables]
    want, _, _ = plain(low.astype(jnp.float32), rounded, targets, weights, 1e-4)
    assert total.dtype == jnp.float32
    np.testing.assert_allclose(total, want, rtol=1e-5)
    d_hidden, d_tables = jax.grad(
        lambda h, t: tiled_cross_entropy(h, t, SIZES, targets, weights)[0], argnums=(0, 1)
    )(low, tables)
    assert d_hidden.dtype == jnp.bfloat16 and d_tables[0].dtype == jnp.float32


def temporaries(num_tokens, num_rows, tiles):
    """Bytes of the compiled gradients of one table."""
    shapes = [(num_tokens, 8), (num_rows, 8), (num_tokens,), (num_tokens,)]
    kinds = [jnp.float32, jnp.float32, jnp.int32, jnp.float32]
    hidden, table, targets, weights = map(jax.ShapeDtypeStruct, shapes, kinds)

    def total(hidden, table, targets, weights):
        return tiled_cross_entropy(hidden, (table,), (num_rows,), targets, weights, tiles)[0]

    grad = jax.jit(jax.grad(total, argnums=(0, 1)))
    compiled = grad.lower(hidden, table, targets, weights).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_tokens_times_vocabulary():
    tiles = LossTiles(num_tokens=64, num_ids=512, max_kept_logits=0)
    growth = temporaries(1024, 4096, tiles) - temporaries(128, 4096, tiles)
    # 896 more tokens may cost their own vectors, but not 896 x 4096 more logits.
    assert growth < 0.1 * 896 * 4096 * 4


def test_one_tile_of_logits_is_held_at_once():
    tiles = LossTiles(num_tokens=256, num_ids=512, max_kept_logits=0)
    growth = temporaries(256, 8192, tiles) - temporaries(256, 1024, tiles)
    # 7,168 more rows may cost their own gradients twice, but not their logits, 14 tiles.
    assert growth < 3 * 7168 * 8 * 4 < 256 * 512 * 4 * 14 / 10


def on_mesh(*shape, argnums=(0, 1, 2), **more):
    """The compiled gradients of a loss with [B, R] tokens, and its arguments, on a mesh.

    Neither the positions (5) nor the rows of the second table (25) divide by 2.
    """
    keys = jax.random.split(jax.random.key(1), 6)
    hidden = jax.random.normal(keys[0], (4, 5, DIM))
    tables = tuple(
        jax.random.normal(k, (rows, DIM)) for k, rows in zip(keys[1:4], (8, 25, 8), strict=True)
    )
    targets = jax.random.randint(keys[4], (4, 5), 0, sum(SIZES))
    weights = jax.random.uniform(keys[5], (4, 5))
    sizes = {"num_tokens": 3, "num_ids": 7, "max_kept_logits": 0, "z_loss": 0.01}
    tiles = LossTiles(**sizes | more)

    def loss(hidden, tables, weights):
        total, measures = tiled_cross_entropy(hidden, tables, SIZES, targets, weights, tiles)
        return 3.0 * total, measures

    args = hidden, tables, weights
    with jax.set_mesh(mesh_programs.mesh_of(*shape)), nn.logical_axis_rules(RULES):
        grad = jax.value_and_grad(loss, argnums=argnums, has_aux=True)
        return jax.jit(grad).lower(*args).compile(), args


@pytest.fixture(scope="module")
def on_one_device():
    compiled, args = on_mesh(1, 1, 1, 1)
    return compiled(*args)


@pytest.mark.parametrize("shape", [(1, 2, 1, 2), (1, 1, 2, 2), (2, 2, 1, 1), (1, 2, 2, 1)])
def test_a_mesh_gives_the_numbers_of_one_device(on_one_device, shape):
    compiled, args = on_mesh(*shape)
    leaves = zip(*map(jax.tree.leaves, (compiled(*args), on_one_device)), strict=True)
    for got, want in leaves:
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    # Tables are gathered before the loop over token tiles.
    gathers = mesh_programs.gathers(compiled.as_text())
    assert bool(gathers) and not any(is_inside for _, is_inside in gathers)


@pytest.mark.parametrize("shape", [(1, 2, 1, 2), (2, 2, 1, 1), (1, 2, 2, 1)])
def test_tables_gathered_tile_by_tile_give_them_too(on_one_device, shape):
    """No device gathers the 25 rows of a table at a time, but seven at most, twice a step.

    Logits that might be kept are not, because the rows would be kept with them.
    """
    compiled, args = on_mesh(*shape, gathers_by_tile=True, max_kept_logits=2**20)
    leaves = zip(*map(jax.tree.leaves, (compiled(*args), on_one_device)), strict=True)
    for got, want in leaves:
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    found = mesh_programs.gathers(compiled.as_text())
    gathers = {elements for elements, _ in found}
    assert 7 * DIM in gathers and max(gathers) < 25 * DIM
    if shape[-1] == 1:  # the table with 17 ids has two whole tiles, in a loop of each sweep
        assert found.count((7 * DIM, True)) == 2


@pytest.mark.parametrize("by_tile", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 2, 1, 1)])
def test_tables_that_do_not_train_have_no_gradient_formed(shape, by_tile):
    """As under adapters."""

    def num_products(argnums):
        compiled, _ = on_mesh(*shape, argnums=argnums, gathers_by_tile=by_tile)
        return len(re.findall(r" dot\(", compiled.as_text()))

    every, hidden_only = num_products((0, 1, 2)), num_products((0, 2))
    # Of five tiles, three of them of the table with 17 ids: logits, and two gradients.
    assert (every, hidden_only) == (15, 10)


def test_sequences_that_do_not_divide_are_refused(problem):
    hidden, tables, targets, weights = problem
    hidden, targets, weights = (x[None] for x in (hidden, targets, weights))
    with jax.set_mesh(mesh_programs.mesh_of(1, 2, 1, 1)), nn.logical_axis_rules(RULES):
        with pytest.raises(ValueError, match=r"batch of 1 sequences .* over 2 devices .fsdp."):
            tiled_cross_entropy(hidden, tables, SIZES, targets, weights)


def test_refusals(problem):
    hidden, tables, targets, weights = problem
    with pytest.raises(ValueError, match="A table of 8 rows cannot hold 9 ids"):
        tiled_cross_entropy(hidden, tables, (9, 17, 8), targets, weights)
    with pytest.raises(ValueError, match="LossTiles num_ids=0 must be at least 1"):
        LossTiles(num_ids=0)
