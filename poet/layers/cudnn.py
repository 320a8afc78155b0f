"""Prefix attention by cuDNN's kernels for NVIDIA GPUs, which keep scores on the chip.

They are reached by jax.nn.dot_product_attention (jax 0.10.2). It has no mask for a prefix, its
causal mask begins at the first key for the first row (no alignment at the end), and a mask array
becomes a bias of L x L numbers. So there are two calls, each without an array of that size.

Tests run the same two calls by XLA; the calls of cuDNN were lowered for CUDA, and no GPU ran them.

Axes: B batch, L positions, N query heads, K key/value heads, H head width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from poet.layers.sharding import on_each_device
from poet.typing import Array, Float

# jax's name of the forward kernel, results of which the backward kernel reads.
_FORWARD = "dot_product_attention_fwd_wrapper"
_DTYPES = (jnp.bfloat16, jnp.float16)
# On Hopper and later; before, jax refuses more than 128.
_MAX_HEAD_DIM, _HEAD_MULTIPLE = 256, 8


def cudnn_attention(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B L K H"],
    v: Float[Array, "B L K H"],
    prefix_length: int,
    implementation: str = "cudnn",
) -> Float[Array, "B L N H"]:
    """Attention that is full inside the prefix and causal after it, as `prefix_attention`.

    Call 1 has the rows of the prefix and its keys, unmasked; call 2 all rows and keys, causal, and
    of it the prefix's rows are thrown away, P x P / 2 pairs a head. Six positions, a prefix of
    three, and which call they are from; what call 2 forms in vain stands on the right:

        1 1 1 . . .      x . . . . .
        1 1 1 . . .      x x . . . .
        1 1 1 . . .      x x x . . .
        2 2 2 2 . .
        2 2 2 2 2 .
        2 2 2 2 2 2

    On the mesh in force each device runs the kernels on its own rows and heads, as
    `sharding.on_each_device` says. A rematerialisation policy that has `keeps_results` does not
    run the forward kernels again.

    Args:
      q: Queries; bfloat16 or float16, a multiple of 8 wide, at most 256 (128 before Hopper).
      k: Keys.
      v: Values.
      prefix_length: Static P.
      implementation: "cudnn"; "xla" makes the same calls on any device and with any type.

    Raises:
      ValueError: cuDNN does not take the arrays, the prefix is longer than the sequence, or the
        batch or the query heads do not divide among the devices.
    """
    length = q.shape[1]
    if not 0 <= prefix_length <= length:
        raise ValueError(f"prefix_length={prefix_length} must lie between 0 and {length}.")
    if implementation == "cudnn":
        _check(q)
    run = functools.partial(_on_device, prefix_length=prefix_length, implementation=implementation)
    return on_each_device(run, q, k, v)


def keeps_results(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy for `jax.checkpoint`: what the forward kernel made is kept for the backward one."""
    return primitive.name == _FORWARD


def _check(q: Array) -> None:
    head_dim = q.shape[-1]
    if q.dtype not in _DTYPES:
        raise ValueError(
            f"attention='cudnn' takes bfloat16 or float16, got {q.dtype}; set PrefixLMConfig.dtype"
            " = 'bfloat16', or attention = 'auto'."
        )
    if head_dim % _HEAD_MULTIPLE or head_dim > _MAX_HEAD_DIM:
        raise ValueError(
            f"attention='cudnn' takes heads of a multiple of {_HEAD_MULTIPLE} up to {_MAX_HEAD_DIM}"
            f" wide (128 before Hopper), got head_dim={head_dim}; choose another, or attention ="
            " 'auto'."
        )


def _on_device(q: Array, k: Array, v: Array, prefix_length: int, implementation: str) -> Array:
    attend = functools.partial(_attend, implementation=implementation)
    given = [x[:, :prefix_length] for x in (q, k, v)]
    if prefix_length == q.shape[1]:
        return attend(*given, is_causal=False)
    causal = attend(q, k, v, is_causal=True)
    if not prefix_length:
        return causal
    return jnp.concatenate([attend(*given, is_causal=False), causal[:, prefix_length:]], axis=1)


def _attend(q: Array, k: Array, v: Array, is_causal: bool, implementation: Any) -> Array:
    """One call, its length made even.

    jax 0.10.2 takes odd lengths for inference only ("Unsupported sequence length"): a limit of
    cuDNN's bias, which its rule for training asks of calls without a bias too. Causal rows do not
    see the key that is added; from others it is hidden by the number of keys.
    """
    length = q.shape[1]
    is_odd = length % 2
    q, k, v = (jnp.pad(x, ((0, 0), (0, is_odd), (0, 0), (0, 0))) for x in (q, k, v))
    hides = is_odd and not is_causal
    num_keys = jnp.full(len(q), length, jnp.int32) if hides else None
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        is_causal=is_causal,
        key_value_seq_lengths=num_keys,
        implementation=implementation,
    )
    return out[:, :length]
