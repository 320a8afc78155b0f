"""What a visual tokenizer makes of a few clips while it trains: scores and strips of frames.

Axes: W clips, T frames, Y rows, X columns.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from poet.tokenizers.magvit2 import Magvit2, MagvitConfig
from poet.train import partitioning, visual_step
from poet.train.state import TrainState
from poet.typing import UInt8

# (originals, restored), both [W, T, Y, X, 3] in [0, 1] -> {name: number}.
Compare = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]


class VisualPreview:
    """Clips through the tokenizer and back: numbers, a strip of frames, and both side by side."""

    def __init__(
        self,
        config: MagvitConfig,
        clips: UInt8[np.ndarray, "W T Y X 3"],
        compare: Compare,
        mesh: Mesh,
    ):
        self._clips, self._compare = clips.astype(np.float32) / 255.0, compare

        def restore(params, clips):
            model = Magvit2(config)
            codes = model.apply({"params": params}, clips, method="encode")
            return model.apply({"params": params}, codes, method="decode")

        self._restore = jax.jit(restore, out_shardings=partitioning.replicated(mesh))

    def __call__(self, state: TrainState, step: int) -> dict[str, Any]:
        """{name: number or uint8 picture [Y, X, 3] or clip [T, Y, X, 3]}, see `loop.Program`."""
        del step
        restored = self._restore(visual_step.tokenizer_params(state), self._clips)
        restored = np.clip(np.asarray(restored), 0.0, 1.0)
        return dict(self._compare(self._clips, restored)) | {
            "reconstructions": strips(self._clips, restored),
            "reconstructions_moving": side_by_side(self._clips, restored),
        }


def strips(originals, restored, num_frames: int = 5) -> UInt8[np.ndarray, "Y X 3"]:
    """A row of frames of each clip over the row of what became of them."""
    shown = np.linspace(0, originals.shape[1] - 1, min(num_frames, originals.shape[1])).astype(int)
    rows = []
    for pair in zip(originals, restored, strict=True):
        rows += [np.concatenate(list(clip[shown]), axis=1) for clip in pair]
    return _bytes(np.concatenate(rows))


def side_by_side(originals, restored) -> UInt8[np.ndarray, "T Y X 3"]:
    """All clips in a row over what became of them, moving."""
    rows = [np.concatenate(list(clips), axis=2) for clips in (originals, restored)]
    return _bytes(np.concatenate(rows, axis=1))


def _bytes(pixels) -> np.ndarray:
    return (255.0 * pixels).round().astype(np.uint8)
