"""Prefix-LM attention without a mask tensor.

Axes: B batch, L queries, M keys, N query heads, K key/value heads (K divides N), G = N / K query
heads a key head, H head width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from poet.typing import Array, Bool, Float

# Far below any score, yet finite: a fully masked row gives a mean, not NaN.
_MASKED = -1e30
# Causal rows go in so many parts, none of fewer rows than that.
_MAX_PARTS, _MIN_PART_ROWS = 4, 64


def masked_attention(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B M K H"],
    v: Float[Array, "B M K H"],
    mask: Bool[Array, "... L M"] | None = None,
    bias: Float[Array, "N L M"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B L N H"]:
    """Plain attention with an optional mask (True where a row may look); softmax in float32.

    Args:
      q: Queries.
      k: Keys.
      v: Values.
      mask: [L, M], or [B, L, M] where it differs by example.
      bias: Added to the scaled scores, one matrix a query head.
      scale: Factor on the scores; H ** -0.5 when None.
    """
    batch, num_rows, num_heads, head_dim = q.shape
    num_kv_heads = k.shape[2]
    scale = head_dim**-0.5 if scale is None else scale
    q_BLKGH = (q * scale).reshape(batch, num_rows, num_kv_heads, -1, head_dim)
    scores = jnp.einsum("BLKGH,BMKH->BKGLM", q_BLKGH, k, preferred_element_type=jnp.float32)
    if bias is not None:
        scores += bias.reshape(1, num_kv_heads, -1, *bias.shape[1:])
    if mask is not None:
        mask = mask[:, None, None] if mask.ndim == 3 else mask[None, None, None]
        scores = jnp.where(mask, scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out_BLKGH = jnp.einsum("BKGLM,BMKH->BLKGH", weights, v)
    return out_BLKGH.reshape(batch, num_rows, num_heads, head_dim)


def prefix_attention(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B L K H"],
    v: Float[Array, "B L K H"],
    prefix_length: int,
    rows_per_block: int = 1024,
) -> Float[Array, "B L N H"]:
    """Attention that is full inside the prefix and causal after it, most masked scores left out.

    Rows below ``prefix_length`` see the prefix, unmasked; the other rows see themselves and
    everything before. These go in up to four parts, each against the keys up to its own end, so
    that of what the mask hides three quarters are not computed. With more than ``rows_per_block``
    causal rows in all, a part goes through blocks of a quarter of that, and the backward pass
    recomputes their weights, so that memory is linear in the length.
    Equal to ``masked_attention`` with ``prefix_lm_mask``.
    """
    length = q.shape[1]
    if not 0 <= prefix_length <= length:
        raise ValueError(f"prefix_length={prefix_length} must lie between 0 and {length}.")
    q_BKGLH, k_BKLH, v_BKLH = _heads_first(q, k, v)
    is_long = length - prefix_length > rows_per_block
    block = -(-rows_per_block // _MAX_PARTS) if is_long else rows_per_block
    pieces, start = [], 0
    for end in part_ends(prefix_length, length):
        rows, keys = slice(start, end), slice(end)
        args = q_BKGLH[:, :, :, rows], k_BKLH[:, :, keys], v_BKLH[:, :, keys]
        offset = start if start >= prefix_length else None
        pieces.append(_in_blocks(*args, block, offset, recomputes=is_long))
        start = end
    out_BKGLH = pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis=3)
    return out_BKGLH.transpose(0, 3, 1, 2, 4).reshape(q.shape)


def part_ends(prefix_length: int, length: int) -> list[int]:
    """Where the parts of `prefix_attention` end: the prefix, if there is one, then causal parts.

    Rows of a part see the keys before its end.
    """
    num_causal = length - prefix_length
    num_parts = min(_MAX_PARTS, max(1, num_causal // _MIN_PART_ROWS)) if num_causal else 0
    ends = [prefix_length + num_causal * (i + 1) // num_parts for i in range(num_parts)]
    return [prefix_length, *ends] if prefix_length else ends


def _heads_first(q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
    """q [B, K, G, L, H], scaled; k and v [B, K, L, H]."""
    batch, length, num_heads, head_dim = q.shape
    num_kv_heads = k.shape[2]
    q_BLKGH = (q * head_dim**-0.5).reshape(batch, length, num_kv_heads, -1, head_dim)
    return q_BLKGH.transpose(0, 2, 3, 1, 4), k.swapaxes(1, 2), v.swapaxes(1, 2)


def _in_blocks(
    q: Array, k: Array, v: Array, rows_per_block: int, offset: int | None, recomputes: bool
) -> Array:
    """Causal with the first row at position ``offset``, unmasked when that is None.

    A loop recomputes its weights in the backward pass; a single block if ``recomputes``.
    """
    num_rows = q.shape[3]
    if num_rows <= rows_per_block:
        attend = functools.partial(_attend, start=0, offset=offset)
        return (jax.checkpoint(attend) if recomputes else attend)(q, k, v)
    # A loop, not unrolled blocks: XLA on CPU keeps the scores of all unrolled blocks alive.
    num_blocks = -(-num_rows // rows_per_block)
    block_rows = -(-num_rows // num_blocks)
    more = num_blocks * block_rows - num_rows
    padded = jnp.pad(q, ((0, 0), (0, 0), (0, 0), (0, more), (0, 0)))
    blocks = padded.reshape(*q.shape[:3], num_blocks, block_rows, -1).transpose(3, 0, 1, 2, 4, 5)

    @jax.checkpoint
    def attend(index: Array, block: Array) -> Array:
        return _attend(block, k, v, index * block_rows, offset)

    out = jax.lax.map(lambda args: attend(*args), (jnp.arange(num_blocks), blocks))
    return out.transpose(1, 2, 3, 0, 4, 5).reshape(padded.shape)[:, :, :, :num_rows]


def _attend(q: Array, k: Array, v: Array, start: Any, offset: int | None) -> Array:
    """One block of rows; the query heads of a key head become rows of one product."""
    batch, num_kv_heads, num_groups, num_rows, head_dim = q.shape
    mask = None
    if offset is not None:
        rows = jnp.tile(offset + start + jnp.arange(num_rows), num_groups)
        mask = jnp.arange(k.shape[2])[None, :] <= rows[:, None]
    merged = q.reshape(batch, num_kv_heads, num_groups * num_rows, head_dim)
    return _softmax_product(merged, k, v, mask).reshape(q.shape)


@jax.custom_vjp
def _softmax_product(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """softmax(q k^T) v with heads first: q [B, K, R, H], k and v [B, K, M, H], mask [R, M].

    The backward pass is written out: on CPU it takes less than half the time of the derived one,
    because it normalises rows of width H instead of rows of width M.
    """
    return _softmax_product_forward(q, k, v, mask)[0]


def _softmax_product_forward(q: Array, k: Array, v: Array, mask: Array | None) -> Any:
    scores = jnp.matmul(q, k.swapaxes(2, 3), preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask[None, None], scores, _MASKED)
    exp = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    total = exp.sum(axis=-1, keepdims=True)
    exp = exp.astype(v.dtype)
    out = jnp.matmul(exp, v, preferred_element_type=jnp.float32) / total
    return out.astype(v.dtype), (q, k, v, exp, total, out)


def _softmax_product_backward(kept: Any, d_out: Array) -> Any:
    q, k, v, exp, total, out = kept
    d_out = d_out.astype(jnp.float32) / total
    mean = (d_out * out).sum(axis=-1, keepdims=True)
    d_out = d_out.astype(v.dtype)
    d_exp = jnp.matmul(d_out, v.swapaxes(2, 3), preferred_element_type=jnp.float32)
    d_scores = (exp * (d_exp - mean)).astype(q.dtype)
    d_k = jnp.matmul(d_scores.swapaxes(2, 3), q)
    return jnp.matmul(d_scores, k), d_k, jnp.matmul(exp.swapaxes(2, 3), d_out), None


_softmax_product.defvjp(_softmax_product_forward, _softmax_product_backward)
