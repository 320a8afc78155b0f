"""VGGish (arXiv 1609.09430): the 128 numbers of a log-mel example that FAD is made of.

Six 3x3 convolutions, four maxima, three dense layers, no ReLU after the last one and no PCA:
72,141,184 numbers. What comes before it is in `frechet_audio`.

Layers were checked against the public TF-Slim definition, the order of the dense layer's rows also
against torchvggish; the numbers against torch with random weights (tests/evals/test_vggish.py).
With published weights, three seconds of a 1 kHz sine give a mean of 0.000657 and a deviation of
0.343, each within a tenth (VGGish's own smoke test).

Axes: N examples, D features.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from poet.evals.features import filled
from poet.typing import Array, Float

NUM_NUMBERS = 72_141_184
CONVS = ("conv1", "conv2", "conv3_1", "conv3_2", "conv4_1", "conv4_2")
DENSES = ("fc1_1", "fc1_2", "fc2")
_POOLED_AFTER = ("conv1", "conv2", "conv3_2", "conv4_2")
_HIGHEST = jax.lax.Precision.HIGHEST


class VGGish(nn.Module):
    """Embeddings of log-mel examples.

    Attributes:
      channels: Of the six convolutions.
      hidden: Of the first two dense layers.
      num_features: D.
    """

    channels: tuple[int, ...] = (64, 128, 256, 256, 512, 512)
    hidden: int = 4096
    num_features: int = 128

    @nn.compact
    def __call__(self, examples: Float[Array, "N 96 64"]) -> Float[Array, "N D"]:
        x = examples[..., None]
        for name, features in zip(CONVS, self.channels, strict=True):
            x = nn.relu(nn.Conv(features, (3, 3), precision=_HIGHEST, name=name)(x))
            if name in _POOLED_AFTER:
                x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)  # Time, then mel, then channels.
        for name in DENSES[:-1]:
            x = nn.relu(nn.Dense(self.hidden, precision=_HIGHEST, name=name)(x))
        return nn.Dense(self.num_features, precision=_HIGHEST, name=DENSES[-1])(x)


class VGGishFeatures:
    """FAD's features of examples, behind `frechet_audio.SoundExtractor`.

    Args:
      params: Of `VGGish`, as `metric_weights.load` gives them.
      network: Its sizes.
      batch_size: The most examples that the network sees at once.
    """

    def __init__(
        self, params: Mapping[str, Any], network: VGGish | None = None, *, batch_size: int = 32
    ):
        if batch_size < 1:
            raise ValueError(f"Expected a batch of at least 1 example, got {batch_size}.")
        network = network or VGGish()
        self._params, self._batch_size = params, batch_size
        self._num_features, self._apply = network.num_features, jax.jit(network.apply)

    def features(self, examples: Float[np.ndarray, "N 96 64"]) -> Float[np.ndarray, "N D"]:
        """Embeddings, float32."""
        rows = [np.zeros((0, self._num_features), np.float32)]
        for start in range(0, len(examples), self._batch_size):
            batch = np.asarray(examples[start : start + self._batch_size], np.float32)
            whole = jnp.asarray(filled(batch, self._batch_size))
            found = self._apply({"params": self._params}, whole)
            rows.append(np.asarray(found)[: len(batch)])
        return np.concatenate(rows)
