"""Which clips are left out: black, frozen, silent, too short, too small, or seen before.

Nothing is left out unless asked for. What is looked at is the clip as it is tokenized, so that the
thresholds do not depend on the files' sizes and codecs.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from poet.typing import Float, UInt8

if TYPE_CHECKING:
    from poet.data.clips import Clip

NAMES = ("black", "frozen", "silent", "short", "duplicate")
# Scenes change where frames, averaged down to this many cells a side, jump.
_CELLS = 8
_BANDS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipFilters:
    """What to leave out; part of a dataset's preprocessing.

    Attributes:
      names: of `NAMES`.
      black_below: mean level, of 255, of the brightest frame of a black clip.
      frozen_below: mean change of level between frames, of 255, that no two frames of a frozen
        clip exceed. A still image is not frozen.
      silent_below: largest root mean square, of full scale, of 0.1 s of a silent clip; a clip
        without sound is silent. A still image is not.
      duplicate_bits: clips (or images) are the same if the difference hashes of their first,
        middle and last frame all differ in at most so many of 64 bits; at most 3.
      min_side_px: least height and width of the file's picture.
      max_aspect: largest ratio of its longer side to its shorter one; 0 for any.
    """

    names: tuple[str, ...] = ()
    black_below: float = 8.0
    frozen_below: float = 0.2
    silent_below: float = 1e-3
    duplicate_bits: int = 3
    min_side_px: int = 0
    max_aspect: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(self.names))
        unknown = sorted(set(self.names) - set(NAMES))
        if unknown:
            raise ValueError(f"Unknown filters {unknown}; choose some of {', '.join(NAMES)}.")
        if not 0 <= self.duplicate_bits < _BANDS:
            raise ValueError(
                f"duplicate_bits must be 0 to {_BANDS - 1}, got {self.duplicate_bits}."
            )

    def reason(self, clip: "Clip", sample_rate_hz: int) -> str:
        """Why the clip is left out, "" if it is not; duplicates are found by `Duplicates`."""
        is_still = len(clip.frames) == 1
        if "black" in self.names and clip.frames.mean(axis=(1, 2, 3)).max() < self.black_below:
            return "black"
        if "frozen" in self.names and not is_still:
            if change(clip.frames).max() < self.frozen_below:
                return "frozen"
        if "silent" in self.names and not is_still:
            if clip.sound is None or _loudest(clip.sound, sample_rate_hz) < self.silent_below:
                return "silent"
        return ""

    def size_reason(self, height_px: int, width_px: int) -> str:
        """Why a file of this size is left out, "" if it is not."""
        short, long = sorted((height_px, width_px))
        if short < self.min_side_px:
            return f"{width_px} x {height_px} px, shorter than {self.min_side_px} px on a side"
        if self.max_aspect and long > self.max_aspect * short:
            return f"{width_px} x {height_px} px, sides differ by more than {self.max_aspect:g}"
        return ""


def change(frames: UInt8[np.ndarray, "T Y X 3"]) -> Float[np.ndarray, "T-1"]:
    """Mean absolute change of level from each frame to the next."""
    return np.array(
        [np.abs(a.astype(np.int16) - b).mean() for a, b in zip(frames, frames[1:], strict=False)]
    )


def cells(frame: UInt8[np.ndarray, "Y X 3"]) -> Float[np.ndarray, "_ _ 3"]:
    """The frame averaged down to 8 x 8 cells: motion changes them little, another scene much."""
    height, width = frame.shape[:2]
    rows = [part.mean(axis=0) for part in np.array_split(frame, min(_CELLS, height))]
    parts = np.array_split(np.stack(rows), min(_CELLS, width), axis=1)
    return np.stack([part.mean(axis=1) for part in parts], axis=1)


def difference_hash(frame: UInt8[np.ndarray, "Y X 3"]) -> int:
    """64 bits: whether each of 8 x 9 averaged cells is darker than its right neighbour."""
    from PIL import Image

    grey = Image.fromarray(frame).convert("L").resize((9, 8), Image.Resampling.BOX)
    levels = np.asarray(grey, np.int16)
    bits = (levels[:, :-1] < levels[:, 1:]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def clip_hash(frames: UInt8[np.ndarray, "T Y X 3"]) -> list[int]:
    """Difference hashes of the first, middle and last frame."""
    return [difference_hash(frames[at]) for at in (0, len(frames) // 2, len(frames) - 1)]


class Duplicates:
    """Remembers hashes; the first of several equal clips stays."""

    def __init__(self, max_bits: int):
        self._max_bits = max_bits
        # Hashes that differ in 3 bits at most agree in one of 4 bands of 16 bits.
        self._bands: dict[tuple[int, int], list[list[int]]] = {}

    def is_new(self, hashes: list[int]) -> bool:
        """Whether no clip before it was the same; remembers it if so."""
        middle = hashes[1]
        keys = [(band, (middle >> (16 * band)) & 0xFFFF) for band in range(_BANDS)]
        for key in keys:
            for other in self._bands.get(key, ()):
                pairs = zip(hashes, other, strict=True)
                if all((a ^ b).bit_count() <= self._max_bits for a, b in pairs):
                    return False
        for key in keys:
            self._bands.setdefault(key, []).append(hashes)
        return True


def _loudest(sound: Float[np.ndarray, "S"], sample_rate_hz: int) -> float:
    window = max(1, sample_rate_hz // 10)
    parts = np.array_split(sound, max(1, len(sound) // window))
    return max(float(np.sqrt(np.mean(np.square(part)))) for part in parts)
