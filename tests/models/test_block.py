"""A layer on a mesh that splits sequences, and what its backward pass forms again."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import mesh_programs
import numpy as np
import pytest
from flax.core import meta
from jax.interpreters import partial_eval

from poet.layers.position import rotation_table
from poet.models.block import Block, BlockConfig
from poet.models.config import REMAT_POLICIES
from poet.train.partitioning import RULES

LENGTH, PREFIX = 12, 5
KERNELS = ("query", "key", "value", "out", "gate", "up", "down")
# Two key heads for four query heads: on four devices each is needed by two of them.
BLOCK = Block(BlockConfig(d_model=8, num_heads=4, num_kv_heads=2, head_dim=4, mlp_dim=8))


def compiled_on(shape):
    """(the compiled gradients, their arguments)."""
    rotation = rotation_table(LENGTH, 4)
    x = jax.random.normal(jax.random.key(1), (2, LENGTH, 8))
    params = meta.unbox(BLOCK.init(jax.random.key(0), x, rotation, PREFIX))

    def total(params, x):
        return jnp.sum(jnp.sin(BLOCK.apply(params, x, rotation, PREFIX)))

    with jax.set_mesh(mesh_programs.mesh_of(*shape)), nn.logical_axis_rules(RULES):
        grad = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
        return grad.lower(params, x).compile(), (params, x)


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (1, 1, 4, 1)])
def test_heads_are_exchanged_for_positions(shape):
    compiled, args = compiled_on((1, 1, 1, 1))
    split, _ = compiled_on(shape)
    for got, want in zip(*map(jax.tree.leaves, (split(*args), compiled(*args))), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    text = split.as_text()
    # Queries, keys, values and the result, there and in the backward pass.
    assert text.count(" all-to-all(") >= 8 and " all-to-all(" not in compiled.as_text()


def products_of_backward(policy):
    """{name of the kernel: products that the backward pass forms for it}."""
    rotation = rotation_table(LENGTH, 4)
    x, weights = jax.random.normal(jax.random.key(1), (2, 2, LENGTH, 8))
    params = meta.unbox(BLOCK.init(jax.random.key(0), x, rotation, PREFIX))

    def total(params, x):
        # Linear in the layer's result, as is the stream that the next layer adds to.
        return jnp.sum(weights * BLOCK.apply(params, x, rotation, PREFIX))

    loss = jax.checkpoint(total, policy=REMAT_POLICIES[policy])
    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(params, x).jaxpr
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    (backward,) = (e for e in jaxpr.eqns if "remat" in e.primitive.name)
    counts = collections.Counter()
    for equation in backward.params["jaxpr"].eqns:
        if equation.primitive.name == "dot_general":
            places = str(equation.source_info.name_stack).replace(")", "/").split("/")
            counts[next((part for part in reversed(places) if part in KERNELS), "other")] += 1
    return counts


def test_a_policy_forms_the_wide_products_of_a_layer_again():
    """Of products with weights: two a kernel are gradients, a third is its result, formed again."""
    kept, narrow, full = map(products_of_backward, ("dots", "dots_except_widening", "full"))
    assert {name: kept[name] for name in KERNELS} == dict.fromkeys(KERNELS, 2)
    wide = {"gate", "up"}
    assert {name for name in KERNELS if narrow[name] == 3} == wide
    # Nothing needs what `down` makes but the sum, which is the next layer's input.
    assert {name for name in KERNELS if full[name] == 3} == set(KERNELS) - {"down"}
