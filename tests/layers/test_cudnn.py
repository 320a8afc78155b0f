"""cuDNN's attention: its two calls by XLA on the CPU, and what is lowered for CUDA."""

import functools
import re

import attention_checks
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_checks import values_and_gradients
from jax._src.cudnn import fused_attention_stablehlo
from jax.interpreters import partial_eval
from jaxprs import equations

from poet.layers import attention_choice
from poet.layers.attention import masked_attention
from poet.layers.cudnn import cudnn_attention
from poet.layers.mask import prefix_lm_mask
from poet.models.block import Block, BlockConfig
from poet.models.config import REMAT_POLICIES, PrefixLMConfig
from poet.train.partitioning import RULES, MeshConfig, make_mesh

draw = functools.partial(attention_checks.draw, batch=2, length=21, heads=4, kv_heads=2, head_dim=8)


def off_the_mask(inputs, prefix):
    """Largest differences of values and gradients, by XLA on the mesh in force."""
    mask = prefix_lm_mask(inputs[0].shape[1], prefix)
    want = values_and_gradients(lambda q, k, v: masked_attention(q, k, v, mask), inputs)
    got = values_and_gradients(lambda q, k, v: cudnn_attention(q, k, v, prefix, "xla"), inputs)
    return [float(jnp.abs(a - b).max()) for a, b in zip(got, want, strict=True)]


@pytest.mark.parametrize(
    ("length", "prefix", "kv_heads"),
    [(21, 0, 2), (21, 5, 2), (21, 6, 4), (20, 5, 1), (20, 20, 2), (21, 21, 4)],
)
def test_two_calls_equal_the_mask(key, length, prefix, kv_heads):
    """Even and odd lengths and prefixes, of which the odd ones are padded; grouped queries."""
    assert max(off_the_mask(draw(key, length=length, kv_heads=kv_heads), prefix)) < 2e-5


@pytest.mark.parametrize("shape", [{"fsdp": 2, "tensor": 2}, {"fsdp": 1, "sequence": 4}])
def test_each_device_of_a_mesh_attends_on_its_own(key, shape):
    inputs = draw(key, length=11, kv_heads=1)
    want = values_and_gradients(lambda q, k, v: cudnn_attention(q, k, v, 5, "xla"), inputs)
    with jax.set_mesh(make_mesh(MeshConfig(**shape))), nn.logical_axis_rules(RULES):
        got = values_and_gradients(lambda q, k, v: cudnn_attention(q, k, v, 5, "xla"), inputs)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.fixture
def cudnn(monkeypatch):
    """jax asks for cuDNN's version while it traces, and refuses where there is none."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91200)


def in_bfloat16(length=1351, heads=16, kv_heads=4, head_dim=128):
    shapes = ((2, length, n, head_dim) for n in (heads, kv_heads, kv_heads))
    return [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]


def lowered_for_cuda(function, *args):
    """The text of a program that no device here could run."""
    return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def calls_of(text):
    """[(kernel, mask, (rows, keys))] of the calls of cuDNN, in any order."""
    found = []
    for line in text.splitlines():
        name = re.search(r"custom_call @__cudnn\$(\w+)\(", line)
        if name:
            mask = re.search(r"mask_type\\22: \\22(\w+)", line)[1]
            sizes = re.search(r"dimensions\\22: \[([^]]*)\]", line)[1]
            found.append((name[1], mask, tuple(int(n) for n in re.findall(r"22(\d+)", sizes)[2:])))
    return sorted(found)


def test_training_is_lowered_to_two_kernels_each_way_without_a_bias(cudnn):
    """A text-to-video clip at the paper's sizes: 1,351 positions of which 69 are given."""

    def total(q, k, v):
        return cudnn_attention(q, k, v, 69).astype(jnp.float32).sum()

    text = lowered_for_cuda(jax.grad(total, (0, 1, 2)), *in_bfloat16())
    kernels = [("CAUSAL", (1352, 1352)), ("PADDING", (70, 70))]
    assert calls_of(text) == [
        (name, *kernel) for name in ("fmhaSoftmax", "fmhaSoftmaxBackward") for kernel in kernels
    ]
    sizes = [
        int(np.prod([int(n) for n in dims.split("x") if n], dtype=np.int64))
        for dims in re.findall(r"tensor<((?:\d+x)+)", text)
    ]
    assert max(sizes) == 2 * 1352 * 16 * 128, "no scores: 2 x 16 x 1352 x 1352 would be more"


