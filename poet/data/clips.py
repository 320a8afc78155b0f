"""Cutting media files into clips of fixed length, with the sound that belongs to them.

Axes: T frames, Y rows, X columns, S samples.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from poet.media import images, opening, sound, video
from poet.media.errors import MediaError
from poet.media.manifest import ManifestRow
from poet.typing import Float, UInt8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipRules:
    """How files become clips: the preprocessing that a dataset's fingerprint covers.

    `stride_frames` is the distance of clip starts (None: clips do not overlap). A clip whose sound
    is shorter by more than `max_sound_padding_s` counts as a clip without sound.
    """

    height_px: int
    width_px: int
    num_frames: int = 17
    frames_per_second: float = 8.0
    stride_frames: int | None = None
    sample_rate_hz: int = 16_000
    max_sound_padding_s: float = 0.125
    video_stream: int | None = None

    def __post_init__(self):
        for name in ("height_px", "width_px"):
            if getattr(self, name) < 8 or getattr(self, name) % 8:
                raise ValueError(
                    f"{name} must be a positive multiple of 8 (pixels a token), got "
                    f"{getattr(self, name)}; round it."
                )
        if self.num_frames < 1 or self.num_frames % 4 != 1:
            raise ValueError(
                f"num_frames must be 1 + 4k (the first frame is a token frame of its own), got "
                f"{self.num_frames}; use 17."
            )
        if self.stride_frames is not None and self.stride_frames < 1:
            raise ValueError(f"stride_frames must be 1 or more, got {self.stride_frames}.")
        if not 0 < self.frames_per_second <= 1000:
            raise ValueError(
                f"frames_per_second must be in (0, 1000], got {self.frames_per_second}; use 8."
            )
        if not 0 <= self.max_sound_padding_s <= self.num_frames / self.frames_per_second:
            raise ValueError(
                f"max_sound_padding_s must be between 0 and the clip's length, got "
                f"{self.max_sound_padding_s}; use 0.125."
            )

    @property
    def stride(self) -> int:
        """Frames from one clip's start to the next."""
        return self.stride_frames or self.num_frames

    @property
    def num_samples(self) -> int:
        """Sound samples of one clip."""
        return round(self.num_frames * self.sample_rate_hz / self.frames_per_second)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip, or one still image (a single frame, no sound).

    `sound` is None where the clip has none; `note` says in words what is unusual. `start_s` is the
    time of the first frame in its file, `facts` are the row's other columns.
    """

    clip_id: str
    caption: str
    split: str
    frames: UInt8[np.ndarray, "T Y X 3"]
    sound: Float[np.ndarray, "S"] | None = None
    note: str = ""
    start_s: float = 0.0
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def cut_clips(
    row: ManifestRow, rules: ClipRules, first: int = 0, limit: int | None = None
) -> Iterator[Clip]:
    """Yields the clips of one manifest row in order; memory holds one clip.

    Args:
      row: a media file, or a part of one.
      rules: sizes and rates. A file (part) shorter than one clip gives its first frame as a still
        image, and so does an image file.
      first: number of the clip to start with; later clips are the same as when cutting from 0.
      limit: at most so many clips.

    Raises:
      MediaError: the file cannot be used; possibly after some clips.
    """
    if row.path.suffix.lower() in images.IMAGE_SUFFIXES:
        if first == 0:
            pixels = images.read_image(row.path, rules.height_px, rules.width_px)
            yield _image(row, pixels, "image file")
        return
    clip_start_s = row.start_s + first * rules.stride / rules.frames_per_second
    presentation = opening.presentation(row.path, rules.video_stream)
    frames = video.stream_frames(
        row.path,
        rules.frames_per_second,
        rules.height_px,
        rules.width_px,
        start_s=clip_start_s,
        video_stream=rules.video_stream,
        presentation=presentation,
    )
    left = _num_frames_left(row, rules, clip_start_s)
    held, number, num_to_skip = [], first, 0
    with contextlib.closing(frames), _Sound(row, rules, clip_start_s, presentation) as track:
        for frame in itertools.islice(frames, left):
            if num_to_skip:
                num_to_skip -= 1
                continue
            held.append(frame)
            if len(held) == rules.num_frames:
                yield _clip(row, rules, number, held, track)
                number += 1
                if limit is not None and number == first + limit:
                    return
                num_to_skip = max(0, rules.stride - rules.num_frames)
                held = held[rules.stride :]
    if number == 0 and not held:
        raise MediaError(f"{row.path} has no frame at {row.start_s:g} s; correct start_s.")
    if number == 0:
        yield _image(row, held[0], f"{len(held)} frames, fewer than {rules.num_frames}")


def _num_frames_left(row: ManifestRow, rules: ClipRules, from_s: float) -> int | None:
    """How many frames lie before the row's end; None where the file's end decides."""
    if row.end_s is None:
        return None
    return max(0, math.ceil((row.end_s - from_s) * rules.frames_per_second - 1e-6))


def _image(row: ManifestRow, pixels, note: str) -> Clip:
    return Clip(
        clip_id=row.clip_id, caption=row.caption, split=row.split, frames=pixels[None], note=note
    )


def _clip(row: ManifestRow, rules: ClipRules, number: int, held: list, track) -> Clip:
    start_s = row.start_s + number * rules.stride / rules.frames_per_second
    samples, note = track.window(start_s)
    return Clip(
        clip_id=row.clip_id if number == 0 else f"{row.clip_id}@{start_s:.3f}s",
        caption=row.caption,
        split=row.split,
        frames=np.stack(held[: rules.num_frames]),
        sound=samples,
        note=note,
        start_s=start_s,
        facts=row.extra,
    )


class _Sound:
    """The sound of one row, clip by clip; a file without a usable track has none."""

    def __init__(self, row: ManifestRow, rules: ClipRules, start_s: float, presentation):
        self._rules, self._reader, self._problem = rules, None, "no audio stream"
        if presentation.has_sound:
            self._reader = sound.SoundReader(
                row.path, rules.sample_rate_hz, start_s=start_s, presentation=presentation
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._reader is not None:
            self._reader.__exit__(*error)

    def window(self, start_s: float) -> tuple[Float[np.ndarray, "S"] | None, str]:
        """Returns (the samples of the clip at start_s or None, what is unusual about them)."""
        if self._reader is None:
            return None, self._problem
        rate, num_samples = self._rules.sample_rate_hz, self._rules.num_samples
        try:
            window = self._reader.window(round(start_s * rate), num_samples)
        except MediaError as error:
            # The picture is good: only the sound is given up.
            self._reader, self._problem = None, f"sound unusable: {error}"
            return None, self._problem
        if window.num_missing > self._rules.max_sound_padding_s * rate:
            missing_s = window.num_missing / rate
            return None, f"sound shorter than the clip by {missing_s:.3f} s"
        return window.samples, "digital silence" if window.is_silent else ""
