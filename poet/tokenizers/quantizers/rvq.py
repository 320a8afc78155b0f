"""Residual vector quantizer whose codebooks follow running means of what they are given.

Level 1 quantizes the latent, level 2 what level 1 left over, and so on (SoundStream;
spec/tokenizers.md c.2). The codebooks take no gradient: they are state. Every function is pure and
draws from the key it is given, so that training is a function of (seed, step).

Axes: B batch, L frames, M all frames of a batch, D latent width, Q levels, N codes a level.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from poet.typing import Array, Float, Int


class Codebooks(struct.PyTreeNode):
    """Centroids and the running sums they come from (centroid = sum / count).

    `is_started` is False until the first batch has placed the centroids.
    """

    # Any, not array types: trees of shapes and of shardings use the same class.
    centroids: Any  # [Q, N, D]
    counts: Any  # [Q, N]
    sums: Any  # [Q, N, D]
    is_started: Any  # []


class Quantized(struct.PyTreeNode):
    """One pass through the levels.

    Attributes:
      latents: Sum of the chosen centroids. Its gradient goes straight to the input.
      codes: Chosen centroid of every level.
      commitment: Mean squared distance of the residuals from their centroids (only active levels).
      inputs: What each level was given, for `update`; without gradient.
    """

    latents: Any  # [B, L, D]
    codes: Any  # [B, Q, L], int32
    commitment: Any  # []
    inputs: Any  # [Q, B, L, D]


def init(num_levels: int, codebook_size: int, latent_dim: int) -> Codebooks:
    """Empty codebooks; the first batch given to `start` places the centroids."""
    shape = (num_levels, codebook_size)
    return Codebooks(
        centroids=jnp.zeros((*shape, latent_dim), jnp.float32),
        counts=jnp.zeros(shape, jnp.float32),
        sums=jnp.zeros((*shape, latent_dim), jnp.float32),
        is_started=jnp.zeros((), bool),
    )


def quantize(
    centroids: Float[Array, "Q N D"],
    latents: Float[Array, "B L D"],
    num_active_levels: Int[Array, "B"] | None = None,
) -> Quantized:
    """Quantizes level by level.

    Args:
      num_active_levels: How many levels each example may use (quantizer dropout); None is all.
        Codes are chosen on every level, but inactive ones add nothing to latents or commitment.
    """
    num_levels = centroids.shape[0]
    if num_active_levels is None:
        num_active_levels = jnp.full(latents.shape[:1], num_levels)
    residual, total = latents, jnp.zeros_like(latents)
    codes, inputs, distances, weights = [], [], [], []
    for level in range(num_levels):
        is_active = (level < num_active_levels).astype(latents.dtype).reshape(-1, 1, 1)
        codes.append(nearest(centroids[level], jax.lax.stop_gradient(residual)))
        chosen = centroids[level][codes[-1]] * is_active
        inputs.append(residual)
        distances.append(jnp.sum(is_active * (residual - chosen) ** 2))
        weights.append(jnp.sum(is_active))
        residual, total = residual - chosen, total + chosen
    per_value = sum(weights) * latents.shape[1] * latents.shape[2]
    return Quantized(
        latents=latents + jax.lax.stop_gradient(total - latents),
        codes=jnp.stack(codes, axis=1),
        commitment=sum(distances) / per_value,
        inputs=jax.lax.stop_gradient(jnp.stack(inputs)),
    )


def lookup(centroids: Float[Array, "Q N D"], codes: Int[Array, "B Q L"]) -> Float[Array, "B L D"]:
    """Latents of the codes: the sum over levels. Codes must be in range (checked by the caller)."""
    return sum(centroids[level][codes[:, level]] for level in range(codes.shape[1]))


def nearest(centroids: Float[Array, "N D"], vectors: Float[Array, "*M D"]) -> Int[Array, "*M"]:
    """Index of the closest centroid; the lowest index wins a tie."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    # |v|^2 is the same for all centroids and left out.
    scores = 2 * flat @ centroids.T - jnp.sum(centroids**2, axis=-1)[None]
    return jnp.argmax(scores, axis=-1).astype(jnp.int32).reshape(vectors.shape[:-1])


def start(
    codebooks: Codebooks, latents: Float[Array, "B L D"], key: Array, is_time: Any = True
) -> Codebooks:
    """Places the centroids by k-means on these latents, level by level; only the first time.

    Args:
      is_time: False (it may be traced) leaves unstarted codebooks unstarted.
    """

    def place():
        residual = latents.reshape(-1, latents.shape[-1])
        centroids, counts = [], []
        for level_key in jax.random.split(key, codebooks.centroids.shape[0]):
            found = _k_means(residual, codebooks.centroids.shape[1], level_key)
            centroids.append(found[0])
            counts.append(found[1])
            residual = residual - found[0][nearest(found[0], residual)]
        stacked, counts = jnp.stack(centroids), jnp.stack(counts)
        return Codebooks(
            centroids=stacked,
            counts=counts,
            sums=stacked * counts[..., None],
            is_started=jnp.ones((), bool),
        )

    return jax.lax.cond(is_time & ~codebooks.is_started, place, lambda: codebooks)


