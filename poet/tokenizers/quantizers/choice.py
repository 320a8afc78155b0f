"""One face for the quantizers of the visual tokenizer, so that its layers need not know which.

Axes: D channels of a latent, N tokens.
"""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax.numpy as jnp

from poet.tokenizers.quantizers import fsq, lfq
from poet.typing import Array, Float, Int


@runtime_checkable
class Quantizer(Protocol):
    """Latents to a few values a channel, and to ids."""

    @property
    def num_channels(self) -> int: ...

    @property
    def num_codes(self) -> int: ...

    def quantize(
        self, latents: Float[Array, "*N D"], hardness: Float[Array, ""] | None = None
    ) -> Float[Array, "*N D"]:
        """Quantized in value, differentiable; `hardness` below 1 is in between, None is 1."""
        ...

    def to_ids(self, latents: Float[Array, "*N D"]) -> Int[Array, "*N"]: ...

    def from_ids(self, ids: Int[Array, "*N"]) -> Float[Array, "*N D"]: ...

    def losses(
        self, latents: Float[Array, "*N D"], step: Int[Array, ""], config: lfq.LfqLossConfig
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]: ...


@dataclasses.dataclass(frozen=True)
class Lfq:
    """Lookup-free: the signs of `num_bits` channels (`lfq`)."""

    num_bits: int

    @property
    def num_channels(self) -> int:
        return self.num_bits

    @property
    def num_codes(self) -> int:
        return 2**self.num_bits

    def quantize(self, latents, hardness=None):
        if hardness is None:
            return lfq.straight_through(latents)
        return lfq.hardening(latents, hardness)

    def to_ids(self, latents):
        return lfq.to_ids(latents)

    def from_ids(self, ids):
        return lfq.from_ids(ids, self.num_bits)

    def losses(self, latents, step, config):
        return lfq.losses(latents, step, config)


@dataclasses.dataclass(frozen=True)
class Fsq:
    """Finite scalar: every channel rounded to its number of levels (`fsq`). Has no losses."""

    levels: tuple[int, ...]

    def __post_init__(self):
        fsq.check_levels(self.levels)

    @property
    def num_channels(self) -> int:
        return len(self.levels)

    @property
    def num_codes(self) -> int:
        return math.prod(self.levels)

    def quantize(self, latents, hardness=None):
        if hardness is None:
            return fsq.straight_through(latents, self.levels)
        return fsq.hardening(latents, self.levels, hardness)

    def to_ids(self, latents):
        return fsq.to_ids(latents, self.levels)

    def from_ids(self, ids):
        return fsq.from_ids(ids, self.levels)

    def losses(self, latents, step, config):
        del latents, step, config
        return jnp.float32(0.0), {}
