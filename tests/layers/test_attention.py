import functools

import attention_checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.layers import attention, mask

draw = functools.partial(attention_checks.draw, batch=2, length=9, heads=4, kv_heads=2, head_dim=8)


@pytest.mark.parametrize(
    "prefix, kv_heads, rows_per_block",
    [(0, 2, 2), (0, 1, 99), (1, 4, 99), (4, 2, 2), (4, 1, 99), (9, 4, 2), (9, 2, 99)],
)
def test_two_calls_equal_the_mask(key, prefix, kv_heads, rows_per_block):
    q, k, v = draw(key, kv_heads=kv_heads)
    want = attention.masked_attention(q, k, v, mask.prefix_lm_mask(9, prefix))
    attend = jax.jit(attention.prefix_attention, static_argnums=(3, 4))
    got = attend(q, k, v, prefix, rows_per_block)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_gradients_equal_the_mask(key):
    inputs = draw(key)

    def total(attend):
        return jax.jit(jax.grad(lambda args: jnp.sum(jnp.sin(attend(*args)))))(inputs)

    want = total(lambda q, k, v: attention.masked_attention(q, k, v, mask.prefix_lm_mask(9, 4)))
    got = total(lambda q, k, v: attention.prefix_attention(q, k, v, 4, 2))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("prefix, rows_per_block", [(0, 1024), (37, 1024), (37, 100), (290, 100)])
def test_parts_equal_the_mask_forwards_and_backwards(key, prefix, rows_per_block):
    """300 rows go in four parts (of 64 rows and more), or in the prefix and one part of ten."""
    num_parts = len(attention.part_ends(prefix, 300)) - bool(prefix)
    assert num_parts == (1 if prefix == 290 else 4)
    inputs = draw(key, batch=1, length=300)

    def value_and_grads(attend):
        loss = lambda args: jnp.sum(jnp.sin(attend(*args)))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(inputs)

    visible = mask.prefix_lm_mask(300, prefix)
    want = value_and_grads(lambda q, k, v: attention.masked_attention(q, k, v, visible))
    got = value_and_grads(
        lambda q, k, v: attention.prefix_attention(q, k, v, prefix, rows_per_block)
    )
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_parts_end_at_the_prefix_and_then_evenly():
    assert attention.part_ends(20, 300) == [20, 90, 160, 230, 300]
    assert attention.part_ends(0, 128) == [64, 128]
    assert attention.part_ends(5, 5) == [5]
    assert attention.part_ends(0, 3) == [3]


def test_grouped_queries_are_repeated_keys(key):
    q, k, v = draw(key, heads=4, kv_heads=2)
    want = attention.masked_attention(q, jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2))
    np.testing.assert_allclose(attention.masked_attention(q, k, v), want, atol=1e-5)


def test_hand_worked():
    """Two equal scores average the values; a masked column is not seen."""
    q = jnp.zeros((1, 2, 1, 1))
    v = jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1)
    got = attention.prefix_attention(q, q, v, prefix_length=0)
    np.testing.assert_allclose(got[0, :, 0, 0], [1.0, 2.0])


def test_memory_does_not_hold_all_scores(key):
    """The largest array of the compiled backward pass stays far below length squared."""
    q, k, v = (jax.ShapeDtypeStruct((1, 2048, 1, 8), jnp.float32) for _ in range(3))
    grad = jax.grad(lambda *args: jnp.sum(attention.prefix_attention(*args, 0, 128)), (0, 1, 2))
    used = jax.jit(grad).lower(q, k, v).compile().memory_analysis().temp_size_in_bytes
    assert used < 0.25 * 2048 * 2048 * 4


def test_prefix_must_fit(key):
    q, k, v = draw(key)
    with pytest.raises(ValueError, match="prefix_length=10 must lie between 0 and 9"):
        attention.prefix_attention(q, k, v, 10)
