import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.layers import conv
from poet.tokenizers import discriminator
from poet.tokenizers.discriminator import Discriminator, DiscriminatorConfig

TINY = DiscriminatorConfig(base_channels=4, multipliers=(1, 2))


def shapes_of(config, clip):
    """Shapes of the parameters for clips of a shape."""
    video = jax.ShapeDtypeStruct(clip, jnp.float32)
    init = Discriminator(config).init
    return jax.eval_shape(lambda v: init(jax.random.key(0), v), video)["params"]


def test_parameter_count_is_the_published_one():
    leaves = jax.tree.leaves(shapes_of(DiscriminatorConfig(), (1, 17, 128, 128, 3)))
    assert round(sum(leaf.size for leaf in leaves) / 1e6, 1) == 61.3


def test_the_last_layers_read_one_frame_of_4_x_4():
    shapes = shapes_of(DiscriminatorConfig(), (1, 17, 128, 128, 3))
    assert shapes["dense"]["kernel"].shape == (1 * 4 * 4 * 512, 512)
    assert set(shapes["block_0"]) == {"conv_0", "conv_1", "conv_skip"}
    assert set(shapes["block_0"]["conv_skip"]) == {"kernel"}


def test_a_block_halves_and_rounds_up():
    block = discriminator.DownBlock(32)
    video = jax.ShapeDtypeStruct((1, 17, 256, 257, 32), jnp.float32)
    out, _ = jax.eval_shape(lambda v: block.init_with_output(jax.random.key(0), v), video)
    assert out.shape == (1, 9, 128, 129, 32)


def test_blur_of_an_edge_by_hand():
    """Even: zeros after the end. Odd: one zero on both sides. One value: half of it an axis."""
    even = jnp.array([4.0, 8.0, 12.0, 16.0]).reshape(1, 4, 1, 1, 1)
    # Rows and columns of one value each halve it; in time (4 + 16 + 12) / 4 and (12 + 32) / 4.
    np.testing.assert_allclose(discriminator.blur_pool(even).reshape(-1), [2.0, 2.75])
    odd = jnp.array([4.0, 8.0, 12.0]).reshape(1, 1, 3, 1, 1)
    np.testing.assert_allclose(discriminator.blur_pool(odd).reshape(-1), [1.0, 2.0])


def test_blur_is_the_strided_convolution_of_xla(key):
    x = jax.random.normal(key, (2, 5, 6, 7, 3))
    taps = jnp.array([1.0, 2.0, 1.0]) / 4
    kernel = jnp.einsum("a,b,c->abc", taps, taps, taps)[..., None, None]
    kernel = jnp.broadcast_to(kernel, (3, 3, 3, 1, 3))
    wanted = jax.lax.conv_general_dilated(
        x,
        kernel,
        (2, 2, 2),
        "SAME",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        feature_group_count=3,
    )
    np.testing.assert_allclose(discriminator.blur_pool(x), wanted, atol=1e-6)


def test_plain_convolution_is_xlas_with_zeros_around(key):
    keys = jax.random.split(key, 3)
    x = jax.random.normal(keys[0], (2, 4, 5, 6, 3))
    kernel, bias = jax.random.normal(keys[1], (3, 3, 3, 3, 2)), jax.random.normal(keys[2], (2,))
    wanted = jax.lax.conv_general_dilated(
        x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    np.testing.assert_allclose(
        conv.conv3d(x, kernel, bias), wanted + bias[None, None, None, None], atol=1e-4
    )


def test_one_logit_a_clip_that_reads_only_its_clip(key):
    video = jax.random.uniform(key, (3, 5, 16, 16, 3))
    model = Discriminator(TINY)
    params = jax.jit(model.init)(key, video)
    logits = jax.jit(model.apply)(params, video)
    assert logits.shape == (3,)
    changed = jax.jit(model.apply)(params, video.at[1].set(0.0))
    np.testing.assert_allclose(changed[::2], logits[::2], rtol=1e-5)
    assert abs(float(changed[1] - logits[1])) > 1e-4


@pytest.mark.parametrize("fields", [{"base_channels": 0}, {"multipliers": ()}])
def test_refusals(fields):
    with pytest.raises(ValueError, match="expected positive numbers and at least one block"):
        DiscriminatorConfig(**fields)
