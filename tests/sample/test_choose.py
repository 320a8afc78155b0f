import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.sample import choose
from poet.sample.requests import SamplingRequest

LOGITS = jnp.log(jnp.array([[0.1, 0.4, 0.05, 0.3, 0.15]]))


def kept(**fields):
    request = SamplingRequest(**fields)
    logits = choose.keep_likely(LOGITS, request.mode, request.top_p)
    return np.flatnonzero(np.isfinite(logits[0])).tolist()


@pytest.mark.parametrize(
    "fields, codes",
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.35}, [1]),
        ({"top_p": 0.69}, [1, 3]),
        ({"top_p": 0.71}, [1, 3, 4]),
        ({"top_p": 1e-6}, [1]),
        # Among the two likeliest the first has 4/7 of the mass.
        ({"top_k": 2, "top_p": 0.5}, [1]),
    ],
)
def test_what_is_kept(fields, codes):
    assert kept(**fields) == codes


def draw(num_draws, **fields):
    request = SamplingRequest(**fields)
    keys = choose.request_keys(request.seed, choose.split_ids(np.arange(num_draws)))
    logits = jnp.broadcast_to(LOGITS, (num_draws, 5))
    codes = choose.choose(logits, keys, 7, request.mode, request.temperature, request.top_p)
    return np.bincount(codes, minlength=5) / num_draws


def test_draws_follow_the_model():
    np.testing.assert_allclose(draw(4000), np.exp(LOGITS[0]), atol=0.03)


def test_temperature_sharpens():
    want = np.exp(LOGITS[0] / 0.5)
    np.testing.assert_allclose(draw(4000, temperature=0.5), want / want.sum(), atol=0.03)
    np.testing.assert_array_equal(draw(10, temperature=0.0), [0, 1, 0, 0, 0])


def test_draws_differ_by_position_seed_and_request():
    mode, logits = SamplingRequest().mode, jnp.zeros((8, 1000))

    def codes(seed, first, position):
        keys = choose.request_keys(seed, choose.split_ids(first + np.arange(8)))
        return choose.choose(logits, keys, position, mode)

    base = codes(0, 0, 0)
    assert len(set(base.tolist())) == 8
    for other in (codes(1, 0, 0), codes(0, 8, 0), codes(0, 0, 1), codes(0, 2**32, 0)):
        assert (other != base).sum() >= 7


def test_guidance_formula():
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 4))
    np.testing.assert_allclose(choose.guide(a, b, 1.0), a, atol=1e-6)
    np.testing.assert_allclose(choose.guide(a, b, 0.0), b)
    np.testing.assert_allclose(choose.guide(a, b, 3.0), 3 * a - 2 * b, atol=1e-5)
