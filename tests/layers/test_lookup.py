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


def on_mesh(shape, table, codes, rows_at_once=None, dtype=jnp.float32):
    """(((weighted sum of the rows, they), its gradient), the compiled program's text)."""

    def total(table):
        rows = rows_of(table, codes, dtype, rows_at_once)
        weights = jnp.where(jnp.arange(rows.size) % 2, 16.0, 8.0).reshape(rows.shape)
        return jnp.sum(weights * jnp.nan_to_num(rows.astype(jnp.float32))), rows

    with jax.set_mesh(mesh_programs.mesh_of(*shape)), nn.logical_axis_rules(RULES):
        compiled = jax.jit(jax.value_and_grad(total, has_aux=True)).lower(table).compile()
    return compiled(table), compiled.as_text()


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 2, 1, 2), (2, 2, 1, 1), (1, 2, 2, 1)])
@pytest.mark.parametrize("rows_at_once", [None, 5])
def test_a_mesh_gives_the_numbers_of_one_device(table, shape, rows_at_once):
    """26 rows of 8: 5 divides neither them nor the 13 of a device that has half of them."""
    codes = jax.random.randint(jax.random.key(1), (4, 3), -1, NUM_ROWS + 2)
    assert ((codes < 0) | (codes >= NUM_ROWS)).any()
    want, _ = on_mesh((1, 1, 1, 1), table, codes)
    got, text = on_mesh(shape, table, codes, rows_at_once)
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    gathered = [elements for elements, _ in mesh_programs.gathers(text)]
    rows = NUM_ROWS // shape[-1]
    assert max(gathered) == min(rows_at_once or rows, rows) * DIM


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 2, 1, 1), (1, 2, 2, 1), (1, 2, 1, 2)])
def test_on_a_mesh_too_sums_do_not_stop_growing(table, shape):
    """4 x 100 tokens of one row, 8 and 16 each; in bfloat16 4,096 and 16 is 4,096."""
    _, grad = on_mesh(shape, table, jnp.full((4, 100), 3), dtype=jnp.bfloat16)[0]
    want = np.zeros((NUM_ROWS, DIM))
    want[3] = np.tile([3200.0, 6400.0], DIM // 2)
    np.testing.assert_array_equal(grad, want)


def test_where_no_width_is_split_nothing_goes_by_tiles(table):
    codes = jnp.zeros((4, 3), jnp.int32)

    def num_loops(shape, rows_at_once):
        return on_mesh(shape, table, codes, rows_at_once)[1].count(" while(")

    assert num_loops((1, 1, 1, 2), 5) == num_loops((1, 1, 1, 2), None)
    assert num_loops((1, 2, 1, 1), 5) > num_loops((1, 2, 1, 1), None)


def test_what_a_mesh_does_not_divide_is_looked_up_all_the_same(table):
    """One sequence over two devices; a table of 25 rows over two."""
    codes = jnp.array([[1, 24]])
    for part, some in ((table, codes), (table[:25], jnp.tile(codes, (2, 1)))):
        want, _ = on_mesh((1, 1, 1, 1), part, some)
        got, _ = on_mesh((1, 2, 1, 2), part, some, rows_at_once=5)
        for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
