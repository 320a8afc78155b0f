"""Residual quantizer: hand-worked codes, straight-through gradient, running means, dead codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.tokenizers.quantizers import rvq

# Two levels of two codes, one dimension: 0 or 10, then -1 or +1.
CENTROIDS = jnp.array([[[0.0], [10.0]], [[-1.0], [1.0]]])


@pytest.fixture(scope="module")
def latents():
    """Three tight groups of frames: [4, 6, 2]."""
    centres = jnp.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    which = jnp.arange(24).reshape(4, 6) % 3
    return centres[which] + 0.01 * jax.random.normal(jax.random.key(1), (4, 6, 2))


def test_hand_worked_codes():
    quantized = rvq.quantize(CENTROIDS, jnp.array([[[8.8], [0.7]]]))
    np.testing.assert_array_equal(quantized.codes, [[[1, 0], [0, 1]]])
    np.testing.assert_allclose(quantized.latents[0, :, 0], [9.0, 1.0], rtol=1e-6)
    # Residuals after level 1: -1.2 and 0.7; after level 2: -0.2 and -0.3.
    want = (1.2**2 + 0.7**2 + 0.2**2 + 0.3**2) / 4
    np.testing.assert_allclose(quantized.commitment, want, rtol=1e-5)
    np.testing.assert_allclose(rvq.lookup(CENTROIDS, quantized.codes), quantized.latents)


def test_fewer_levels_for_one_example():
    latents = jnp.array([[[8.8]], [[8.8]]])
    quantized = rvq.quantize(CENTROIDS, latents, jnp.array([1, 2]))
    np.testing.assert_allclose(quantized.latents[:, 0, 0], [10.0, 9.0], rtol=1e-6)
    np.testing.assert_allclose(quantized.commitment, (1.2**2 * 2 + 0.2**2) / 3, rtol=1e-5)


def test_gradient_goes_straight_through():
    grad = jax.grad(lambda z: jnp.sum(3.0 * rvq.quantize(CENTROIDS, z).latents))(
        jnp.array([[[8.8]]])
    )
    np.testing.assert_array_equal(grad, [[[3.0]]])


def test_start_finds_the_groups_once(latents):
    start = jax.jit(rvq.start)
    codebooks = start(rvq.init(1, 3, 2), latents, jax.random.key(0))
    assert bool(codebooks.is_started)
    np.testing.assert_allclose(codebooks.counts.sum(), 24)
    assert float(rvq.quantize(codebooks.centroids, latents).commitment) < 1e-3
    again = start(codebooks, latents + 100, jax.random.key(2))
    np.testing.assert_array_equal(again.centroids, codebooks.centroids)


def test_spare_codes_wait_when_every_frame_fits(latents):
    """Three tight groups and eight codes: with `place_above` three are used, else nearly all."""
    for place_above, least, most in ((0.01, 3, 3), (0.0, 6, 8)):
        codebooks = rvq.start(
            rvq.init(1, 8, 2), latents, jax.random.key(0), place_above=place_above
        )
        for step in range(2):
            quantized = rvq.quantize(codebooks.centroids, latents)
            codebooks = rvq.update(
                codebooks,
                quantized,
                jnp.full(4, 1),
                jax.random.key(step),
                decay=0.5,
                dead_below=0.01,
                place_above=place_above,
            )
        codes = rvq.quantize(codebooks.centroids, latents).codes
        assert least <= int(rvq.codes_used(codes, 8)[0]) <= most


def test_before_their_time_codebooks_stay_unstarted(latents):
    empty = rvq.init(1, 3, 2)
    codebooks = rvq.start(empty, latents, jax.random.key(0), is_time=False)
    quantized = rvq.quantize(codebooks.centroids, latents)
    codebooks = rvq.update(
        codebooks, quantized, jnp.full(4, 1), jax.random.key(0), decay=0.5, dead_below=1.0
    )
    for a, b in zip(jax.tree.leaves(codebooks), jax.tree.leaves(empty), strict=True):
        np.testing.assert_array_equal(a, b)


def test_running_means_move_towards_the_batch():
    codebooks = rvq.Codebooks(
        centroids=CENTROIDS,
        counts=jnp.ones((2, 2)),
        sums=CENTROIDS,
        is_started=jnp.ones((), bool),
    )
    quantized = rvq.quantize(CENTROIDS, jnp.array([[[8.0], [8.0]]]))
    got = rvq.update(
        codebooks, quantized, jnp.array([2]), jax.random.key(0), decay=0.5, dead_below=0.0
    )
    # Level 1, code 1: count 1 -> 0.5 + 1, sum 10 -> 5 + 8. Code 0 keeps its place.
    np.testing.assert_allclose(got.counts[0], [0.5, 1.5])
    np.testing.assert_allclose(got.centroids[0, :, 0], [0.0, 13 / 1.5], rtol=1e-6)


def test_dropped_examples_move_nothing():
    codebooks = rvq.Codebooks(
        centroids=CENTROIDS,
        counts=jnp.ones((2, 2)),
        sums=CENTROIDS,
        is_started=jnp.ones((), bool),
    )
    quantized = rvq.quantize(CENTROIDS, jnp.array([[[8.0]]]), jnp.array([1]))
    got = rvq.update(
        codebooks, quantized, jnp.array([1]), jax.random.key(0), decay=0.5, dead_below=0.0
    )
    np.testing.assert_allclose(got.centroids[1], CENTROIDS[1])
    assert float(abs(got.centroids[0] - CENTROIDS[0]).max()) > 0


def test_unused_codes_come_back_to_life(latents):
    # Every centroid far away but one: all frames choose it, the others die and are replaced.
    centroids = jnp.full((1, 8, 2), 1e3).at[0, 0].set(0.0)
    codebooks = rvq.Codebooks(
        centroids=centroids,
        counts=jnp.ones((1, 8)),
        sums=centroids,
        is_started=jnp.ones((), bool),
    )
    key = jax.random.key(0)
    for step in range(3):
        quantized = rvq.quantize(codebooks.centroids, latents)
        codebooks = rvq.update(
            codebooks,
            quantized,
            jnp.full(4, 1),
            jax.random.fold_in(key, step),
            decay=0.5,
            dead_below=0.6,
        )
    codes = rvq.quantize(codebooks.centroids, latents).codes
    assert int(rvq.codes_used(codes, 8)[0]) >= 3
    assert float(abs(codebooks.centroids).max()) < 100
