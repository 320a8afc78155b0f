"""C3D fine-tuned on UCF-101, whose 101 logits the Inception Score of videos is made of.

As TGAN2 and MAGVIT have it: RGB becomes BGR, pictures become 112 x 112 on a grid that keeps the
corners, pixels of 0..255 plus a stored array (minus the mean clip), eight 3x3x3 convolutions, five
maxima, three dense layers. 78,409,573 numbers besides the stored array.

The steps were checked against the public code of TGAN2 (Chainer) and MAGVIT (Flax), the numbers
against torch with random weights (tests/evals/test_c3d.py). TGAN2 scales pixels by 256 where
MAGVIT has 255; here it is 255.

Axes: B clips, T frames, Y rows, X columns, C channels, V classes.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from poet.evals import resizing
from poet.typing import Array, Float, UInt8

# Without the stored array of 16 x 112 x 112 x 3.
NUM_NUMBERS = 78_409_573
NUM_FRAMES = 16
SIZE_PX = 112
CONVS = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
DENSES = ("fc6", "fc7", "fc8")
_POOLED_AFTER = ("conv1a", "conv2a", "conv3b", "conv4b", "conv5b")
_HIGHEST = jax.lax.Precision.HIGHEST


class C3D(nn.Module):
    """Logits of UCF-101.

    Attributes:
      channels: Of the eight convolutions.
      hidden: Of the first two dense layers.
      num_classes: V.
    """

    channels: tuple[int, ...] = (64, 128, 256, 256, 512, 512, 512, 512)
    hidden: int = 4096
    num_classes: int = 101

    @nn.compact
    def __call__(self, pixels: Float[Array, "B 16 112 112 3"]) -> Float[Array, "B V"]:
        """Logits of RGB clips of 0..255."""
        offset = self.param("offset", nn.initializers.zeros, pixels.shape[1:])
        x = pixels[..., ::-1] + offset[None]
        for name, features in zip(CONVS, self.channels, strict=True):
            x = nn.relu(nn.Conv(features, (3, 3, 3), precision=_HIGHEST, name=name)(x))
            if name == "conv5b":  # 7 x 7 has a last row and column that no window would reach.
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)))
            if name in _POOLED_AFTER:
                window = (1 if name == "conv1a" else 2, 2, 2)
                x = nn.max_pool(x, window, window)
        # Channels come first in the rows of the dense layer: it was trained in another framework.
        x = x.transpose(0, 4, 1, 2, 3).reshape(len(x), -1)
        for name in DENSES[:-1]:
            x = nn.relu(nn.Dense(self.hidden, precision=_HIGHEST, name=name)(x))
        return nn.Dense(self.num_classes, precision=_HIGHEST, name=DENSES[-1])(x)


class C3DLogits:
    """Logits of clips for `inception_score`, behind `features.FeatureExtractor`.

    Args:
      params: Of `C3D`, as `metric_weights.load` gives them.
      network: Its sizes.
    """

    def __init__(self, params: Mapping[str, Any], network: C3D | None = None):
        self._params = params
        self._apply = jax.jit((network or C3D()).apply)

    def features(self, clips: UInt8[np.ndarray, "B T Y X 3"]) -> Float[np.ndarray, "B V"]:
        """Logits before the softmax, float32.

        Raises:
          ValueError: The clips have another number of frames than 16.
        """
        if clips.shape[1] != NUM_FRAMES:
            raise ValueError(
                f"C3D sees {NUM_FRAMES} frames, got {clips.shape[1]}; cut the clips (the paper"
                " drops the last of 17)."
            )
        pixels = resizing.squash(clips, SIZE_PX, SIZE_PX, method="corners")
        return np.asarray(self._apply({"params": self._params}, jnp.asarray(pixels)))
