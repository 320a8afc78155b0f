import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from poet.layers.linear import Linear


def test_contracts_the_last_axes(key):
    x = jax.random.normal(key, (2, 5, 3, 4))
    layer = Linear((3, 4), (6, 2), ("heads", "kv", "embed", None))
    params = meta.unbox(layer.init(key, x))
    kernel = params["params"]["kernel"]
    assert kernel.shape == (3, 4, 6, 2)
    want = jnp.einsum("blnh,nhde->blde", x, kernel)
    np.testing.assert_allclose(layer.apply(params, x), want, atol=1e-5)


def test_variance_at_initialisation(key):
    x = jax.random.normal(key, (512, 64))
    layer = Linear((64,), (4, 64), ("embed", "heads", "kv"), scale=0.25)
    assert abs(float(layer.init_with_output(key, x)[0].var()) - 0.25) < 0.03


def test_logical_axes_hold_on_a_mesh(key):
    """The kernel has its full shape when the constraint on it is applied (flax issue 3676)."""
    mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    layer = Linear((8,), (2, 4), ("embed", "heads", "kv"))
    rules = (("embed", "fsdp"), ("heads", "tensor"), ("kv", None))
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        boxed = jax.jit(layer.init)(key, jnp.ones((2, 8)))
        specs = nn.logical_to_mesh(nn.get_partition_spec(boxed))
        out = jax.jit(layer.apply)(meta.unbox(boxed), jnp.ones((2, 8)))
    assert specs["params"]["kernel"] == jax.sharding.PartitionSpec("fsdp", "tensor", None)
    assert out.shape == (2, 2, 4)