def test_even_lengths_need_no_padding(cudnn):
    text = lowered_for_cuda(lambda q, k, v: cudnn_attention(q, k, v, 70), *in_bfloat16(1350))
    assert [call[1:] for call in calls_of(text)] == [
        ("CAUSAL", (1350, 1350)),
        ("NO_MASK", (70, 70)),
    ]
    text = lowered_for_cuda(lambda q, k, v: cudnn_attention(q, k, v, 0), *in_bfloat16(1350))
    assert [call[1] for call in calls_of(text)] == ["CAUSAL"]


def test_a_mesh_lowers_to_kernels_of_each_devices_rows_and_heads(cudnn):
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=2, tensor=2))), nn.logical_axis_rules(RULES):
        text = lowered_for_cuda(lambda q, k, v: cudnn_attention(q, k, v, 4), *in_bfloat16(64))
    assert len(calls_of(text)) == 2
    assert re.search(r"dimensions\\22: \[\\221\\22, \\228\\22, \\2264\\22, \\2264\\22\]", text)


@pytest.mark.parametrize(
    ("name", "runs"),
    [("full", 2), ("attention", 1), ("dots", 1), ("dots_no_batch", 1), ("dots_except_widening", 1)],
)
def test_policies_keep_the_kernels_results_or_run_them_again(cudnn, name, runs):
    run = jax.checkpoint(lambda q, k, v: cudnn_attention(q, k, v, 0), policy=REMAT_POLICIES[name])
    grad = jax.grad(lambda args: jnp.sum(jnp.sin(run(*args).astype(jnp.float32))))
    jaxpr = jax.make_jaxpr(grad)(in_bfloat16(64)).jaxpr
    # As a compiler would: without what nothing needs.
    names = _primitives(partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0])
    assert names.count("dot_product_attention_fwd_wrapper") == runs
    assert names.count("dot_product_attention_bwd_wrapper") == 1


def _primitives(jaxpr):
    # Kernels have a program of their own inside, which says the same again.
    found = equations(jaxpr, lambda each: "dot_product_attention" in each.primitive.name)
    return [each.primitive.name for each in found]


def test_a_layer_takes_the_kernels_by_name(cudnn, key, monkeypatch):
    sizes = {"d_model": 16, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 16}
    layer = Block(BlockConfig(**sizes, attention="cudnn", dtype=jnp.bfloat16))
    x, rotation = jax.ShapeDtypeStruct((1, 9, 16), jnp.float32), np.ones((9, 8), np.float32)
    params = jax.eval_shape(lambda x: layer.init(key, x, rotation, 3), x)

    def apply(params, x, **more):
        return layer.apply(params, x, rotation, 3, **more)

    with pytest.raises(ValueError, match="'cudnn' is for NVIDIA GPUs, this program is for cpu"):
        jax.eval_shape(apply, params, x)
    with pytest.raises(ValueError, match="knows the order of raster only"):
        jax.eval_shape(lambda *args: apply(*args, visible=jnp.ones((9, 9), bool)), params, x)
    monkeypatch.setattr(attention_choice, "platform", lambda: "gpu")
    text = lowered_for_cuda(apply, params, x)
    assert [call[1:] for call in calls_of(text)] == [("CAUSAL", (10, 10)), ("PADDING", (4, 4))]


def test_no_gpu_takes_them_unasked(monkeypatch):
    for device, name in (("cpu", "plain"), ("gpu", "plain"), ("tpu", "splash")):
        monkeypatch.setattr(attention_choice, "platform", lambda device=device: device)
        assert attention_choice.chosen("auto") == name
    assert PrefixLMConfig(attention="cudnn").block.attention == "cudnn"


@pytest.mark.parametrize(
    ("dtype", "head_dim", "words"),
    [
        (jnp.float32, 64, "takes bfloat16 or float16, got float32; set PrefixLMConfig.dtype"),
        (jnp.bfloat16, 12, "a multiple of 8 up to 256 wide.*got head_dim=12"),
        (jnp.float16, 264, "a multiple of 8 up to 256 wide.*got head_dim=264"),
    ],
)
def test_what_cudnn_does_not_take_is_refused(key, dtype, head_dim, words):
    inputs = [x.astype(dtype) for x in draw(key, head_dim=head_dim)]
    with pytest.raises(ValueError, match=words):
        cudnn_attention(*inputs, 5)


def test_the_prefix_must_fit(key):
    with pytest.raises(ValueError, match="prefix_length=22 must lie between 0 and 21"):
        cudnn_attention(*draw(key), 22, "xla")
