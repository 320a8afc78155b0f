"""The parts of VBench (arXiv 2311.17982) that need no network: two scores, the totals, its files.

The other dimensions are scored by VBench's own tool on a folder that `lay_out` writes;
`read_results` takes its results from there. Names of dimensions are the tool's, with underscores.

Axes: T frames, Y rows, X columns.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence

import numpy as np

from poet.typing import Float, UInt8

# name -> (smallest value, largest value, weight), from VBench's scripts/constant.py.
QUALITY = {
    "subject_consistency": (0.1462, 1.0, 1.0),
    "background_consistency": (0.2615, 1.0, 1.0),
    "temporal_flickering": (0.6293, 1.0, 1.0),
    "motion_smoothness": (0.706, 0.9975, 1.0),
    "aesthetic_quality": (0.0, 1.0, 1.0),
    "imaging_quality": (0.0, 1.0, 1.0),
    "dynamic_degree": (0.0, 1.0, 0.5),
}
SEMANTIC = {
    "object_class": (0.0, 1.0, 1.0),
    "multiple_objects": (0.0, 1.0, 1.0),
    "human_action": (0.0, 1.0, 1.0),
    "color": (0.0, 1.0, 1.0),
    "spatial_relationship": (0.0, 1.0, 1.0),
    "scene": (0.0, 0.8222, 1.0),
    "appearance_style": (0.0009, 0.2855, 1.0),
    "temporal_style": (0.0, 0.364, 1.0),
    "overall_consistency": (0.0, 0.364, 1.0),
}
_QUALITY_WEIGHT, _SEMANTIC_WEIGHT = 4, 1
# Dynamic degree: rate of the frames compared, share of the pixels that count, least motion.
_COMPARED_FPS, _FASTEST_SHARE, _LEAST_PX = 8.0, 0.05, 6.0
_MAX_NAME_BYTES = 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Totals:
    """VBench's three sums of its 16 dimensions, about 0 to 1 (papers print them times 100)."""

    quality: float
    semantic: float
    total: float


def temporal_flickering(frames: UInt8[np.ndarray, "T Y X 3"]) -> float:
    """1 less the mean absolute change from frame to frame over 255: 1 for a still video.

    VBench scores only videos that its motion filter found still, by flow of RAFT; which those are
    is the caller's to decide, since motion lowers the score as flicker does.

    Raises:
      ValueError: Fewer than two frames.
    """
    if len(frames) < 2:
        raise ValueError(f"Flickering needs at least 2 frames, got {len(frames)}.")
    changes = np.abs(np.diff(frames.astype(np.int16), axis=0))
    return float(1.0 - changes.mean(dtype=np.float64) / 255.0)


def compared_frames(num_frames: int, frames_per_second: float) -> range:
    """Which frames dynamic degree compares: every round(fps / 8)th, but at least every frame."""
    return range(0, num_frames, max(1, round(frames_per_second / _COMPARED_FPS)))


def is_dynamic(flow: Float[np.ndarray, "pairs Y X 2"], frames_per_second: float) -> bool:
    """Whether a video counts as moving; the share of such videos is the dynamic degree.

    A pair of frames moves if the mean length of the fastest 5 % of its flow is more than
    6 px (shorter side / 256) max(1, 8 / fps). The video moves if round(n / 4) pairs of its n
    compared frames do (halves to even, as Python rounds: 2 frames need none and always move).

    Args:
      flow: In pixels, between the frames that `compared_frames` names; VBench uses RAFT-things.
      frames_per_second: Of the file, before frames were left out.

    Raises:
      ValueError: No pair of frames, a picture under 20 pixels (5 % of it is none), or a frame rate
        of 0 or less.
    """
    num_pairs, num_rows, num_columns, _ = flow.shape
    num_fastest = int(num_rows * num_columns * _FASTEST_SHARE)
    if not num_pairs or not num_fastest or not frames_per_second > 0:
        raise ValueError(
            "Dynamic degree needs flow between at least 2 frames of at least 20 pixels and a frame"
            f" rate above 0, got {flow.shape} at {frames_per_second} frames a second."
        )
    lengths = np.linalg.norm(flow.astype(np.float64), axis=-1).reshape(num_pairs, -1)
    fastest = np.sort(lengths, axis=1)[:, -num_fastest:].mean(axis=1)
    slowdown = max(1.0, _COMPARED_FPS / frames_per_second)
    least_px = slowdown * _LEAST_PX * min(num_rows, num_columns) / 256.0
    return bool((fastest > least_px).sum() >= round(4 * (num_pairs + 1) / 16))


