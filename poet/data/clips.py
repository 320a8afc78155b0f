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

from poet.data.filters import ClipFilters, cells
from poet.media import images, opening, sound, sources, video
from poet.media.errors import MediaError
from poet.media.manifest import ManifestRow
from poet.typing import Float, UInt8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipRules:
    """How files become clips: the preprocessing that a dataset's fingerprint covers.

    `stride_frames` is the distance of clip starts (None: clips do not overlap). A clip whose sound
    is shorter by more than `max_sound_padding_s` counts as a clip without sound. With
    `scene_change`, a mean jump of level (of 255, over 8 x 8 cells; such as 30) begins a new scene,
    and no clip reaches over it.
    """

    height_px: int
    width_px: int
    num_frames: int = 17
    frames_per_second: float = 8.0
    stride_frames: int | None = None
    sample_rate_hz: int = 16_000
    max_sound_padding_s: float = 0.125
    video_stream: int | None = None
    scene_change: float | None = None
    filters: ClipFilters = ClipFilters()

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
        if self.scene_change is not None and not 0 < self.scene_change < 255:
            raise ValueError(f"scene_change must be in (0, 255), got {self.scene_change}; use 30.")
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
    with sources.local_file(row.path, row.part) as path:
        yield from _cut_local(dataclasses.replace(row, path=path, part=None), rules, first, limit)


def _cut_local(row: ManifestRow, rules: ClipRules, first: int, limit: int | None) -> Iterator[Clip]:
    """The clips of a row whose file is local."""
    if row.suffix in images.IMAGE_SUFFIXES:
        if first == 0:
            yield _image_file(row, rules)
        return
    if row.suffix == ".npy":
        yield from _cut_array(row, rules, first, limit)
        return
    clip_start_s = row.start_s + first * rules.stride / rules.frames_per_second
    presentation = opening.presentation(row.path, rules.video_stream)
    if rules.filters.min_side_px or rules.filters.max_aspect:
        facts = video.probe(row.path, rules.video_stream)
        _check_size(row, rules, facts.height_px, facts.width_px)
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
    number, any_frame = 0, None
    with contextlib.closing(frames), _Sound(row, rules, clip_start_s, presentation) as track:
        for index, held in _windows(itertools.islice(frames, left), rules):
            any_frame = held if any_frame is None else any_frame
            if len(held) < rules.num_frames:
                continue
            start_s = clip_start_s + index / rules.frames_per_second
            yield _clip(row, rules, start_s, held, track)
            number += 1
            if number == limit:
                return
    if first or number:
        return
    if any_frame is None:
        raise MediaError(f"{row.path} has no frame at {row.start_s:g} s; correct start_s.")
    if "short" in rules.filters.names:
        raise MediaError(f"no {rules.num_frames} frames on end, which a clip needs")
    yield _image(row, any_frame[0], f"{len(any_frame)} frames, fewer than {rules.num_frames}")


def _cut_array(row: ManifestRow, rules: ClipRules, first: int, limit: int | None) -> Iterator[Clip]:
    """Clips of a file of frames [T, Y, X, 3] without times and sound: one frame for one frame."""
    try:
        pixels = np.load(row.path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise MediaError(f"{row.path} is no NumPy file of frames ({error}).") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or not pixels.size:
        raise MediaError(
            f"{row.path} must hold uint8 frames [T, Y, X, 3], got {pixels.dtype}"
            f" {list(pixels.shape)}; leave it out."
        )
    _check_size(row, rules, *pixels.shape[1:3])
    frames = (images.fit_pixels(frame, rules.height_px, rules.width_px) for frame in pixels)
    last = None if limit is None else first + limit
    clips = (window for window in _windows(frames, rules) if len(window[1]) == rules.num_frames)
    index = None
    for index, held in itertools.islice(clips, first, last):
        yield Clip(
            clip_id=row.clip_id if index == 0 else f"{row.clip_id}@{index}",
            caption=row.caption,
            split=row.split,
            frames=np.stack(held[: rules.num_frames]),
            note="no audio stream",
            start_s=index / rules.frames_per_second,
            facts=row.extra,
        )
    if index is None and not first:
        if "short" in rules.filters.names:
            raise MediaError(f"no {rules.num_frames} frames on end, which a clip needs")
        picture = images.fit_pixels(np.asarray(pixels[0]), rules.height_px, rules.width_px)
        yield _image(row, picture, f"{len(pixels)} frames, fewer than {rules.num_frames}")


def _windows(frames: Iterator, rules: ClipRules) -> Iterator[tuple[int, list]]:
    """Yields (number of the first frame, frames) of every clip, and of the rest of each scene."""
    held, start, before, num_to_skip = [], 0, None, 0
    for index, frame in enumerate(frames):
        if rules.scene_change is not None:
            now = cells(frame)
            if before is not None and np.abs(now - before).mean() > rules.scene_change:
                if held:
                    yield start, held
                held, num_to_skip = [], 0
            before = now
        if num_to_skip:
            num_to_skip -= 1
            continue
        if not held:
            start = index
        held.append(frame)
        if len(held) == rules.num_frames:
            yield start, held
            num_to_skip = max(0, rules.stride - rules.num_frames)
            held = held[rules.stride :]
            start += rules.stride
    if held:
        yield start, held


def _image_file(row: ManifestRow, rules: ClipRules) -> Clip:
    if rules.filters.min_side_px or rules.filters.max_aspect:
        _check_size(row, rules, *images.image_size(row.path))
    return _image(row, images.read_image(row.path, rules.height_px, rules.width_px), "image file")


def _check_size(row: ManifestRow, rules: ClipRules, height_px: int | None, width_px: int | None):
    reason = rules.filters.size_reason(height_px or 0, width_px or 0)
    if reason:
        raise MediaError(f"{row.path} is {reason}.")


def _num_frames_left(row: ManifestRow, rules: ClipRules, from_s: float) -> int | None:
    """How many frames lie before the row's end; None where the file's end decides."""
    if row.end_s is None:
        return None
    return max(0, math.ceil((row.end_s - from_s) * rules.frames_per_second - 1e-6))


def _image(row: ManifestRow, pixels, note: str) -> Clip:
    return Clip(
        clip_id=row.clip_id, caption=row.caption, split=row.split, frames=pixels[None], note=note
    )


def _clip(row: ManifestRow, rules: ClipRules, start_s: float, held: list, track) -> Clip:
    samples, note = track.window(start_s)
    is_first = abs(start_s - row.start_s) < 1e-9
    return Clip(
        clip_id=row.clip_id if is_first else f"{row.clip_id}@{start_s:.3f}s",
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
