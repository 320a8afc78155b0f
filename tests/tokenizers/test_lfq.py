"""Lookup-free quantization: published constants, bit order, exact entropies, gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.tokenizers.quantizers import choice, lfq

# What the original codebase's own test asserts (first two rows), and the same computed with the
# random numbers that jax gives by default today.
FIXTURES = [
    # bits, threefry_partitionable, commitment, entropy term
    (8, False, 0.10211816, -0.43410715),
    (16, False, 0.1005669, -0.46808478),
    (8, True, 0.10748886, -0.44233713),
    (16, True, 0.10557237, -0.46807438),
]
FIRST_IDS = [
    (8, False, [85, 208, 63, 38, 70, 135]),
    (8, True, [135, 32, 214, 135, 234, 59]),
    (16, False, [16833, 20156, 45048, 29735, 51422, 30689]),
]


def fixture_latents(num_bits, is_partitionable):
    with jax.threefry_partitionable(is_partitionable):
        return jax.random.normal(jax.random.PRNGKey(123), (1, 3, 6, 6, num_bits))


@pytest.mark.parametrize(("num_bits", "is_partitionable", "commitment", "entropy"), FIXTURES)
def test_losses_equal_the_published_constants(num_bits, is_partitionable, commitment, entropy):
    latents = fixture_latents(num_bits, is_partitionable)
    np.testing.assert_allclose(0.25 * lfq.commitment(latents), commitment, atol=1e-6)
    probabilities = lfq.mean_code_probabilities(latents, 0.01)
    term = lfq.token_entropy(latents, 0.01) - lfq.batch_entropy(probabilities, epsilon=1e-5)
    np.testing.assert_allclose(0.1 * term, entropy, atol=2e-6)


@pytest.mark.parametrize(("num_bits", "is_partitionable", "first"), FIRST_IDS)
def test_ids_equal_the_published_ones(num_bits, is_partitionable, first):
    ids = lfq.to_ids(fixture_latents(num_bits, is_partitionable))
    assert ids.dtype == jnp.int32
    assert ids.reshape(-1)[:6].tolist() == first


def test_bit_0_is_the_lowest_and_zero_counts_as_plus_one():
    latents = jnp.array(
        [[-1.0, -1.0, -1.0], [2.0, -1.0, -1.0], [-1.0, -1.0, 0.5], [0.0, 0.0, -9.0]]
    )
    assert lfq.to_ids(latents).tolist() == [0, 1, 4, 3]
    assert lfq.signs(latents)[3].tolist() == [1, 1, -1]


def test_ids_and_signs_go_round():
    ids = jnp.arange(64)
    np.testing.assert_array_equal(lfq.to_ids(lfq.from_ids(ids, 6)), ids)
    assert set(np.unique(lfq.from_ids(ids, 6))) == {-1.0, 1.0}


def test_ids_split_in_two_are_low_bits_then_high_bits():
    ids = jnp.array([0, 5, 511, 512, 2**18 - 1])
    halves = choice.to_group_ids(choice.Lfq(18), ids, 2)
    assert halves.tolist() == [[0, 0], [5, 0], [511, 0], [0, 1], [511, 511]]
    np.testing.assert_array_equal(choice.from_group_ids(choice.Lfq(18), halves), ids)
    # Seven bits in two groups: four and three.
    odd = choice.Lfq(7)
    np.testing.assert_array_equal(
        choice.from_group_ids(odd, choice.to_group_ids(odd, jnp.arange(128), 2)), jnp.arange(128)
    )


def test_entropies_equal_the_softmax_over_all_codes(key):
    latents, temperature = 0.3 * jax.random.normal(key, (20, 5)), 0.7
    codes = np.array(list(itertools.product([-1.0, 1.0], repeat=5)))[:, ::-1]
    every = jax.nn.softmax(2.0 * latents @ codes.T / temperature, axis=-1)
    mean = every.mean(0)
    got = lfq.mean_code_probabilities(latents, temperature)
    np.testing.assert_allclose(got.reshape(-1), mean, atol=1e-6)
    np.testing.assert_allclose(
        lfq.token_entropy(latents, temperature), -(every * jnp.log(every)).sum(-1).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(lfq.batch_entropy(got), -(mean * jnp.log(mean)).sum(), rtol=1e-5)


def test_entropy_of_all_codes_alike_is_exact_at_18_bits():
    uniform = jnp.full((512, 512), 2.0**-18)
    np.testing.assert_allclose(lfq.batch_entropy(uniform), 18 * np.log(2), rtol=1e-5)


def test_gradients_are_finite_where_a_bit_is_sure_and_at_zero():
    latents = jnp.array([[50.0, -50.0, 0.0], [-50.0, 0.0, 50.0]])

    def term(latents):
        spread = lfq.batch_entropy(lfq.mean_code_probabilities(latents, 0.01))
        return lfq.token_entropy(latents, 0.01) - spread

    value, gradient = jax.value_and_grad(term)(latents)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_straight_through_has_signs_forward_and_identity_backward():
    latents = jnp.array([0.3, -2.0, 0.0])
    assert lfq.straight_through(latents).tolist() == [1, -1, 1]
    gradient = jax.grad(lambda z: jnp.sum(lfq.straight_through(z) * jnp.array([1.0, 2.0, 3.0])))
    assert gradient(latents).tolist() == [1, 2, 3]


def test_entropy_weight_falls_from_three_times_to_once():
    config = lfq.LfqLossConfig()
    weights = [float(config.entropy_weight_at(jnp.array(s))) for s in (0, 1_000, 2_000, 9_000)]
    np.testing.assert_allclose(weights, [0.3, 0.2, 0.1, 0.1], rtol=1e-6)


def test_losses_add_up(key):
    latents, config = jax.random.normal(key, (4, 6)), lfq.LfqLossConfig(temperature=0.5)
    loss, parts = lfq.losses(latents, jnp.array(2_000), config)
    entropy = parts["token_entropy_nats"] - parts["batch_entropy_nats"]
    np.testing.assert_allclose(loss, 0.25 * parts["commitment"] + 0.1 * entropy, rtol=1e-5)


def test_codes_used_counts_different_codes():
    used = lfq.used_codes(jnp.array([[3, 3], [0, 7]]), 8)
    np.testing.assert_array_equal(np.flatnonzero(used), [0, 3, 7])


def test_refuses_a_temperature_of_zero():
    with pytest.raises(ValueError, match="temperature=0 must be above 0"):
        lfq.LfqLossConfig(temperature=0)