def totals(scores: Mapping[str, float]) -> Totals:
    """Quality, semantic and total score from the raw scores of all 16 dimensions.

    Each becomes (x - smallest) / (largest - smallest), not clamped; quality is the mean of 7
    (dynamic degree counts half), semantic that of 9, total (4 quality + semantic) / 5. VBench's
    tool takes 0 for a dimension that is missing; here that is refused.

    Raises:
      ValueError: A dimension is missing, unknown or outside [0, 1].
    """
    expected = {*QUALITY, *SEMANTIC}
    if set(scores) != expected:
        raise ValueError(
            f"VBench's totals need its 16 dimensions, missing {sorted(expected - set(scores))},"
            f" unknown {sorted(set(scores) - expected)}; score them with VBench's own tool."
        )
    for name, score in scores.items():
        if not 0.0 <= score <= 1.0:
            raise ValueError(
                f"Expected raw scores in [0, 1], got {name}={score}; divide percentages by 100."
            )
    quality, semantic = _weighted_mean(scores, QUALITY), _weighted_mean(scores, SEMANTIC)
    total = _QUALITY_WEIGHT * quality + _SEMANTIC_WEIGHT * semantic
    total /= _QUALITY_WEIGHT + _SEMANTIC_WEIGHT
    return Totals(quality=quality, semantic=semantic, total=total)


def _weighted_mean(scores, dimensions) -> float:
    normal = [(scores[name] - low) / (high - low) for name, (low, high, _) in dimensions.items()]
    return float(np.average(normal, weights=[weight for _, _, weight in dimensions.values()]))


def read_results(*paths: str | os.PathLike) -> dict[str, float]:
    """Raw scores by dimension from the JSON results of VBench's own runs, one or several files.

    A file holds {dimension: [score, details of each video]}; only the scores are kept.

    Raises:
      ValueError: A file looks otherwise, or two files score one dimension.
    """
    scores: dict[str, float] = {}
    for path in paths:
        results = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        for name, entry in results.items() if isinstance(results, dict) else [("", None)]:
            if name not in {*QUALITY, *SEMANTIC} or not isinstance(entry, list) or not entry:
                raise ValueError(
                    f"Expected VBench's results, {{dimension: [score, ...]}}, in {path}, found"
                    f" {name!r}; give the *_eval_results.json that its tool wrote."
                )
            if name in scores:
                raise ValueError(f"{name} is scored twice, again in {path}; give one file of it.")
            scores[name] = float(entry[0])
    return scores


def lay_out(
    folder: str | os.PathLike, videos: Mapping[str, Sequence[str | os.PathLike]]
) -> list[pathlib.Path]:
    """Copies videos to `folder`/`prompt`-`index`.mp4, as VBench's tool finds them; their new paths.

    Args:
      folder: Made if needed; files of these names in it are replaced.
      videos: VBench's English prompt, unchanged -> its .mp4 files (5 by the protocol; 25 for
        temporal flickering is from memory, not read again).

    Raises:
      ValueError: A prompt that cannot be a file's name, or a video that is not .mp4.
    """
    for prompt, paths in videos.items():
        name = f"{prompt}-{len(paths)}.mp4"
        if not prompt or "/" in prompt or "\0" in prompt or len(name.encode()) > _MAX_NAME_BYTES:
            raise ValueError(f"The prompt {prompt!r} cannot name a file; shorten or change it.")
        for path in paths:
            if pathlib.Path(path).suffix != ".mp4":
                raise ValueError(f"VBench's tool reads .mp4 files, got {path}; write it as .mp4.")
    target = pathlib.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for prompt, paths in videos.items():
        for index, path in enumerate(paths):
            written.append(target / f"{prompt}-{index}.mp4")
            shutil.copyfile(path, written[-1])
    return written
