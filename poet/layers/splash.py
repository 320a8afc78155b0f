"""Prefix attention by TPU's splash kernel, which keeps scores on the chip and skips unseen blocks.

The kernel is jax's own (jax.experimental.pallas.ops.tpu.splash_attention, jax 0.10.2). It takes
heads first and lengths of whole blocks: arrays are turned and padded here. Widths of a head that
are no multiple of 128 it takes as they are; the chip's memory pads them.

Axes: B batch, L positions, N query heads, K key/value heads, H head width.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poet.layers.sharding import on_each_device
from poet.typing import Array, Float

# What rematerialisation policies call the kernel's results.
KEPT_NAME = "attention_kernel"
# Lengths are padded to this at least: the lanes of a TPU.
LANES = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplashBlocks:
    """How the kernel cuts a sequence up. Numbers change speed, not results.

    A sequence is cut into as few equal blocks of a multiple of 128 as there can be of at most these
    lengths; all pairs of a block are computed if any is seen.

    Attributes:
      queries: Rows of a block, at most.
      keys: Keys of a block, at most.
    """

    queries: int = 512
    keys: int = 512

    def __post_init__(self) -> None:
        for name in ("queries", "keys"):
            value = getattr(self, name)
            if value < LANES or value % LANES:
                raise ValueError(
                    f"SplashBlocks {name}={value} must be a multiple of {LANES}, such as 512."
                )

    def of(self, length: int) -> tuple[int, int]:
        """(rows, keys) of the blocks of a sequence."""
        return _block(length, self.queries), _block(length, self.keys)

    def pairs(self, length: int, prefix_length: int) -> Iterator[tuple[int, int]]:
        """(row block, key block) of every block that is computed."""
        rows, keys = self.of(length)
        for i in range(-(-length // rows)):
            last = max((i + 1) * rows - 1, prefix_length - 1 if i * rows < prefix_length else 0)
            for j in range(min(-(-length // keys), last // keys + 1)):
                yield i, j


def splash_attention(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B L K H"],
    v: Float[Array, "B L K H"],
    prefix_length: int,
    blocks: SplashBlocks = SplashBlocks(),  # noqa: B008 (frozen value)
    is_interpreted: bool = False,
) -> Float[Array, "B L N H"]:
    """Attention that is full inside the prefix and causal after it, as `prefix_attention`.

    On the mesh in force, rows of the batch and heads lie as in its logical axis rules ("batch",
    "attended_heads"), and each device runs the kernel on its own. What the backward pass needs of
    the kernel is named `KEPT_NAME`; a policy that does not save it runs the kernel again.

    Args:
      q: Queries.
      k: Keys.
      v: Values.
      prefix_length: Static P.
      blocks: Sizes.
      is_interpreted: Runs step by step on any device, slowly, for tests.

    Raises:
      ValueError: The prefix is longer than the sequence, or the batch or the query heads do not
        divide among the devices.
    """
    length = q.shape[1]
    if not 0 <= prefix_length <= length:
        raise ValueError(f"prefix_length={prefix_length} must lie between 0 and {length}.")
    run = functools.partial(
        _on_device, prefix_length=prefix_length, blocks=blocks, is_interpreted=is_interpreted
    )
    return on_each_device(run, q, k, v)


def _on_device(
    q: Array, k: Array, v: Array, prefix_length: int, blocks: SplashBlocks, is_interpreted: bool
) -> Array:
    # Here, because it is a third of a second that no command needs on a machine without a TPU.
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    length, num_heads, head_dim = q.shape[1:]
    rows, keys = blocks.of(length)
    sizes = library.BlockSizes(
        block_q=rows,
        block_kv=keys,
        block_q_dkv=rows,
        block_kv_dkv=keys,
        block_kv_dkv_compute=keys,
        block_q_dq=rows,
        block_kv_dq=keys,
    )
    q = _heads_first(q * head_dim**-0.5, rows)
    k, v = _heads_first(k, keys), _heads_first(v, keys)
    mask = _mask(q.shape[2], k.shape[2], prefix_length)
    kernel = library.make_splash_mha(
        library.MultiHeadMask([mask] * num_heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=KEPT_NAME,
        interpret=is_interpreted,
    )
    return jax.vmap(kernel)(q, k, v)[:, :, :length].swapaxes(1, 2)


def _heads_first(x: Array, block: int) -> Array:
    """[B, N, L padded to blocks, H]."""
    return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, -x.shape[1] % block), (0, 0)))


@functools.lru_cache(maxsize=64)
def _mask(num_rows: int, num_keys: int, prefix_length: int) -> Any:
    """A causal mask in which every row of the prefix stands where its last row stands.

    The kernel works it out from the rows' places, so that no mask is read from memory. Rows that
    fill the last block see what is before them and are cut off; nothing sees them.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import CausalMask

    mask = CausalMask((num_rows, num_keys))
    mask.q_sequence = np.where(
        mask.q_sequence < prefix_length,
        np.maximum(mask.q_sequence, prefix_length - 1),
        mask.q_sequence,
    )
    return mask


def _block(length: int, most: int) -> int:
    """Of as few equal blocks as there can be, a multiple of 128."""
    count = -(-length // most)
    return -(-length // (count * LANES)) * LANES
