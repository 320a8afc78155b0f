import jax.numpy as jnp
import numpy as np
from flax.core import meta

from poet.layers.norm import RMSNorm


def test_hand_worked(key):
    norm = RMSNorm(epsilon=0.0)
    x = jnp.array([[3.0, 4.0]])
    params = meta.unbox(norm.init(key, x))
    np.testing.assert_allclose(norm.apply(params, x), x / np.sqrt(12.5), rtol=1e-6)


def test_scale_of_the_input_does_not_matter(key):
    norm = RMSNorm()
    x = jnp.array([[[1.0, -2.0, 0.5]]])
    params = meta.unbox(norm.init(key, x))
    np.testing.assert_allclose(norm.apply(params, 100 * x), norm.apply(params, x), rtol=1e-4)


def test_half_precision_squares_in_float32(key):
    """300 squared is no float16; the mean square must not overflow."""
    norm = RMSNorm(dtype=jnp.float16)
    x = jnp.full((1, 4), 300.0, jnp.float16)
    y = norm.apply(meta.unbox(norm.init(key, x)), x)
    assert y.dtype == jnp.float16
    np.testing.assert_allclose(y, np.ones((1, 4)), rtol=1e-3)
