import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.layers.attention import masked_attention
from poet.sample import cache as caching

R, N, K, H = 2, 4, 2, 8


def draw(length):
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.normal(keys[0], (R, length, N, H)),
        jax.random.normal(keys[1], (R, length, K, H)),
        jax.random.normal(keys[2], (R, length, K, H)),
    )


@pytest.mark.parametrize("positions", [[5], [3, 5]])
def test_rows_over_a_cache_are_rows_of_plain_attention(positions):
    """A prefix of three, rows written after it, and room beyond them that nothing sees."""
    q, k, v = draw(6)
    cache = caching.from_prefix(k[:, :3], v[:, :3], 4)
    cache = caching.grow(cache, 9)
    positions = np.array(positions)
    cache = caching.write(cache, k[:, positions], v[:, positions], jnp.asarray(positions))
    known = np.isin(np.arange(9), [0, 1, 2, *positions])
    visible = (np.arange(9)[None] <= positions[:, None]) & known
    want = masked_attention(q[:, positions], k, v, jnp.asarray(visible[:, :6]))
    got = caching.attend(q[:, positions], cache, jnp.asarray(visible))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_int8_keeps_what_it_says():
    """Every number within half a step of its head's scale, and attention close by."""
    q, k, v = draw(6)
    cache = caching.from_prefix(k, v, 6, "int8")
    assert cache["key"].dtype == jnp.int8 and cache["key_scale"].shape == (R, K, 6)
    restored = cache["key"] * cache["key_scale"][..., None]
    steps = np.abs(restored - k.swapaxes(1, 2)) / np.asarray(cache["key_scale"])[..., None]
    assert steps.max() <= 0.5 + 1e-4
    visible = jnp.tril(jnp.ones((6, 6), bool))
    exact = masked_attention(q, k, v, visible)
    assert np.abs(caching.attend(q, cache, visible) - exact).max() < 0.05


def test_lanes_that_rest_write_nothing():
    _, k, v = draw(6)
    cache = caching.from_prefix(k, v, 6)
    after = caching.write(cache, 1 + k[:, :2], 1 + v[:, :2], jnp.array([2**30, 2**30]))
    np.testing.assert_array_equal(after["key"], cache["key"])


def test_refusals():
    _, k, v = draw(6)
    with pytest.raises(ValueError, match="cache_dtype='int4' is unknown; choose one of model"):
        caching.from_prefix(k, v, 6, "int4")
    with pytest.raises(ValueError, match="A prefix of 6 does not fit a cache of 4"):
        caching.from_prefix(k, v, 4)
