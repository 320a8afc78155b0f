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

# A running count of no use: the centroid stays where it is.
_TINY = 1e-6
# Every value of a centroid that has no place yet.
_PARKED = 1e4


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
    scores = _exactly(2 * flat, centroids.T) - jnp.sum(centroids**2, axis=-1)[None]
    return jnp.argmax(scores, axis=-1).astype(jnp.int32).reshape(vectors.shape[:-1])


def start(
    codebooks: Codebooks,
    latents: Float[Array, "B L D"],
    key: Array,
    is_time: Any = True,
    place_above: float = 0.0,
) -> Codebooks:
    """Places the centroids by k-means on these latents, level by level; only the first time.

    Args:
      is_time: False (it may be traced) leaves unstarted codebooks unstarted.
      place_above: As in `update`; codes without a place are parked far away.
    """

    def place():
        residual = latents.reshape(-1, latents.shape[-1])
        enough = place_above * _variance(residual)
        centroids, counts = [], []
        for level_key in jax.random.split(key, codebooks.centroids.shape[0]):
            found = _k_means(residual, codebooks.centroids.shape[1], level_key, enough)
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
    place_above: float = 0.0,
) -> Codebooks:
    """Moves the running means towards one batch, and gives unused codes a new place.

    Codebooks that are not started stay as they are.

    Args:
      decay: Share of the old running sums kept (0.99 in the paper).
      dead_below: A code whose running count, in frames a batch, falls below this is put on a
        frame of this batch (2 in the paper, whose batches hold far more frames than codes). The
        paper draws the frame evenly; here a frame counts by its squared distance to its code,
        because most frames of steady sound already have a code that fits.
      place_above: Only frames whose squared distance to their code exceeds this share of the
        variance of the latents may receive one; if none does, unused codes stay where they are.
    """
    num_levels, num_codes, latent_dim = codebooks.centroids.shape
    enough = place_above * _variance(quantized.inputs[0].reshape(-1, latent_dim))
    counts, sums, centroids = [], [], []
    for level, level_key in enumerate(jax.random.split(key, num_levels)):
        vectors = quantized.inputs[level].reshape(-1, latent_dim)
        is_active = jnp.repeat(level < num_active_levels, quantized.inputs.shape[2])
        codes = quantized.codes[:, level].reshape(-1)
        count, total = _assigned(codes, vectors, is_active, num_codes)
        count = decay * codebooks.counts[level] + (1 - decay) * count
        total = decay * codebooks.sums[level] + (1 - decay) * total
        weights = _misfit(vectors, codebooks.centroids[level][codes], is_active, enough)
        is_placed, place = _places(weights, count < dead_below, level_key)
        # A placed code starts with the count of a code in fair use, so that it has time to live.
        fair = jnp.maximum(jnp.sum(is_active) / num_codes, dead_below)
        count = jnp.where(is_placed, fair, count)
        total = jnp.where(is_placed[:, None], fair * vectors[place], total)
        counts.append(count)
        sums.append(total)
        mean = total / jnp.maximum(count, _TINY)[:, None]
        centroids.append(jnp.where(count[:, None] > _TINY, mean, codebooks.centroids[level]))
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
    return one_hot.sum(axis=0), _exactly(one_hot.T, vectors)


def _exactly(left, right):
    """Matrix product in float32: GPUs and TPUs would round the running means to fewer bits."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def _misfit(vectors, chosen, is_active, enough):
    """Squared distances of active vectors to their centroids; 0 where it is at most `enough`."""
    distances = jnp.sum((vectors - chosen) ** 2, axis=-1)
    return jnp.where(is_active & (distances > enough), distances, 0.0)


def _places(weights, is_dead, key):
    """Which dead codes are placed, and where: no vector twice, drawn by their weights."""
    order = jnp.argsort(-(jnp.log(weights) + jax.random.gumbel(key, weights.shape)))
    rank = jnp.cumsum(is_dead) - 1
    is_placed = is_dead & (rank < jnp.sum(weights > 0))
    return is_placed, order[jnp.clip(rank, 0, len(weights) - 1)]


def _variance(vectors):
    """Mean squared distance of the vectors to their mean."""
    return jnp.mean(jnp.sum((vectors - vectors.mean(axis=0, keepdims=True)) ** 2, axis=-1))


def _k_means(vectors, num_codes, key, enough, num_rounds=10):
    """Lloyd's rounds from well spread starts; a cluster left empty keeps its place."""
    everything = jnp.ones(len(vectors), bool)

    def one_round(_, centroids):
        count, total = _assigned(nearest(centroids, vectors), vectors, everything, num_codes)
        return jnp.where(count[:, None] > 0, total / jnp.maximum(count, 1)[:, None], centroids)

    starts = _spread_out(vectors, num_codes, key, enough)
    centroids = jax.lax.fori_loop(0, num_rounds, one_round, starts)
    count, _ = _assigned(nearest(centroids, vectors), vectors, everything, num_codes)
    return centroids, count


def _spread_out(vectors, num_codes, key, enough):
    """Vectors drawn one by one, by chances that grow with the squared distance to those before.

    Once no distance exceeds `enough`, the rest are parked far away, where no frame finds them.

    Sound holds still for long: plain draws would put most centroids on one spot.
    """
    noise = jax.random.gumbel(key, (num_codes, len(vectors)))

    def draw(code, carry):
        chosen, distances = carry
        vector = vectors[jnp.argmax(jnp.log(distances + 1e-12) + noise[code])]
        vector = jnp.where(distances.max() > enough, vector, _PARKED)
        away = jnp.sum((vectors - vector[None]) ** 2, axis=-1)
        return chosen.at[code].set(vector), jnp.minimum(distances, away)

    nothing = jnp.zeros((num_codes, vectors.shape[-1]), vectors.dtype)
    far = jnp.full(len(vectors), 1e6, vectors.dtype)  # so that the first is drawn evenly
    return jax.lax.fori_loop(0, num_codes, draw, (nothing, far))[0]
