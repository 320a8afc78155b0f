import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from poet.models.text_encoder import T5Encoder, TextEncoderConfig, relative_buckets

CONFIG = TextEncoderConfig(num_ids=20, num_layers=2, d_model=12, num_heads=3, head_dim=4, mlp_dim=8)
TEXT_IDS = np.array([[5, 9, 4, 1, 0, 0]])


@pytest.fixture(scope="module")
def params():
    init = jax.jit(T5Encoder(CONFIG).init)
    return meta.unbox(init(jax.random.key(0), TEXT_IDS))


def encode(params, text_ids):
    return np.asarray(T5Encoder(CONFIG).apply(params, jnp.asarray(text_ids)))


def test_buckets():
    """The rule of T5: 8 exact distances a direction, then logarithmic ones, right adds 16."""
    row = relative_buckets(300, 32, 128)[150]
    np.testing.assert_array_equal(row[150 - 9 : 151], [8, 8, 7, 6, 5, 4, 3, 2, 1, 0][-10:])
    np.testing.assert_array_equal(row[151:158], 16 + np.arange(1, 8))
    distance = np.arange(8, 150)
    want = np.minimum(8 + np.floor(8 * np.log(distance / 8) / np.log(16) + 1e-6), 15)
    np.testing.assert_array_equal(row[150 - distance], want)
    assert row[0] == 15 and row[299] == 31


def test_slots_after_the_text_are_not_seen(params):
    longer = np.pad(TEXT_IDS, ((0, 0), (0, 3)))
    np.testing.assert_allclose(
        encode(params, TEXT_IDS)[:, :4], encode(params, longer)[:, :4], atol=1e-5
    )


def test_order_and_both_sides_matter(params):
    base, swapped = encode(params, TEXT_IDS), encode(params, TEXT_IDS[:, [0, 2, 1, 3, 4, 5]])
    assert np.abs(base[:, 0] - swapped[:, 0]).max() > 1e-4


def test_empty_text_is_finite(params):
    assert np.isfinite(encode(params, np.zeros((1, 4), int))).all()


def test_parameters_are_those_of_the_published_encoder():
    """XL: 1.2235 billion, no biases, one table of relative positions."""
    config = TextEncoderConfig()
    shapes = jax.eval_shape(T5Encoder(config).init, jax.random.key(0), np.zeros((1, 8), np.int32))
    leaves = jax.tree_util.tree_leaves_with_path(meta.unbox(shapes["params"]))
    assert abs(sum(leaf.size for _, leaf in leaves) / 1.2235e9 - 1) < 1e-3
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    assert not any("bias" in name for name in names if "relative_bias" not in name)
    assert sum("relative_bias" in name for name in names) == 1


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="TextEncoderConfig num_heads=0 must be at least 1"):
        TextEncoderConfig(num_heads=0)
