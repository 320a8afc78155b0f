"""Reading of clips: which frames of a file, at which size, and the sound that belongs to them.

Axes: T frames, Y rows, X columns.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from poet.evals import resizing
from poet.evals.folders import Item, pictures_of
from poet.evals.metric import Clip
from poet.media import images, sources, video
from poet.media import sound as sound_files
from poet.media.errors import MediaError
from poet.media.manifest import ManifestRow
from poet.typing import UInt8

# Containers round times, GIF to hundredths of a second: a frame may begin a little late.
_ROUNDING_S = 0.005


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """Which frames of a file are read, and at which size.

    The largest part from the middle that has the shape is cut out and resized, averaging areas
    when shrinking and bicubic when enlarging.

    Attributes:
      num_frames: Of every clip; a shorter file is refused.
      height_px, width_px: Of every clip.
      frames_per_second: None keeps each file's own.
      is_central: Frames from the middle of the file instead of the first ones.
      via_px: Side at which the files are read first, then enlarged bicubically (or shrunk): papers
        score clips of 128 px at 256. 0 reads them at their size.
    """

    num_frames: int
    height_px: int
    width_px: int
    frames_per_second: float | None = 8.0
    is_central: bool = False
    via_px: int = 0

    def __post_init__(self):
        rate = self.frames_per_second
        is_rate = rate is None or rate > 0
        if min(self.num_frames, self.height_px, self.width_px) < 1 or not is_rate:
            raise ValueError(
                "Expected at least 1 frame of at least 1 x 1 pixel and a rate above 0, got"
                f" {self.num_frames} frames of {self.height_px} x {self.width_px}, {rate} a second."
            )
        if self.via_px < 0 or (self.via_px and self.height_px != self.width_px):
            raise ValueError(
                f"via_px={self.via_px} is the side of a square of 1 pixel or more; leave it out for"
                f" clips of {self.height_px} x {self.width_px}."
            )

    @property
    def when(self) -> str:
        """The frames, as a protocol says it."""
        rate = "native" if self.frames_per_second is None else f"{self.frames_per_second:g}"
        return f"{'central-' * self.is_central}{self.num_frames}f-at-{rate}fps"

    @property
    def size(self) -> str:
        """The size, as a protocol says it."""
        size = f"{self.height_px}x{self.width_px}"
        if self.via_px:
            return f"{self.via_px}x{self.via_px}-cover-crop-to-{size}-bicubic"
        return f"{size}-cover-crop"

    @property
    def read_size(self) -> tuple[int, int]:
        """(height, width) at which files are read."""
        return (self.via_px or self.height_px, self.via_px or self.width_px)


def size_px(row: ManifestRow) -> tuple[int, int]:
    """(height, width) of a file's pictures."""
    pictures = pictures_of(row.path)
    if pictures:
        return images.image_size(pictures[0])
    with sources.local_file(row.path, row.part) as path:
        if row.suffix in images.IMAGE_SUFFIXES:
            return images.image_size(path)
        facts = video.probe(path)
    if facts.height_px is None or facts.width_px is None:
        raise MediaError(f"{row.path} has no picture; leave it out.")
    return facts.height_px, facts.width_px


def has_sound(row: ManifestRow) -> bool:
    """Whether a row's file has sound."""
    if pictures_of(row.path) or row.suffix in images.IMAGE_SUFFIXES:
        return False
    with sources.local_file(row.path, row.part) as path:
        return sound_files.has_sound(path)


def read_clip(
    item: Item, row: ManifestRow, reading: Reading, sample_rates_hz: Sequence[int] = ()
) -> Clip:
    """Reads the clip of an item's row.

    Raises:
      ValueError: The file cannot be read, is too short, or has no sound though that is asked for.
    """
    facts = {"name": item.name, "caption": item.caption, "spec": item.spec}
    pictures = pictures_of(row.path)
    with sources.local_file(row.path, row.part) as path:
        if pictures or row.suffix in images.IMAGE_SUFFIXES:
            frames = _still_frames(pictures or [path], reading)
            rate, start_s = reading.frames_per_second or 1.0, 0.0
        else:
            rate, start_s = _place(path, row, reading)
            frames = video.read_video(
                path,
                rate,
                *reading.read_size,
                start_s=start_s + _ROUNDING_S,
                num_frames=reading.num_frames,
            )
        _check_length(row, len(frames), rate, start_s, reading)
        if reading.via_px:
            size = (reading.height_px, reading.width_px)
            frames = resizing.to_uint8(resizing.squash(frames, *size, method="bicubic"))
        sounds = {}
        if sample_rates_hz and not has_sound(row):
            raise MediaError(
                f"{row.path} has no sound; leave the metrics of sound out, or give files with it."
            )
        for hertz in sample_rates_hz:
            sounds[hertz] = sound_files.read_sound(
                path, hertz, start_s=start_s, duration_s=reading.num_frames / rate
            )
    return Clip(frames=frames, frames_per_second=rate, sounds=sounds, **facts)


def _still_frames(pictures: Sequence[Path], reading: Reading) -> UInt8[np.ndarray, "T Y X 3"]:
    first = max(0, len(pictures) - reading.num_frames) // 2 if reading.is_central else 0
    chosen = pictures[first : first + reading.num_frames]
    return np.stack([images.read_image(path, *reading.read_size) for path in chosen])


def _place(path: Path, row: ManifestRow, reading: Reading) -> tuple[float, float]:
    """(frames a second, where to begin in s)."""
    rate = reading.frames_per_second
    if rate is not None and not reading.is_central:
        return rate, row.start_s
    facts = video.probe(path)
    rate = rate or facts.frames_per_second
    if not rate:
        raise MediaError(f"{row.path} does not say its frame rate; ask for one.")
    if not reading.is_central:
        return rate, row.start_s
    end_s = row.end_s if row.end_s is not None else facts.duration_s
    if end_s is None:
        raise MediaError(f"{row.path} does not say how long it is; read its first frames instead.")
    spare = round((end_s - row.start_s) * rate) - reading.num_frames
    return rate, row.start_s + max(0, spare) // 2 / rate


def _check_length(row, num_found: int, rate: float, start_s: float, reading: Reading) -> None:
    if row.end_s is not None:
        # Rounded: an end written with three digits may fall just short of a frame.
        num_found = min(num_found, round((row.end_s - start_s) * rate))
    if num_found < reading.num_frames:
        raise MediaError(
            f"{row.path} has {num_found} frame{'s' * (num_found != 1)} at {rate:g} a second,"
            f" {reading.num_frames} are needed; ask for fewer frames or leave the file out."
        )