def update(
    codebooks: Codebooks,
    quantized: Quantized,
    num_active_levels: Int[Array, "B"],
    key: Array,
    *,
    decay: float,
    dead_below: float,
) -> Codebooks:
    """Moves the running means towards one batch, and gives unused codes a new place.

    Codebooks that are not started stay as they are.

    Args:
      decay: Share of the old running sums kept (0.99 in the paper).
      dead_below: A code whose running count, in frames a batch, falls below this is put on a
        frame of this batch (2 in the paper, whose batches hold far more frames than codes). The
        paper draws the frame evenly; here a frame counts by its squared distance to its code,
        because most frames of steady sound already have a code that fits.
    """
    num_levels, num_codes, _ = codebooks.centroids.shape
    counts, sums, centroids = [], [], []
    for level, level_key in enumerate(jax.random.split(key, num_levels)):
        vectors = quantized.inputs[level].reshape(-1, quantized.inputs.shape[-1])
        is_active = jnp.repeat(level < num_active_levels, quantized.inputs.shape[2])
        codes = quantized.codes[:, level].reshape(-1)
        count, total = _assigned(codes, vectors, is_active, num_codes)
        count = decay * codebooks.counts[level] + (1 - decay) * count
        total = decay * codebooks.sums[level] + (1 - decay) * total
        is_dead = (count < dead_below)[:, None]
        chosen = codebooks.centroids[level][codes]
        fresh = _poorly_fitted(vectors, chosen, is_active, num_codes, level_key)
        # A replaced code starts with the count of a code in fair use, so that it has time to live.
        fair = jnp.maximum(jnp.sum(is_active) / num_codes, dead_below)
        count = jnp.where(is_dead[:, 0], fair, count)
        total = jnp.where(is_dead, fair * fresh, total)
        counts.append(count)
        sums.append(total)
        centroids.append(total / count[:, None])
    moved = codebooks.replace(
        centroids=jnp.stack(centroids), counts=jnp.stack(counts), sums=jnp.stack(sums)
    )
    return jax.tree.map(
        lambda new, old: jnp.where(codebooks.is_started, new, old), moved, codebooks
    )


def codes_used(codes: Int[Array, "B Q L"], codebook_size: int) -> Int[Array, "Q"]:
    """Number of different codes on each level."""
    is_used = jnp.zeros((codes.shape[1], codebook_size), bool)
    levels = jnp.arange(codes.shape[1]).reshape(1, -1, 1)
    return is_used.at[levels, codes].set(True).sum(axis=-1)


def _assigned(codes, vectors, is_active, num_codes):
    """Number and sum of the active vectors of each code."""
    one_hot = jax.nn.one_hot(codes, num_codes, dtype=vectors.dtype) * is_active.reshape(-1, 1)
    return one_hot.sum(axis=0), one_hot.T @ vectors


def _poorly_fitted(vectors, chosen, is_active, num_draws, key):
    """Active vectors drawn with chances that grow with the squared distance to their centroids."""
    distances = jnp.sum((vectors - chosen) ** 2, axis=-1)
    # A tenth of the mean keeps the draw alive where everything fits.
    weights = (distances + 0.1 * jnp.mean(distances) + 1e-12) * is_active
    heaps = jnp.cumsum(weights)
    draws = jax.random.uniform(key, (num_draws,)) * heaps[-1]
    return vectors[jnp.minimum(jnp.searchsorted(heaps, draws, side="right"), len(vectors) - 1)]


def _k_means(vectors, num_codes, key, num_rounds=10):
    """Lloyd's rounds from well spread starts; a cluster left empty keeps its place."""
    everything = jnp.ones(len(vectors), bool)

    def one_round(_, centroids):
        count, total = _assigned(nearest(centroids, vectors), vectors, everything, num_codes)
        return jnp.where(count[:, None] > 0, total / jnp.maximum(count, 1)[:, None], centroids)

    starts = _spread_out(vectors, num_codes, key)
    centroids = jax.lax.fori_loop(0, num_rounds, one_round, starts)
    count, _ = _assigned(nearest(centroids, vectors), vectors, everything, num_codes)
    return centroids, jnp.maximum(count, 1.0)


def _spread_out(vectors, num_codes, key):
    """Vectors drawn one by one, by chances that grow with the squared distance to those before.

    Sound holds still for long: plain draws would put most centroids on one spot.
    """
    noise = jax.random.gumbel(key, (num_codes, len(vectors)))

    def draw(code, carry):
        chosen, distances = carry
        vector = vectors[jnp.argmax(jnp.log(distances + 1e-12) + noise[code])]
        away = jnp.sum((vectors - vector[None]) ** 2, axis=-1)
        return chosen.at[code].set(vector), jnp.minimum(distances, away)

    nothing = jnp.zeros((num_codes, vectors.shape[-1]), vectors.dtype)
    far = jnp.full(len(vectors), 1e6, vectors.dtype)
    return jax.lax.fori_loop(0, num_codes, draw, (nothing, far))[0]
