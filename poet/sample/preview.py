"""Pictures of a batch while it is written: one a latent frame, as soon as that is whole."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from poet.tokens import sequence
from poet.tokens.sequence import SequencePlan


@dataclasses.dataclass
class Preview:
    """Writes FOLDER/NAME_FF.png, FF the number of the last pixel frame that is known.

    Attributes:
      engine: The model, for its tokenizer.
      folder: Where pictures go.
      names: Of the requests, in their order in the batch; rows beyond them are fillers.
      first_s: Seconds from the start until the first picture lay on disk; None before.
      total_s: Seconds until the last.
    """

    engine: Any
    folder: Path
    names: list[str]
    first_s: float | None = None
    total_s: float | None = None

    def __post_init__(self) -> None:
        self._start = time.perf_counter()

    def watch(self, plan: SequencePlan, fields: Mapping[str, Any]) -> Any:
        """A function for `decode.generate`'s ``say``."""
        seen = 0
        given = next((s.source[0] for s in plan.slots if s.is_output and s.kind == "visual"), 0)

        def say(progress: Any) -> None:
            nonlocal seen
            if progress.latent_frames <= seen:
                return
            seen = progress.latent_frames
            whole = sequence.join_given(plan, fields, progress.written())["visual"]
            self._show(whole[: len(self.names), : given + seen])

        return say

    def _show(self, codes: np.ndarray) -> None:
        from poet.media import images

        frames = self.engine.decode_video(codes)
        scale = max(1, 128 // min(frames.shape[2:4]))
        for name, clip in zip(self.names, frames, strict=True):
            pixels = clip[-1].repeat(scale, 0).repeat(scale, 1)
            images.write_image(self.folder / f"{name}_{len(clip) - 1:03d}.png", pixels)
        self.total_s = time.perf_counter() - self._start
        self.first_s = self.first_s or self.total_s
