import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.tokenizers import magvit2, visual
from poet.tokenizers.magvit2 import Magvit2, MagvitConfig
from poet.tokenizers.quantizers import choice, fsq

COSMOS = (8, 8, 8, 5, 5, 5)


def test_levels_worked_by_hand():
    """Three levels are -1, 0, 1; four lie around -1/2, so that a latent of zero is the third."""
    latents = jnp.array([[-9.0, -9.0], [0.0, 0.0], [9.0, 9.0], [0.6, -0.9]])
    # tanh(0.6) 1.001 = 0.538; tanh(-0.9 + arctanh(0.5 / 1.5015)) 1.5015 - 0.5 = -1.256.
    np.testing.assert_allclose(fsq.bounded(latents, (3, 4))[3], [0.538, -1.256], atol=2e-3)
    np.testing.assert_array_equal(fsq.to_ids(latents, (3, 4)), [0, 1 + 3 * 2, 2 + 3 * 3, 2 + 3 * 1])
    np.testing.assert_allclose(
        fsq.straight_through(latents, (3, 4)),
        [[-1, -1], [0, 0], [1, 0.5], [1, -0.5]],
        atol=1e-6,
    )


@pytest.mark.parametrize("levels", [(2, 3, 4, 5), COSMOS])
def test_every_id_goes_round(levels):
    quantizer = choice.Fsq(levels)
    ids = jnp.arange(quantizer.num_codes)
    values = quantizer.from_ids(ids)
    assert values.shape == (quantizer.num_codes, len(levels))
    assert len(np.unique(np.asarray(values), axis=0)) == quantizer.num_codes
    assert float(values.min()) == -1.0 and float(values.max()) <= 1.0
    # Latents that are bounded to just these values: the inverse of the shifted tanh.
    counts = np.array(levels)
    reach = (counts - 1) * 1.001 / 2
    offset = np.where(counts % 2, 0.0, 0.5)
    places = np.asarray(values, np.float64) * (counts // 2)
    latents = np.arctanh((places + offset) / reach) - np.arctanh(offset / reach)
    np.testing.assert_array_equal(quantizer.to_ids(jnp.asarray(latents, jnp.float32)), ids)


def test_the_first_channel_is_the_lowest_digit():
    values = np.asarray(fsq.from_ids(jnp.array([1, 8, 8 * 8 * 8]), COSMOS))
    steps = values - np.asarray(fsq.from_ids(jnp.array([0]), COSMOS))
    assert [np.flatnonzero(step).tolist() for step in steps] == [[0], [1], [3]]
    np.testing.assert_allclose(steps.max(axis=1), [1 / 4, 1 / 4, 1 / 2])


def test_gradients_are_those_of_the_bounded_latents():
    latents = jnp.array([[0.3, -0.7]])
    straight = jax.grad(lambda z: fsq.straight_through(z, (5, 8)).sum())(latents)
    bounded = jax.grad(lambda z: (fsq.bounded(z, (5, 8)) / jnp.array([[2.0, 4.0]])).sum())(latents)
    np.testing.assert_allclose(straight, bounded, rtol=1e-6)
    assert float(straight.min()) > 0.1


def test_hardness_goes_from_bounded_numbers_to_levels():
    latents, scale = jnp.array([[0.3, -0.7]]), jnp.array([[2.0, 4.0]])
    soft = fsq.hardening(latents, (5, 8), jnp.float32(0.0))
    np.testing.assert_allclose(soft, fsq.bounded(latents, (5, 8)) / scale, rtol=1e-6)
    hard = fsq.hardening(latents, (5, 8), jnp.float32(1.0))
    np.testing.assert_allclose(hard, fsq.from_ids(fsq.to_ids(latents, (5, 8)), (5, 8)), atol=1e-6)


def test_both_quantizers_keep_the_promise_of_the_interface(key):
    for quantizer in (choice.Lfq(6), choice.Fsq((4, 4, 4))):
        latents = jax.random.normal(key, (3, 2, quantizer.num_channels))
        ids = quantizer.to_ids(latents)
        assert ids.dtype == jnp.int32 and quantizer.num_codes == 64
        np.testing.assert_allclose(quantizer.quantize(latents), quantizer.from_ids(ids), atol=1e-6)


@pytest.mark.slow
def test_a_tokenizer_with_levels_instead_of_bits(key):
    config = MagvitConfig(
        base_channels=4,
        multipliers=(1, 2, 2, 2),
        blocks_per_stage=1,
        norm_groups=2,
        fsq_levels=(8, 5, 5),
    )
    params = magvit2.init_params(config, key)
    assert params["encoder"]["conv_out"]["kernel"].shape[-1] == 3
    tokenizer = visual.VisualTokenizer(config, params, "x", batch_size=1)
    assert tokenizer.num_codes == 200
    video = jax.random.uniform(key, (1, 5, 16, 16, 3))
    codes = tokenizer.encode(np.asarray(video))
    assert codes.min() >= 0 and codes.max() < 200
    restored, _ = jax.jit(Magvit2(config).apply)({"params": params}, video)
    np.testing.assert_allclose(tokenizer.decode(codes), np.clip(restored, 0, 1), atol=1e-5)
    with pytest.raises(ValueError, match=r"Expected codes in \[0, 200\), got 200 to 200"):
        tokenizer.decode(np.full((1, 1, 2, 2), 200))


@pytest.mark.parametrize("levels", [(1, 8), (8,) * 11])
def test_refusals(levels):
    with pytest.raises(ValueError, match=r"expected at least one channel, at least 2 levels"):
        MagvitConfig(fsq_levels=levels)


def test_codes_split_by_channels_and_join_again():
    quantizer = choice.Fsq((8, 6, 5))
    assert quantizer.group_sizes(2) == (48, 5)
    ids = jnp.arange(240)
    groups = choice.to_group_ids(quantizer, ids, 2)
    np.testing.assert_array_equal(groups[:3], [[0, 0], [1, 0], [2, 0]])
    np.testing.assert_array_equal(groups[-1], [47, 4])
    np.testing.assert_array_equal(choice.from_group_ids(quantizer, groups), ids)
    with pytest.raises(ValueError, match="4 groups of 3 channels: expected 1 to 3 groups"):
        quantizer.group_sizes(4)
    with pytest.raises(ValueError, match="5 channels in groups of 2 make 3 groups, not 4"):
        choice.Lfq(5).group_sizes(4)
