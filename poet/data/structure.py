"""Optical flow and depth of a clip as a picture of three channels: what stylization is given.

The picture passes through the visual tokenizer like any other (paper, section on stylization;
spec/videopoet.md sections 4.2 and 9 row 14): channel 0 and 1 are the flow to the next frame, to the
right and down, divided by a fixed largest flow with 0.5 for standing still; channel 2 is nearness
(inverse depth), from the clip's farthest point, 0, to its nearest, 1.

Flow is in picture widths a frame, so that it does not depend on the size. After the last frame
nothing is seen: estimated flow repeats itself there, exact flow goes on.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from poet.shapes_world import render, world
from poet.typing import Float, UInt8

# Widths a frame at 8 frames a second; faster motion is clipped.
MAX_FLOW = 0.125


@runtime_checkable
class StructureEstimator(Protocol):
    """Flow and nearness of clips. `fingerprint` names the method, weights included."""

    fingerprint: str

    def __call__(
        self, frames: UInt8[np.ndarray, "T Y X 3"], facts: Mapping[str, Any], start_s: float
    ) -> tuple[Float[np.ndarray, "T Y X 2"], Float[np.ndarray, "T Y X"]]:
        """Flow in widths a frame and nearness in any unit.

        Args:
          frames: the clip as it is tokenized.
          facts: the manifest's other columns of its row.
          start_s: time of the first frame in its file.
        """


def pack(
    flow: Float[np.ndarray, "T Y X 2"], nearness: Float[np.ndarray, "T Y X"]
) -> UInt8[np.ndarray, "T Y X 3"]:
    """The three channels as bytes; flat nearness becomes 0.5."""
    low, high = float(nearness.min()), float(nearness.max())
    channels = np.empty((*flow.shape[:3], 3), np.float32)
    channels[..., :2] = 0.5 + 0.5 * np.clip(flow / MAX_FLOW, -1, 1)
    channels[..., 2] = (nearness - low) / (high - low) if high > low else 0.5
    return np.round(255 * channels).astype(np.uint8)


def unpack(
    picture: UInt8[np.ndarray, "T Y X 3"],
) -> tuple[Float[np.ndarray, "T Y X 2"], Float[np.ndarray, "T Y X"]]:
    """Flow (widths a frame) and nearness in [0, 1] of a packed picture."""
    channels = picture.astype(np.float32) / 255
    return (2 * channels[..., :2] - 1) * MAX_FLOW, channels[..., 2]


def dis_flow(frames: UInt8[np.ndarray, "T Y X 3"]) -> Float[np.ndarray, "T Y X 2"]:
    """Dense inverse search of OpenCV (Kroeger et al. 2016), medium preset, at full resolution."""
    import cv2

    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    method.setFinestScale(0)
    flow = [method.calc(one, two, None) for one, two in zip(grey, grey[1:], strict=False)]
    return np.stack([*flow, flow[-1]]) / np.float32(frames.shape[2])


@dataclasses.dataclass(frozen=True)
class EstimatedStructure:
    """Flow by OpenCV; nearness by a depth model of `transformers`, or none.

    Attributes:
      depth_dir: folder of the model (config.json, preprocessor_config.json, weights in safetensors
        format), as its `save_pretrained` writes it; "" leaves the channel at 0.5.
    """

    depth_dir: str = ""

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names the flow, and the files of the depth model."""
        digest = hashlib.sha256(f"dis medium, largest flow {MAX_FLOW}".encode())
        for path in sorted(Path(self.depth_dir).iterdir()) if self.depth_dir else ():
            if path.suffix in (".json", ".safetensors"):
                digest.update(path.name.encode())
                digest.update(path.read_bytes())
        return digest.hexdigest()[:32]

    @functools.cached_property
    def _depth_model(self):
        if not os.path.isfile(Path(self.depth_dir, "config.json")):
            raise ValueError(
                f"Depth model {self.depth_dir} has no config.json; give the folder that a depth"
                " model of `transformers` was saved to."
            )
        try:
            import torch
            import transformers
        except ImportError as error:
            raise ValueError(
                f"A depth model needs {error.name}, which is not installed: make setup"
                " EXTRAS=torch; or leave --depth_model out."
            ) from error
        torch.set_grad_enabled(False)
        processor = transformers.AutoImageProcessor.from_pretrained(
            self.depth_dir, local_files_only=True
        )
        model = transformers.AutoModelForDepthEstimation.from_pretrained(
            self.depth_dir, local_files_only=True, use_safetensors=True
        ).eval()
        return processor, model, torch

    def __call__(self, frames, facts, start_s):
        """See `StructureEstimator`."""
        flow = dis_flow(frames)
        if not self.depth_dir:
            return flow, np.zeros(frames.shape[:3], np.float32)
        processor, model, torch = self._depth_model
        inputs = processor(images=list(frames), return_tensors="pt")
        # What such models predict is nearness up to scale and shift (MiDaS, Ranftl et al. 2020).
        nearness = model(**inputs).predicted_depth[:, None]
        size = frames.shape[1:3]
        nearness = torch.nn.functional.interpolate(nearness, size, mode="bicubic")[:, 0]
        return flow, nearness.float().numpy()


@dataclasses.dataclass(frozen=True)
class ExactStructure:
    """What the renderer of the shapes world knows; for its own manifests only."""

    fingerprint: str = f"exact structure of the shapes world, largest flow {MAX_FLOW}"

    def __call__(self, frames, facts, start_s):
        """See `StructureEstimator`; ValueError for clips of another world."""
        names = ("shape", "colour", "motion", "speed", "start_x", "start_y")
        missing = [name for name in names if name not in facts]
        if missing:
            raise ValueError(
                f"Exact flow and depth need the manifest of `poet render`, got one without"
                f" {', '.join(missing)}; use --structure estimate for other clips."
            )
        if frames.shape[1] != frames.shape[2]:
            raise ValueError(
                f"Exact flow and depth are of square clips, got {frames.shape[1:3]}; set"
                " --size_px, or use --structure estimate."
            )
        words = {name: facts[name] for name in names[:4]}
        start = {name: float(facts[name]) for name in names[4:]}
        spec = world.ClipSpec(**words, **start)
        times_s = start_s + world.frame_times_s(len(frames) + 1)
        return exact_structure(spec, times_s, frames.shape[1])


def exact_structure(
    spec: world.ClipSpec, times_s: Float[np.ndarray, "N"], size_px: int
) -> tuple[Float[np.ndarray, "T Y X 2"], Float[np.ndarray, "T Y X"]]:
    """Flow and nearness of a clip of the shapes world.

    Every point of the shape moves with its centre, or away from it as it grows; the background
    stands still. The shape is near, 1, the background far, 0, mixed where a pixel shows both.

    Args:
      spec: the clip.
      times_s: of the frames and of the one after the last.
      size_px: of the square picture.
    """
    x, y = (np.broadcast_to(at, times_s.shape) for at in world.centre_at(spec, times_s))
    half = np.broadcast_to(world.half_extent_at(spec, times_s), times_s.shape)
    covered = render.coverage(spec.shape, x[:-1], y[:-1], half[:-1], size_px)
    at = (np.arange(size_px) + 0.5) / size_px
    growth = (half[1:] / half[:-1] - 1)[:, None]
    right = np.diff(x)[:, None] + growth * (at - x[:-1, None])
    down = np.diff(y)[:, None] + growth * (at - y[:-1, None])
    flow = np.zeros((*covered.shape, 2), np.float32)
    flow[..., 0] = covered * right[:, None, :]
    flow[..., 1] = covered * down[:, :, None]
    return flow, covered
