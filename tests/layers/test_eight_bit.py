"""Products in 8 bits: how far they are from the plain ones, and what gradients they let through."""

import importlib.util
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.layers import eight_bit
from poet.layers.linear import Linear

needs_qwix = pytest.mark.skipif(
    not importlib.util.find_spec("qwix"), reason="qwix is not installed: make setup EXTRAS=quant"
)


SIZES = (12,), (3, 4), ("embed", "heads", "kv")


@pytest.fixture(scope="module")
def drawn():
    """Inputs [2, 3, 12] and a kernel [12, 3, 4]."""
    draw = np.random.default_rng(0)
    return draw.normal(size=(2, 3, 12)).astype("f4"), draw.normal(size=(12, 3, 4)).astype("f4")


def outputs(x, kernel, matmuls="int8", dtype=jnp.float32):
    layer = Linear((x.shape[-1],), kernel.shape[1:], SIZES[2], dtype=dtype, matmuls=matmuls)
    return np.asarray(jax.jit(layer.apply)({"params": {"kernel": kernel}}, x))


@needs_qwix
def test_a_product_worked_out_by_hand():
    """Steps are 1 / 127.5 and 2 / 127.5; the largest numbers, 127.5 steps, become 127."""
    x = np.array([[1.0, 0.3, 0.0]], np.float32)
    kernel = np.array([[[2.0]], [[-1.0]], [[0.1]]], np.float32)
    # 0.3 is 38.25 steps, -1 is -63.75.
    want = (127 * 127 + 38 * -64) * (1 / 127.5) * (2 / 127.5)
    np.testing.assert_allclose(outputs(x, kernel), [[[want]]], rtol=1e-6)
    assert abs(want - 1.7) > 1e-3, "rounding is seen"


@needs_qwix
@pytest.mark.parametrize("matmuls", ["int8", "fp8"])
def test_a_row_has_a_scale_of_its_own(drawn, matmuls):
    """A row a million times as large as the others costs them nothing."""
    x, kernel = drawn
    scale = np.ones((2, 3, 1), np.float32)
    scale[0, 1] = 2.0**20
    got = outputs(x * scale, kernel, matmuls) / scale[..., None]
    np.testing.assert_allclose(got, outputs(x, kernel, matmuls), rtol=1e-5)


@needs_qwix
def test_errors_are_those_of_rounding_to_a_step(drawn):
    x, kernel = drawn[0], drawn[1].reshape(12, 12)
    x_step = np.abs(x).max(-1, keepdims=True) / 127.5
    kernel_step = np.abs(kernel).max(0) / 127.5
    of_x, of_kernel = x_step * np.abs(kernel).sum(0), kernel_step * np.abs(x).sum(-1)[..., None]
    bound = (of_x + of_kernel) / 2 + 12 * x_step * kernel_step / 4
    off = np.abs(outputs(*drawn).reshape(2, 3, 12) - x @ kernel)
    assert (off <= bound * 1.0001).all() and off.max() > 1e-3


@needs_qwix
@pytest.mark.parametrize(("matmuls", "tolerance"), [("int8", 0.02), ("fp8", 0.1)])
def test_gradients_pass_through_the_rounding(drawn, matmuls, tolerance):
    layer, (x, kernel) = Linear(*SIZES, matmuls=matmuls), drawn
    weights = np.random.default_rng(1).normal(size=(2, 3, 3, 4)).astype("f4")

    @jax.jit
    def gradients(kernel, x):
        def weighted(kernel, x):
            return (layer.apply({"params": {"kernel": kernel}}, x) * weights).sum()

        return jax.grad(weighted, argnums=(0, 1))(kernel, x)

    want = np.einsum("bli,blho->iho", x, weights), np.einsum("blho,iho->bli", weights, kernel)
    for got, exact in zip(gradients(kernel, x), want, strict=True):
        assert 0 < np.linalg.norm(got - exact) / np.linalg.norm(exact) < tolerance


@needs_qwix
@pytest.mark.parametrize(
    ("matmuls", "kinds"),
    [("int8", ["i8 i8", "i8 i8"]), ("fp8", ["f8E4M3FN f8E4M3FN", "f8E5M2 f8E4M3FN"])],
)
def test_two_of_three_products_multiply_8_bit_numbers(drawn, matmuls, kinds):
    """Forward, then back to the kernel from all tokens and to the inputs, in some order."""
    layer, (x, kernel) = Linear(*SIZES, matmuls=matmuls), drawn
    grad = jax.jit(jax.grad(lambda p, x: (layer.apply(p, x) ** 2).sum(), argnums=(0, 1)))
    text = grad.lower({"params": {"kernel": kernel}}, x).as_text()
    found = re.findall(r"dot_general .*: \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\)", text)
    assert sorted(map(" ".join, found)) == sorted([*kinds, "f32 f32"])


@needs_qwix
def test_inputs_of_the_kernels_shape_are_inputs():
    """12 tokens of width 12 through a kernel of 12 x 12; the outputs have the layer's type."""
    x, kernel = np.random.default_rng(0).normal(size=(2, 12, 12)).astype("f4")
    got = outputs(x, kernel, dtype=jnp.bfloat16)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype("f4"), x @ kernel, atol=0.2)


@pytest.fixture
def no_qwix(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    eight_bit._provider.cache_clear()


def test_making_parameters_needs_no_library(no_qwix):
    """So that a model trained in 8 bits can be loaded and sampled from anywhere."""
    inits = [Linear(*SIZES, matmuls=name).init for name in ("int8", "plain")]
    x, key = jnp.ones((1, 12)), jax.random.key(0)
    jax.tree.map(np.testing.assert_array_equal, *(jax.jit(init)(key, x) for init in inits))


def test_a_missing_library_is_named(no_qwix, drawn):
    words = "matmuls = 'fp8' needs qwix, .* `make setup EXTRAS=quant`, or set"
    with pytest.raises(ValueError, match=words):
        eight_bit.check_matmuls("fp8")
    with pytest.raises(ValueError, match=words):
        outputs(*drawn, "fp8")
    eight_bit.check_matmuls("plain")
