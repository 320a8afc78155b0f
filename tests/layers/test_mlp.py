import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from poet.layers.mlp import GatedMLP


def test_is_the_gated_formula(key):
    mlp = GatedMLP(hidden_dim=6)
    x = jax.random.normal(key, (2, 3, 4))
    params = meta.unbox(mlp.init(key, x))
    gate, up, down = (params["params"][name]["kernel"] for name in ("gate", "up", "down"))
    want = (jax.nn.silu(x @ gate) * (x @ up)) @ down
    np.testing.assert_allclose(mlp.apply(params, x), want, atol=1e-6)
    assert not jax.tree.map(jnp.ndim, params)["params"].keys() - {"gate", "up", "down"}
