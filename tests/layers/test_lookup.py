import flax.linen as nn
import jax
import jax.numpy as jnp
import mesh_programs
import numpy as np
import pytest

from poet.layers.lookup import rows_of
from poet.train.partitioning import RULES

NUM_ROWS, DIM = 26, 8


@pytest.fixture
def table(key):
    return jax.random.normal(key, (NUM_ROWS, DIM))


def test_rows_are_those_of_the_table_and_codes_outside_it_are_seen(table):
    codes = jnp.array([[3, 25], [0, 26], [-1, 2**31 - 1]])
    rows = rows_of(table, codes, jnp.float32)
    np.testing.assert_array_equal(rows[0], table[np.array([3, 25])])
    np.testing.assert_array_equal(rows[1, 0], table[0])
    assert np.isnan(rows[1, 1]).all() and np.isnan(rows[2]).all()


def test_the_gradient_of_a_row_does_not_stop_growing(table):
    """1,000 tokens with gradient 1 each; in bfloat16 257 is no number, and the sum stays at 256."""
    codes = jnp.zeros((1000,), jnp.int32).at[0].set(-1).at[1].set(7)
    grad = jax.grad(lambda table: rows_of(table, codes, jnp.bfloat16)[1:].sum())(table)
    want = np.zeros((NUM_ROWS, DIM))
    want[0], want[7] = 998, 1
    assert grad.dtype == jnp.float32
    np.testing.assert_array_equal(grad, want)
    # The usual way would lose them.
    usual = jax.grad(lambda table: table.astype(jnp.bfloat16)[codes[2:]].sum())(table)
    assert usual[0, 0] == 256


def on_mesh(shape, table, codes, rows_at_once):
    """(rows with the gradient of a weighted sum of them, the compiled program's text)."""

    def total(table):
        rows = rows_of(table, codes, jnp.float32, rows_at_once)
        weights = jnp.arange(1.0, 1 + rows.size).reshape(rows.shape)
        return jnp.sum(weights * jnp.nan_to_num(rows)), rows

    with jax.set_mesh(mesh_programs.mesh_of(*shape)), nn.logical_axis_rules(RULES):
        compiled = jax.jit(jax.value_and_grad(total, has_aux=True)).lower(table).compile()
    return compiled(table), compiled.as_text()


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 2, 1, 2), (2, 2, 1, 1), (1, 2, 2, 1)])
@pytest.mark.parametrize("rows_at_once", [None, 5])
def test_a_mesh_gives_the_numbers_of_one_device(table, shape, rows_at_once):
    """26 rows of 8: 5 divides neither them nor the 13 of a device that has half of them."""
    codes = jax.random.randint(jax.random.key(1), (4, 3), -1, NUM_ROWS + 2)
    assert ((codes < 0) | (codes >= NUM_ROWS)).any()
    want, _ = on_mesh((1, 1, 1, 1), table, codes, None)
    got, text = on_mesh(shape, table, codes, rows_at_once)
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    gathered = [elements for elements, _ in mesh_programs.gathers(text)]
    rows = NUM_ROWS // shape[-1]
    assert max(gathered) == min(rows_at_once or rows, rows) * DIM


def test_what_a_mesh_does_not_divide_is_looked_up_all_the_same(table):
    """One row, as parameters are made from, over two devices; 25 rows over two."""
    codes = jnp.array([[1, 24]])
    for part, some in ((table, codes), (table[:25], jnp.tile(codes, (2, 1)))):
        (_, rows), grad = on_mesh((1, 2, 1, 2), part, some, 5)[0]
        np.testing.assert_array_equal(rows, part[np.array(some)])
        assert np.abs(grad[1]).min() > 0 and grad.shape == part.shape
