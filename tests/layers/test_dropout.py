import jax
import numpy as np

from poet.layers.dropout import ChannelDropout


def apply(rate, x, key=None):
    x = jax.numpy.asarray(x)
    rngs = None if key is None else {"dropout": jax.random.key(key)}
    return np.asarray(ChannelDropout(rate).apply({}, x, rngs=rngs))


def test_a_channel_is_dropped_at_all_positions_of_an_example():
    x = np.ones((8, 5, 64), np.float32)
    y = apply(0.25, x, key=0)
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
    assert set(np.unique(y)) == {np.float32(0.0), np.float32(1 / 0.75)}
    # 512 channels, of which 128 are expected to be dropped; six standard deviations are 59.
    assert abs((y[:, 0] == 0).sum() - 128) < 59
    assert (y[0] != y[1]).any()


def test_nothing_is_dropped_without_a_key_or_at_rate_zero():
    x = np.random.default_rng(0).standard_normal((2, 3, 16)).astype(np.float32)
    np.testing.assert_array_equal(apply(0.5, x), x)
    np.testing.assert_array_equal(apply(0.0, x, key=1), x)
