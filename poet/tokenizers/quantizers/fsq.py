"""Finite scalar quantization: every channel is rounded to one of a few levels.

No codebook is learned and there is no loss: a channel is bounded by a shifted tanh, rounded, and
divided so that it lies in [-1, 1]. An id is a number in mixed radix, the first channel the lowest
digit. Finite Scalar Quantization (arXiv 2309.15505), section 3.1.

Axes: D channels, N tokens.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from poet.typing import Array, Float, Int

# The tanh reaches a little beyond the outer levels, so that they can be rounded to from inside.
_MARGIN = 1e-3


def check_levels(levels: tuple[int, ...]) -> None:
    """Raises ValueError unless there are channels, each of 2 levels or more, and ids fit int32."""
    if not levels or min(levels) < 2 or math.prod(levels) > 2**31 - 1:
        raise ValueError(
            f"fsq_levels={levels}: expected at least one channel, at least 2 levels in each and"
            " fewer than 2^31 codes in all; (8, 8, 8, 5, 5, 5) gives 64,000."
        )


def bounded(latents: Float[Array, "*N D"], levels: tuple[int, ...]) -> Float[Array, "*N D"]:
    """The latents squeezed into the range of their levels, whole numbers apart, not rounded.

    An even number of levels lies around -1/2, so that a latent of zero is a level all the same.
    """
    counts = _row(levels, latents.ndim)
    reach = (counts - 1.0) * (1.0 + _MARGIN) / 2.0
    offset = jnp.where(counts % 2 == 0, 0.5, 0.0)
    return jnp.tanh(latents + jnp.arctanh(offset / reach)) * reach - offset


def straight_through(
    latents: Float[Array, "*N D"], levels: tuple[int, ...]
) -> Float[Array, "*N D"]:
    """The levels in value, scaled to [-1, 1]; the bounded latents in gradient."""
    return hardening(latents, levels, jnp.float32(1.0))


def hardening(
    latents: Float[Array, "*N D"], levels: tuple[int, ...], hardness: Float[Array, ""]
) -> Float[Array, "*N D"]:
    """Between the bounded latents, at hardness 0, and their levels, at 1; as `lfq.hardening`."""
    soft = bounded(latents, levels)
    chosen = soft + hardness * jax.lax.stop_gradient(jnp.round(soft) - soft)
    return (chosen / _half_widths(levels, latents.ndim)).astype(latents.dtype)


def to_ids(latents: Float[Array, "*N D"], levels: tuple[int, ...]) -> Int[Array, "*N"]:
    """The id of each token's levels, int32 in [0, product of levels)."""
    places = jnp.round(bounded(latents.astype(jnp.float32), levels))
    digits = (places + _half_widths(levels, latents.ndim)).astype(jnp.int32)
    return jnp.sum(digits * _row(_bases(levels), latents.ndim), axis=-1)


def from_ids(ids: Int[Array, "*N"], levels: tuple[int, ...]) -> Float[Array, "*N D"]:
    """The values in [-1, 1], float32, that `straight_through` gave where `to_ids` gave these."""
    rank = ids.ndim + 1
    digits = (ids[..., None] // _row(_bases(levels), rank)) % _row(levels, rank)
    half_widths = _half_widths(levels, rank)
    return ((digits - half_widths) / half_widths).astype(jnp.float32)


@functools.cache
def _bases(levels: tuple[int, ...]) -> tuple[int, ...]:
    """What one step of each channel weighs in an id."""
    return (1, *(int(base) for base in np.cumprod(levels[:-1])))


def _half_widths(levels, rank):
    return _row(tuple(count // 2 for count in levels), rank)


def _row(numbers, rank):
    return jnp.asarray(numbers, jnp.int32).reshape((1,) * (rank - 1) + (-1,))
