"""From logits to one code a row.

Axes: B requests, V codes of the slot's own range.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poet.sample.requests import SamplingMode
from poet.typing import Array, Float, Int

_NEVER = -jnp.inf


def request_keys(seed: Any, request_ids: Any) -> Any:
    """One key a request, from the seed and the request's id; nothing else of the batch enters.

    Args:
      seed: Whole number below 2^32; may be traced.
      request_ids: uint32 [B, 2] from ``split_ids``.
    """
    base = jax.random.key(seed)

    def fold(words: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(base, words[0]), words[1])

    return jax.vmap(fold)(request_ids)


def split_ids(request_ids: Any) -> np.ndarray:
    """Whole numbers [B] below 2^64 as two 32-bit words each, uint32 [B, 2]."""
    wide = np.asarray(request_ids).astype(np.uint64)
    return np.stack([wide >> np.uint64(32), wide & np.uint64(2**32 - 1)], axis=-1).astype(np.uint32)


def guide(
    with_text: Float[Array, "B V"], without: Float[Array, "B V"], guidance: Any
) -> Float[Array, "B V"]:
    """l_u + s (l_c - l_u): 1 gives the logits with text, 0 those without, above 1 goes beyond."""
    return without + guidance * (with_text - without)


def choose(
    logits: Float[Array, "B V"],
    keys: Any,
    position: Any,
    mode: SamplingMode,
    temperature: Any = 1.0,
    top_p: Any = 1.0,
) -> Int[Array, " B"]:
    """One code a row: the likeliest, or a draw from the kept ones by the Gumbel rule.

    Args:
      logits: Of one slot's codes.
      keys: One a row, from ``request_keys``; unused when greedy.
      position: Of the token in the sequence; folded into the keys.
      mode: Static choices.
      temperature: Above 0; unused when greedy.
      top_p: Unused unless the mode says so.
    """
    if mode.is_greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = keep_likely(logits / temperature, mode, top_p)

    def noise(key: Array) -> Array:
        return jax.random.gumbel(jax.random.fold_in(key, position), logits.shape[-1:])

    return jnp.argmax(logits + jax.vmap(noise)(keys), axis=-1).astype(jnp.int32)


def keep_likely(
    logits: Float[Array, "B V"], mode: SamplingMode, top_p: Any = 1.0
) -> Float[Array, "B V"]:
    """Minus infinity for codes outside the k likeliest, then outside the mass ``top_p``."""
    if 0 < mode.top_k < logits.shape[-1]:
        kth = jax.lax.top_k(logits, mode.top_k)[0][:, -1:]
        logits = jnp.where(logits < kth, _NEVER, logits)
    if mode.has_top_p:
        ranked = -jnp.sort(-logits, axis=-1)
        mass = jnp.cumsum(jax.nn.softmax(ranked, axis=-1), axis=-1)
        # The first code that reaches the mass is kept, so that at least one always is.
        num_kept = jnp.sum(mass < top_p, axis=-1, keepdims=True)
        last = jnp.take_along_axis(ranked, jnp.minimum(num_kept, logits.shape[-1] - 1), axis=-1)
        logits = jnp.where(logits < last, _NEVER, logits)
    return logits
