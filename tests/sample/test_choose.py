import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.sample import choose
from poet.sample.requests import SamplingMode, SamplingRequest, settings_of

LOGITS = jnp.log(jnp.array([[0.1, 0.4, 0.05, 0.3, 0.15]]))


def kept(**fields):
    request = SamplingRequest(**fields)
    shares = choose.kept_shares(LOGITS, request.mode, settings_of([request]))
    return np.flatnonzero(shares[0]).tolist()


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


def draw(num_draws, logits=LOGITS[0], **fields):
    """Shares of the codes among many requests' draws at one position."""
    requests = [SamplingRequest(**fields)] * num_draws
    return np.bincount(draw_codes(requests, logits), minlength=len(logits)) / num_draws


def draw_codes(requests, logits, first_id=0, position=7):
    settings = settings_of(requests)
    ids = choose.split_ids(first_id + np.arange(len(requests)))
    keys = choose.request_keys(settings["seed"], ids)
    logits = jnp.broadcast_to(logits, (len(requests), logits.shape[-1]))
    positions = jnp.full(len(requests), position)
    return choose.choose(logits, keys, positions, SamplingMode.of(requests), settings)


def test_draws_follow_the_model():
    np.testing.assert_allclose(draw(4000), np.exp(LOGITS[0]), atol=0.03)


def test_temperature_sharpens():
    want = np.exp(LOGITS[0] / 0.5)
    np.testing.assert_allclose(draw(4000, temperature=0.5), want / want.sum(), atol=0.03)
    np.testing.assert_array_equal(draw(10, temperature=0.0), [0, 1, 0, 0, 0])


def test_draws_differ_by_position_seed_and_request():
    def codes(seed, first, position):
        requests = [SamplingRequest(seed=seed)] * 8
        return draw_codes(requests, jnp.zeros(1000), first, position)

    base = codes(0, 0, 0)
    assert len(set(base.tolist())) == 8
    for other in (codes(1, 0, 0), codes(0, 8, 0), codes(0, 0, 1), codes(0, 2**32, 0)):
        assert (other != base).sum() >= 7


def test_requests_of_a_batch_keep_their_settings():
    """Rows that differ in all settings get what each gets alone."""
    logits = 3 * jax.random.normal(jax.random.key(1), (6, 700))
    requests = [
        SamplingRequest(),
        SamplingRequest(temperature=0.0),
        SamplingRequest(top_k=5, seed=9),
        SamplingRequest(top_p=0.3),
        SamplingRequest(temperature=2.0, top_k=50, top_p=0.9),
        SamplingRequest(temperature=0.5, seed=3),
    ]
    together = draw_codes(requests, logits)
    for row, request in enumerate(requests):
        alone = draw_codes([request], logits[row : row + 1], first_id=row)
        assert alone[0] == together[row]


@pytest.mark.parametrize("num_codes", [3, 512, 513, 2000])
def test_inverting_walks_along_the_running_sum(num_codes):
    """Against numpy's search in float64, over several blocks and their ends."""
    shares = np.random.default_rng(0).random((40, num_codes)).astype(np.float32)
    shares[:, ::3] = 0
    uniform = np.random.default_rng(1).random(40).astype(np.float32)
    sums = np.cumsum(shares.astype(np.float64), axis=1)
    want = [np.searchsorted(s, u * s[-1], "right") for s, u in zip(sums, uniform, strict=True)]
    np.testing.assert_array_equal(choose.invert(jnp.asarray(shares), jnp.asarray(uniform)), want)


def test_codes_of_share_zero_are_never_drawn():
    """Whatever rounding does at the ends of blocks and of the range."""
    rng = np.random.default_rng(0)
    shares = rng.random((64, 3000)) * 10.0 ** rng.integers(-30, 1, (64, 3000))
    shares[rng.random((64, 3000)) < 0.9] = 0
    shares[:, 1500] = 1e-3
    shares = jnp.asarray(shares, jnp.float32)
    for uniform in (0.0, 1e-7, 0.5, 1 - 2**-24):
        codes = choose.invert(shares, jnp.full(64, uniform, jnp.float32))
        assert (np.asarray(shares)[np.arange(64), codes] > 0).all()


@pytest.mark.parametrize("top_k, top_p", [(40, 1.0), (0, 0.9), (100, 0.5), (3000, 0.2)])
def test_what_is_kept_equals_sorting(top_k, top_p):
    """The bisection against a sorted row, ties included."""
    logits = np.random.default_rng(0).normal(size=(5, 3000)).round(2).astype(np.float32)
    requests = [SamplingRequest(top_k=top_k, top_p=top_p)] * 5
    shares = choose.kept_shares(
        jnp.asarray(logits), SamplingMode.of(requests), settings_of(requests)
    )
    for row, got in zip(logits, np.asarray(shares), strict=True):
        p = np.exp(row - row.max())
        if top_k:
            p = np.where(p >= np.sort(p)[::-1][min(top_k, p.size) - 1], p, 0)
        ranked = np.sort(p)[::-1]
        last = ranked[np.searchsorted(np.cumsum(ranked), top_p * p.sum())] if top_p < 1 else 0
        np.testing.assert_array_equal(got > 0, (p >= last) & (p > 0))


def test_log_shares():
    got = choose.log_shares(LOGITS, jnp.array([3]))
    np.testing.assert_allclose(got, [np.log(0.3)], rtol=1e-5)


def test_guidance_formula():
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 4))
    np.testing.assert_array_equal(choose.guide(a, b, 1.0), a)
    np.testing.assert_allclose(choose.guide(a, b, 0.0), b)
    np.testing.assert_allclose(choose.guide(a, b, 3.0), 3 * a - 2 * b, atol=1e-5)
    mixed = choose.guide(a, b, np.array([1.0, 0.0, 3.0]))
    np.testing.assert_array_equal(mixed[0], a[0])
    np.testing.assert_allclose(mixed[2], 3 * a[2] - 2 * b[2], atol=1e-5)
