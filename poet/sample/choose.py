"""From logits to one code a row.

A draw inverts the distribution at one uniform number a row, found in two steps: the block of codes
that holds it, then the code in the block. That reads the logits twice and sorts nothing; noise for
every code of a vocabulary of 2^18 took longer than the model's layers (docs/benchmarks.md).

Axes: B rows, V codes of the slot's own range.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poet.sample.requests import SamplingMode
from poet.typing import Array, Bool, Float, Int

# Codes a block of the two-step search.
_BLOCK = 512


def request_keys(seeds: Any, request_ids: Any) -> Any:
    """One key a request, from its seed and its id; nothing else of the batch enters.

    Args:
      seeds: uint32 [B].
      request_ids: uint32 [B, 2] from ``split_ids``.
    """

    def fold(seed: Array, words: Array) -> Array:
        base = jax.random.key(seed)
        return jax.random.fold_in(jax.random.fold_in(base, words[0]), words[1])

    return jax.vmap(fold)(seeds, request_ids)


def split_ids(request_ids: Any) -> np.ndarray:
    """Whole numbers [B] below 2^64 as two 32-bit words each, uint32 [B, 2]."""
    wide = np.asarray(request_ids).astype(np.uint64)
    return np.stack([wide >> np.uint64(32), wide & np.uint64(2**32 - 1)], axis=-1).astype(np.uint32)


def guide(
    with_text: Float[Array, "B V"], without: Float[Array, "B V"], guidance: Any
) -> Float[Array, "B V"]:
    """l_u + s (l_c - l_u): 1 gives the logits with text, 0 those without, above 1 goes beyond.

    Rows of guidance 1 are exactly those with text, as if they had not been in a guided batch.
    """
    guidance = jnp.asarray(guidance, jnp.float32)
    if guidance.ndim:
        guidance = guidance[:, None]
    return jnp.where(guidance == 1, with_text, without + guidance * (with_text - without))


def choose(
    logits: Float[Array, "B V"],
    keys: Any,
    positions: Any,
    mode: SamplingMode,
    settings: Any,
) -> Int[Array, " B"]:
    """One code a row: the likeliest, or a draw from the kept ones.

    Args:
      logits: Of one slot's codes.
      keys: One a row, from ``request_keys``.
      positions: [B], of the tokens in their sequences; folded into the keys.
      mode: Which settings the batch uses at all; static.
      settings: "temperature" (0: the likeliest), "top_k" (0: all) and "top_p" (1: all), each [B].
    """
    if mode.is_greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    uniform = jax.vmap(lambda key, at: jax.random.uniform(jax.random.fold_in(key, at)))
    codes = invert(kept_shares(logits, mode, settings), uniform(keys, positions))
    if mode.has_greedy:
        likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        codes = jnp.where(settings["temperature"] == 0, likeliest, codes)
    return codes


def kept_shares(
    logits: Float[Array, "B V"], mode: SamplingMode, settings: Any
) -> Float[Array, "B V"]:
    """Unnormalised probabilities, 0 outside the k likeliest, then outside the mass ``top_p``."""
    temperature = settings["temperature"]
    temperature = jnp.where(temperature == 0, 1.0, temperature)[:, None]
    top = jnp.max(logits, axis=-1, keepdims=True)
    shares = jnp.exp((logits - top) / temperature)
    if mode.has_top_k:
        wanted = settings["top_k"]

        def has_k(kept: Bool[Array, "B V"]) -> Bool[Array, " B"]:
            return jnp.sum(kept, axis=-1) >= wanted

        low = jnp.where(wanted > 0, _largest_threshold(shares, has_k), 0.0)
        shares = jnp.where(shares >= low[:, None], shares, 0.0)
    if mode.has_top_p:
        top_p = settings["top_p"]
        total = jnp.sum(shares, axis=-1)

        def has_mass(kept: Bool[Array, "B V"]) -> Bool[Array, " B"]:
            return jnp.sum(jnp.where(kept, shares, 0.0), axis=-1) >= top_p * total

        low = jnp.where(top_p < 1, _largest_threshold(shares, has_mass), 0.0)
        shares = jnp.where(shares >= low[:, None], shares, 0.0)
    return shares


def invert(shares: Float[Array, "B V"], uniform: Float[Array, " B"]) -> Int[Array, " B"]:
    """The code at which the running sum of shares passes ``uniform`` (in [0, 1)) of their total.

    Codes of share 0 are never returned; every row has a share above 0.
    """
    padded = jnp.pad(shares, ((0, 0), (0, -shares.shape[1] % _BLOCK)))
    blocks = padded.reshape(shares.shape[0], -1, _BLOCK)
    sums = jnp.sum(blocks, axis=-1)
    ends = jnp.cumsum(sums, axis=-1)
    at = uniform * ends[:, -1]
    block = _passing(sums, ends, at)[:, None]
    rows = jnp.take_along_axis(blocks, block[:, :, None], axis=1)[:, 0]
    start = jnp.take_along_axis(ends - sums, block, axis=1)[:, 0]
    inside = _passing(rows, jnp.cumsum(rows, axis=-1), at - start)
    return (block[:, 0] * _BLOCK + inside).astype(jnp.int32)


def log_shares(logits: Float[Array, "B V"], codes: Int[Array, " B"]) -> Float[Array, " B"]:
    """Log probability of a code a row under the model itself: temperature 1, nothing left out."""
    chosen = jnp.take_along_axis(logits, codes[:, None], axis=-1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def _passing(shares: Array, ends: Array, at: Array) -> Array:
    """Where a running sum passes ``at``, among shares above 0; the largest where rounding hides it.

    Sums by different trees differ in the last bit, so that neither end can be trusted alone.
    """
    passes = (ends > at[:, None]) & (shares > 0)
    return jnp.where(
        jnp.any(passes, axis=-1), jnp.argmax(passes, axis=-1), jnp.argmax(shares, axis=-1)
    )


def _largest_threshold(shares: Float[Array, "B V"], is_enough: Any) -> Float[Array, " B"]:
    """The largest share t of each row for which the codes of share t or more are enough.

    Shares lie in [0, 1], where the bits of a float grow with its value: 31 halvings find the exact
    number without sorting. Equal shares stay or go together.
    """
    num_rows = shares.shape[0]

    def halve(_: Any, bounds: Any) -> Any:
        low, high = bounds
        middle = low + (high - low) // 2
        threshold = jax.lax.bitcast_convert_type(middle, jnp.float32)
        enough = is_enough(shares >= threshold[:, None])
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    one = jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32)
    bounds = (jnp.zeros(num_rows, jnp.int32), jnp.full(num_rows, one + 1))
    low, _ = jax.lax.fori_loop(0, 31, halve, bounds)
    return jax.lax.bitcast_convert_type(low, jnp.float32)
