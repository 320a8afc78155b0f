"""The fast causal 3-D convolution against the native one, and its properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.layers import conv

SIZES = [
    # frames, rows, columns, kernel, strides
    (5, 8, 6, (3, 3, 3), (1, 1, 1)),
    (5, 8, 6, (4, 4, 4), (1, 2, 2)),
    (5, 8, 6, (4, 4, 4), (2, 2, 2)),
    (5, 8, 6, (3, 3, 3), (2, 2, 2)),
    (4, 7, 5, (3, 3, 3), (2, 2, 2)),
    (1, 8, 6, (3, 3, 3), (1, 1, 1)),
    (1, 8, 6, (4, 4, 4), (2, 2, 2)),
    (3, 4, 4, (1, 1, 1), (1, 1, 1)),
]


def arrays(frames, rows, columns, kernel, num_in=3, num_out=4):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2, frames, rows, columns, num_in)).astype(np.float32)
    weights = draw.normal(size=(*kernel, num_in, num_out)).astype(np.float32)
    bias = draw.normal(size=num_out).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(weights), jnp.asarray(bias)


@functools.partial(jax.jit, static_argnames=("function", "strides"))
def value_and_gradients(function, x, weights, bias, strides):
    def total(x, weights, bias):
        out = function(x, weights, bias, strides=strides)
        return jnp.sum(jnp.sin(out)), out

    return jax.value_and_grad(total, (0, 1, 2), has_aux=True)(x, weights, bias)


@pytest.mark.parametrize(("frames", "rows", "columns", "kernel", "strides"), SIZES)
def test_values_and_gradients_equal_the_native_form(frames, rows, columns, kernel, strides):
    given = arrays(frames, rows, columns, kernel)
    got = value_and_gradients(conv.causal_conv3d, *given, strides)
    want = value_and_gradients(conv.causal_conv3d_reference, *given, strides)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-4), got, want)


def test_padding_repeats_edges_and_only_the_past():
    """A kernel of ones over a ramp in time: 0+0+0, 0+0+1, 0+1+2, 1+2+3; nine pixels each."""
    ramp = jnp.broadcast_to(jnp.arange(4.0)[None, :, None, None, None], (1, 4, 3, 3, 1))
    out = conv.causal_conv3d(ramp, jnp.ones((3, 3, 3, 1, 1)))
    np.testing.assert_array_equal(out[0, :, 0, 0, 0], np.array([0, 1, 3, 6]) * 9)
    np.testing.assert_array_equal(out[0, :, 2, 1, 0], np.array([0, 1, 3, 6]) * 9)


@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 2, 2)])
def test_output_frame_reads_no_later_frame(strides):
    x, weights, _ = arrays(5, 4, 4, (4, 4, 4))
    changed = x.at[:, 3:].add(1.0)
    same = conv.causal_conv3d(x, weights, strides=strides)
    other = conv.causal_conv3d(changed, weights, strides=strides)
    first_changed = -(-3 // strides[0])
    np.testing.assert_array_equal(same[:, :first_changed], other[:, :first_changed])
    assert np.abs(same[:, first_changed:] - other[:, first_changed:]).max() > 0.1


def test_an_image_is_every_frame_of_a_still_clip():
    x, weights, bias = arrays(1, 6, 6, (3, 3, 3))
    image = conv.causal_conv3d(x, weights, bias)
    still = conv.causal_conv3d(jnp.repeat(x, 4, axis=1), weights, bias)
    np.testing.assert_allclose(still, jnp.repeat(image, 4, axis=1), rtol=1e-4, atol=1e-4)


def test_a_clip_in_two_chunks_is_the_clip():
    x, weights, bias = arrays(6, 4, 4, (3, 3, 3))
    whole = conv.causal_conv3d(x, weights, bias)
    first = conv.causal_conv3d(x[:, :3], weights, bias)
    second = conv.causal_conv3d(x[:, 3:], weights, bias, past=x[:, 1:3])
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, rtol=1e-4, atol=1e-4)


def test_module_has_one_kernel_and_an_optional_bias(key):
    x = jnp.zeros((1, 5, 8, 8, 3))
    layer = conv.CausalConv3d(4, (4, 4, 4), (2, 2, 2))
    shapes = jax.tree.map(jnp.shape, layer.init(key, x)["params"])
    assert shapes == {"kernel": (4, 4, 4, 3, 4), "bias": (4,)}
    assert layer.apply(layer.init(key, x), x).shape == (1, 3, 4, 4, 4)
    bare = conv.CausalConv3d(4, use_bias=False).init(key, x)["params"]
    assert set(bare) == {"kernel"}


def test_refusals():
    x, weights, _ = arrays(5, 4, 4, (3, 3, 3))
    with pytest.raises(ValueError, match="x has 2 channels but the kernel reads 3"):
        conv.causal_conv3d(x[..., :2], weights)
    with pytest.raises(
        ValueError,
        match="kernel of 3 time taps needs 2 at a time stride of 1",
    ):
        conv.causal_conv3d(x, weights, past=x[:, :1])
