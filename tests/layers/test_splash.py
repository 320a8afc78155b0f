"""TPU's attention kernel, interpreted on the CPU: numbers of the plain form, blocks, refusals."""

import functools

import attention_checks
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_checks import values_and_gradients
from jax.interpreters import partial_eval
from jaxprs import equations

from poet.layers import splash
from poet.layers.attention import masked_attention
from poet.layers.mask import prefix_lm_mask
from poet.layers.splash import SplashBlocks
from poet.models.block import Block, BlockConfig
from poet.models.config import REMAT_POLICIES, PrefixLMConfig
from poet.train.partitioning import RULES, MeshConfig, make_mesh

SMALL = SplashBlocks(queries=128, keys=128)
# Two blocks, the second one mostly padding.
LENGTH = 150

draw = functools.partial(
    attention_checks.draw, batch=1, length=LENGTH, heads=2, kv_heads=1, head_dim=8
)


def attend(q, k, v, prefix, blocks=SMALL):
    return splash.splash_attention(q, k, v, prefix, blocks, is_interpreted=True)


@pytest.mark.parametrize("prefix", [0, 5, 140])
def test_values_and_gradients_equal_the_mask(key, prefix):
    inputs = draw(key)
    mask = prefix_lm_mask(LENGTH, prefix)
    want = values_and_gradients(lambda q, k, v: masked_attention(q, k, v, mask), inputs)
    got = values_and_gradients(lambda q, k, v: attend(q, k, v, prefix), inputs)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_blocks_of_the_papers_clips():
    """Of 1,350 fed rows, 67 of them prefix: three blocks of 512, six of nine pairs."""
    blocks = SplashBlocks()
    assert blocks.of(1350) == (512, 512) and blocks.of(129) == (256, 256)
    assert blocks.of(1100) == (384, 384), "as few blocks as there can be, as short as can be"
    assert list(blocks.pairs(1350, 67)) == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    # A prefix of 600 rows: the first block looks into the second.
    assert list(blocks.pairs(1350, 600))[:2] == [(0, 0), (0, 1)]


@pytest.mark.parametrize("prefix", [0, 1, 100, 128, 129, 300, 700])
def test_pairs_of_blocks_are_those_that_the_mask_sees(prefix):
    blocks = SplashBlocks(queries=256, keys=128)
    (rows, keys), length = blocks.of(700), 700
    mask = np.zeros((rows * -(-length // rows), keys * -(-length // keys)), bool)
    mask[:length, :length] = prefix_lm_mask(length, prefix)
    seen = mask.reshape(-(-length // rows), rows, -1, keys).any(axis=(1, 3))
    assert list(blocks.pairs(length, prefix)) == [tuple(pair) for pair in np.argwhere(seen)]


def test_blocks_that_nobody_sees_are_skipped_not_masked(key):
    """A masked NaN times a weight of 0 would be NaN."""
    q, k, v = draw(key)
    out = jax.jit(lambda v: attend(q, k, v, 5))(v.at[:, 128:].set(jnp.nan))
    assert np.isfinite(out[:, :128]).all() and not np.isfinite(out[:, 128:]).any()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [{"fsdp": 2, "tensor": 2}, {"fsdp": 1, "sequence": 4}])
def test_each_device_of_a_mesh_attends_on_its_own(key, shape):
    """One key head for several devices is repeated; the numbers are those of one device."""
    inputs = draw(key, batch=2, length=140, heads=4, head_dim=4)
    want = values_and_gradients(lambda q, k, v: attend(q, k, v, 5), inputs)
    with jax.set_mesh(make_mesh(MeshConfig(**shape))), nn.logical_axis_rules(RULES):
        got = values_and_gradients(lambda q, k, v: attend(q, k, v, 5), inputs)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "runs"), [("full", 2), ("attention", 1), ("dots", 1), ("dots_no_batch", 1)]
)
def test_policies_keep_the_kernels_results_or_run_it_again(key, name, runs):
    inputs = draw(key)
    run = jax.checkpoint(lambda q, k, v: attend(q, k, v, 5), policy=REMAT_POLICIES[name])
    grad = jax.grad(lambda args: jnp.sum(jnp.sin(run(*args))))
    jaxpr = jax.make_jaxpr(grad)(inputs).jaxpr
    # As a compiler would: without what nothing needs.
    kernels = _kernels(partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0])
    assert kernels.count("splash_mha_fwd_residuals") == runs
    assert kernels.count("splash_mha_dkv_no_residuals") == 1


def _kernels(jaxpr):
    """Names of the kernels that a jaxpr calls."""

    def is_kernel(equation):
        return equation.primitive.name == "pallas_call"

    return [each.params["name"] for each in equations(jaxpr, is_kernel) if is_kernel(each)]


def test_a_layer_takes_the_kernel_by_name(key):
    sizes = {"d_model": 16, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 16}
    x = jax.random.normal(key, (1, 9, 16))
    rotation = np.ones((9, 8), np.float32)

    def layer(name, **more):
        return Block(BlockConfig(**sizes, attention=name)).apply(params, x, rotation, 3, **more)

    params = Block(BlockConfig(**sizes, attention="splash")).init(key, x, rotation, 3)
    want = layer("plain")
    np.testing.assert_array_equal(layer("auto"), want)
    got = layer("splash_interpreted")
    assert 0 < np.abs(got - want).max() < 1e-5
    with pytest.raises(ValueError, match="attention='splash' is a kernel for TPU, this program is"):
        layer("splash")
    with pytest.raises(ValueError, match="knows the order of raster only.* attention = 'auto'"):
        layer("splash_interpreted", visible=jnp.ones((9, 9), bool))
    layer("auto", visible=jnp.ones((9, 9), bool))


def test_what_does_not_divide_or_fit_is_refused(key):
    q, k, v = draw(key, batch=3, heads=3)
    with pytest.raises(ValueError, match="prefix_length=151 must lie between 0 and 150"):
        attend(q, k, v, 151)
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=2, tensor=2))), nn.logical_axis_rules(RULES):
        with pytest.raises(ValueError, match="3 sequences cannot be split over 2 devices"):
            attend(q, k, v, 5)
        with pytest.raises(ValueError, match="num_heads=3 cannot be split over tensor x sequence"):
            attend(q[:2], k[:2], v[:2], 5)


@pytest.mark.parametrize("name", ["queries", "keys"])
def test_blocks_are_whole_lanes(name):
    with pytest.raises(ValueError, match=f"SplashBlocks {name}=100 must be a multiple of 128"):
        SplashBlocks(**{name: 100})


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="attention='flash' is unknown; choose one of auto, plain"):
        PrefixLMConfig(attention="flash")
