"""One face for the quantizers of the visual tokenizer, so that its layers need not know which.

Axes: D channels of a latent, N tokens, G ids a token.
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

    def group_sizes(self, num_groups: int) -> tuple[int, ...]:
        """Ids of each group when a code is split by channels, see `to_group_ids`."""
        ...

    def losses(
        self, latents: Float[Array, "*N D"], step: Int[Array, ""], config: lfq.LfqLossConfig
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]: ...


def to_group_ids(
    quantizer: Quantizer, ids: Int[Array, "*N"], num_groups: int
) -> Int[Array, "*N G"]:
    """Splits each id into several smaller ones, those of the first channels first.

    A model then predicts G small distributions in place of one over all codes (MAGVIT-v2; 2^18
    codes as two groups of 2^9).
    """
    parts = []
    for size in quantizer.group_sizes(num_groups):
        parts.append(ids % size)
        ids = ids // size
    return jnp.stack(parts, axis=-1)


def from_group_ids(quantizer: Quantizer, group_ids: Int[Array, "*N G"]) -> Int[Array, "*N"]:
    """Joins what `to_group_ids` split."""
    ids = jnp.zeros_like(group_ids[..., 0])
    sizes = quantizer.group_sizes(group_ids.shape[-1])
    for group in reversed(range(len(sizes))):
        ids = ids * sizes[group] + group_ids[..., group]
    return ids


def _grouped(levels: tuple[int, ...], num_groups: int) -> tuple[int, ...]:
    """Products of the levels of ceil(D / G) channels each; the last group may have fewer."""
    if not 1 <= num_groups <= len(levels):
        raise ValueError(
            f"{num_groups} groups of {len(levels)} channels: expected 1 to {len(levels)} groups."
        )
    each = math.ceil(len(levels) / num_groups)
    parts = [levels[at : at + each] for at in range(0, len(levels), each)]
    if len(parts) != num_groups:
        raise ValueError(
            f"{len(levels)} channels in groups of {each} make {len(parts)} groups, not"
            f" {num_groups}; ask for {len(parts)}."
        )
    return tuple(math.prod(part) for part in parts)


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

    def group_sizes(self, num_groups):
        return _grouped((2,) * self.num_bits, num_groups)

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

    def group_sizes(self, num_groups):
        return _grouped(tuple(self.levels), num_groups)

    def losses(self, latents, step, config):
        del latents, step, config
        return jnp.float32(0.0), {}
