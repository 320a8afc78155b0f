"""Dropout of whole channels."""

import flax.linen as nn

from poet.typing import Array, Float


class ChannelDropout(nn.Module):
    """Zeroes channels of each example at all its positions, and enlarges the others to make up.

    One draw serves all positions, as in T5: fewer random bits, and no channel can be read from a
    neighbouring position. Does nothing unless apply is given a "dropout" key.

    Attributes:
      rate: Share of the channels, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        if not self.rate or not self.has_rng("dropout"):
            return x
        return nn.Dropout(self.rate, broadcast_dims=(-2,), deterministic=False)(x)
