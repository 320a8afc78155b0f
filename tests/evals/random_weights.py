"""Networks with random weights, scaled so that all layers are alive, and tiny ones of two kinds."""

import jax
import jax.numpy as jnp
import numpy as np

from poet.evals import c3d, metric_weights, vggish
from poet.evals.metric_weights import Network

TINY_C3D = Network(
    module=c3d.C3D(channels=(3, 4, 4, 5, 5, 6, 6, 6), hidden=10, num_classes=7),
    inputs=(jax.ShapeDtypeStruct((1, 16, 112, 112, 3), jnp.float32),),
)
TINY_VGGISH = Network(
    module=vggish.VGGish(channels=(3, 4, 4, 5, 5, 6), hidden=10, num_features=8),
    inputs=(jax.ShapeDtypeStruct((1, 96, 64), jnp.float32),),
)


def random_params(network: Network, seed: int = 0) -> dict[str, np.ndarray]:
    """Name with slashes -> float32."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in network.shapes().items():
        draws = rng.standard_normal(shape, np.float32)
        if name.endswith("kernel"):
            draws *= np.float32(np.sqrt(2 / np.prod(shape[:-1])))
        elif name == "offset":
            draws *= 100  # As pixels of 0..255.
        params[name] = np.abs(draws) + 0.5 if name.endswith("variance") else draws
    return params


def random_i3d() -> dict[str, np.ndarray]:
    """I3D of the published size."""
    return random_params(metric_weights.network_of("i3d"))
