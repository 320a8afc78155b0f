"""The fast forms of 1-D convolution agree with XLA's, forward and backward, and are causal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.layers import conv1d


def _value_and_grads(function, x, kernel, bias, **kwargs):
    def loss(x, kernel, bias):
        out = function(x, kernel, bias, **kwargs)
        return jnp.sum(jnp.sin(out)), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(
        x, kernel, bias
    )
    return out, *grads


def _random(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize(
    ("num_taps", "num_in", "num_out", "stride", "dilation"),
    [
        (7, 1, 5, 1, 1),  # folded
        (7, 4, 1, 1, 1),  # folded
        (3, 20, 20, 1, 1),  # native
        (7, 4, 4, 1, 9),  # native, dilated
        (1, 4, 6, 1, 1),  # matmul
        (10, 3, 4, 5, 1),  # blocks
        (7, 3, 4, 5, 1),  # native, strided
    ],
)
def test_every_form_agrees_with_the_reference(num_taps, num_in, num_out, stride, dilation):
    x, kernel, bias = _random((2, 35, num_in), (num_taps, num_in, num_out), (num_out,))
    sizes = {"stride": stride, "dilation": dilation}
    got = _value_and_grads(conv1d.causal_conv1d, x, kernel, bias, **sizes)
    want = _value_and_grads(conv1d.causal_conv1d_reference, x, kernel, bias, **sizes)
    assert got[0].shape == (2, 35 // stride, num_out)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("stride", [2, 5])
def test_transposed_form_agrees_with_the_reference(stride):
    x, kernel, bias = _random((2, 7, 3), (2 * stride, 3, 4), (4,))
    got = _value_and_grads(conv1d.causal_conv_transpose1d, x, kernel, bias, stride=stride)
    want = _value_and_grads(
        conv1d.causal_conv_transpose1d_reference, x, kernel, bias, stride=stride
    )
    assert got[0].shape == (2, 7 * stride, 4)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def test_hand_worked_numbers():
    x = jnp.array([[1.0, 2.0, 3.0, 4.0]])[..., None]
    kernel = jnp.array([10.0, 1.0])[:, None, None]  # 10 x the past sample + this one
    np.testing.assert_array_equal(conv1d.causal_conv1d(x, kernel)[0, :, 0], [1, 12, 23, 34])
    strided = conv1d.causal_conv1d(x, jnp.array([0.0, 0, 10, 1])[:, None, None], stride=2)
    np.testing.assert_array_equal(strided[0, :, 0], [12, 34])
    # Input t writes (1, 2) into its own block and (10, 20) into the next.
    taps = jnp.array([1.0, 2.0, 10.0, 20.0])[:, None, None]
    up = conv1d.causal_conv_transpose1d(x[:, :2], taps, stride=2)
    np.testing.assert_array_equal(up[0, :, 0], [1, 2, 2 + 10, 4 + 20])


@pytest.mark.parametrize(
    "layer",
    [
        conv1d.CausalConv1d(3, 7),
        conv1d.CausalConv1d(3, 7, dilation=3),
        conv1d.CausalConv1d(3, 8, stride=4),
        conv1d.CausalConvTranspose1d(3, 4),
    ],
)
def test_the_future_is_never_read(layer):
    (x,) = _random((1, 24, 2))
    params = layer.init(jax.random.key(1), x)
    whole, half = layer.apply(params, x), layer.apply(params, x[:, :12])
    np.testing.assert_allclose(whole[:, : half.shape[1]], half, rtol=1e-5, atol=1e-5)
    late = layer.apply(params, x.at[:, 12:].add(1.0))
    np.testing.assert_array_equal(late[:, : half.shape[1]], whole[:, : half.shape[1]])


def test_refusals():
    (x,) = _random((1, 9, 2))
    kernel = jnp.zeros((4, 2, 3))
    with pytest.raises(ValueError, match="9 positions, not a whole number of strides of 2"):
        conv1d.causal_conv1d(x, kernel, stride=2)
    with pytest.raises(ValueError, match="stride=3 with dilation=2"):
        conv1d.causal_conv1d(x, kernel, stride=3, dilation=2)
    with pytest.raises(ValueError, match="needs 2 \\* stride = 6 taps"):
        conv1d.causal_conv_transpose1d(x, kernel, stride=3)
