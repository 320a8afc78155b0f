"""The language model with products in 8 bits: near the plain one, with the same parameters."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
import tiny_lm
from flax.core import meta

from poet.models.config import PrefixLMConfig
from poet.models.prefix_lm import PrefixLM
from poet.train import lora

PLAN = "image_to_video"


def config_of(matmuls, remat_policy="none"):
    return dataclasses.replace(tiny_lm.CONFIG, matmuls=matmuls, remat_policy=remat_policy)


def loss_of(config):
    model, plan, batch = PrefixLM(config), tiny_lm.plan_of(PLAN), tiny_lm.batch_of(PLAN)

    def loss(params, **more):
        return model.apply({"params": params, **more}, plan, batch, method="loss")[0]

    return loss


@pytest.fixture(scope="module")
def plain():
    """(loss, gradients) of the plain products."""
    return jax.jit(jax.value_and_grad(loss_of(config_of("plain"))))(tiny_lm.lively_params())


@pytest.fixture(scope="module")
def int8_step():
    pytest.importorskip("qwix", reason="qwix is not installed: make setup EXTRAS=quant")
    return jax.jit(jax.value_and_grad(loss_of(config_of("int8"))))


def cosines(got, want):
    """Name -> cosine of two gradients of a parameter, the larger ones only."""
    norm = np.linalg.norm
    most = max(float(norm(leaf)) for leaf in jax.tree.leaves(want))
    pairs = zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True)
    return {
        jax.tree_util.keystr(path): float((a * b).sum() / norm(a) / norm(b))
        for (path, a), b in pairs
        if norm(b) > 1e-3 * most
    }


def test_the_step_is_near_the_plain_one(int8_step, plain):
    loss, gradients = int8_step(tiny_lm.lively_params())
    assert 0 < abs(loss / plain[0] - 1) < 0.01
    found = cosines(gradients, plain[1])
    assert len(found) > 10 and min(found.values()) > 0.98, found


@pytest.mark.slow
def test_fp8_is_near_it_too(plain):
    pytest.importorskip("qwix", reason="qwix is not installed: make setup EXTRAS=quant")
    loss = jax.jit(loss_of(config_of("fp8")))(tiny_lm.lively_params())
    assert 0 < abs(loss / plain[0] - 1) < 0.03


@pytest.mark.slow
def test_rematerialisation_changes_nothing(int8_step):
    again = jax.jit(jax.value_and_grad(loss_of(config_of("int8", "full"))))
    got, want = (step(tiny_lm.lively_params()) for step in (again, int8_step))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    assert min(cosines(got[1], want[1]).values()) > 0.9999


@pytest.mark.slow
def test_a_few_steps_learn(int8_step):
    params, losses = tiny_lm.lively_params(), []
    for _ in range(5):
        loss, gradients = int8_step(params)
        losses.append(float(loss))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
    assert losses[-1] < 0.9 * losses[0], losses


def test_the_layers_kernels_alone_multiply_8_bit_numbers(int8_step):
    """Seven kernels, in the one program of all layers, forward and backward; not head, not loss."""
    text = int8_step.lower(tiny_lm.lively_params()).as_text()
    dots = [line for line in text.splitlines() if "dot_general" in line]
    assert sum("xi8>" in line for line in dots) == 2 * 7
    assert len(dots) > 3 * 7


def test_parameters_are_the_plain_ones():
    plan, batch = tiny_lm.plan_of("unconditional"), tiny_lm.batch_of("unconditional")
    model, key = PrefixLM(config_of("int8")), jax.random.key(0)
    made = jax.eval_shape(lambda key: model.init(key, plan, batch)["params"], key)
    like = jax.eval_shape(lambda: tiny_lm.boxed_params())
    assert jax.tree.structure(made) == jax.tree.structure(like)
    assert nn.get_partition_spec(made) == nn.get_partition_spec(like)
    shapes = [jax.tree.map(lambda leaf: leaf.shape, meta.unbox(tree)) for tree in (made, like)]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_adapters_train_through_8_bits(plain):
    """The base's products are of 8 bits, those of the adapters of the layer's type."""
    pytest.importorskip("qwix", reason="qwix is not installed: make setup EXTRAS=quant")
    config, params = lora.LoraConfig(rank=2), tiny_lm.lively_params()
    adapters = lora.init(config, params, jax.random.key(0))

    loss = loss_of(config_of("int8"))

    def merged(pair):
        return lora.merge(config, params, pair)

    got = jax.jit(jax.grad(lambda pair: loss(**lora.beside(config, params, pair))))(adapters)
    (want,) = jax.jit(lambda grads: jax.vjp(merged, adapters)[1](grads))(plain[1])
    found = cosines(got, want)
    assert len(found) == 7 and min(found.values()) > 0.98, found


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="matmuls='int4' is unknown; choose one of plain, int8, f"):
        PrefixLMConfig(matmuls="int4")
