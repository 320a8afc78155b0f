"""Turns an image tokenizer into a video tokenizer that treats every frame as the image one did.

The second step of the paper's training begins here: the image model's weights, then video. In a
causal network a 2-D kernel belongs in the newest time tap ("last-slice" inflation).
"""

from typing import Any

import jax
import jax.numpy as jnp

from poet.tokenizers.magvit2 import DOWN_STRIDES


def inflate(params: Any) -> Any:
    """Parameters that give each frame of a still clip what `params` give the image.

    A kernel's time taps, which see copies of one frame in an image, are added up in the newest tap
    and the older ones become 0. A step up in time gives all its frames what the image got, which is
    its last: the frames before are dropped there.

    Args:
      params: Of `Magvit2`, trained on one-frame clips.
    """
    return jax.tree_util.tree_map_with_path(_inflate_leaf, params)


def _inflate_leaf(path: tuple, leaf: jax.Array) -> jax.Array:
    names = [entry.key for entry in path]
    if leaf.ndim == 5:
        leaf = jnp.zeros_like(leaf).at[-1].set(leaf.sum(0))
    steps_up = [name for name in names if name.startswith("up_")]
    if steps_up:
        # DOWN_STRIDES lists the steps down; up_1 mirrors the last of them.
        strides = DOWN_STRIDES[::-1][int(steps_up[0].removeprefix("up_")) - 1]
        leaf = _same_in_all_frames(leaf, strides[0])
    return leaf


def _same_in_all_frames(leaf: jax.Array, num_frames: int) -> jax.Array:
    """Channels (time, row, column, filter), the last time copied to all."""
    by_frame = leaf.reshape(*leaf.shape[:-1], num_frames, -1)
    last = jnp.broadcast_to(by_frame[..., -1:, :], by_frame.shape)
    return last.reshape(leaf.shape)
