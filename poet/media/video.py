"""Reading pictures from video files: facts, and frames on an even time grid.

Time is counted from the first presented frame (after the container's edit list). The frame at time
t is the last one with a timestamp at or before t. Rotation metadata is applied.

Axes: T frames, Y rows, X columns, C channels.
"""

import dataclasses
import os
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from poet.media import opening
from poet.media.errors import MediaError
from poet.typing import UInt8

# Seeking costs one more opening of the file; earlier starts are reached by decoding.
_SEEK_FROM_S = 4
_UNSPECIFIED_COLORSPACE = 2
_HD_FROM_ROWS = 720
_EXACT = (
    Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MediaFacts:
    """What a file holds. Video fields are None without video, audio fields without sound.

    `start_s` is where the picture (else the sound) begins on the file's own timeline;
    `duration_s` is the container's claim, None where it makes none. Sizes are after rotation.
    """

    path: str
    container: str
    start_s: float
    duration_s: float | None
    num_video_streams: int
    num_audio_streams: int
    video_codec: str | None = None
    pixel_format: str | None = None
    height_px: int | None = None
    width_px: int | None = None
    rotation_degrees: int | None = None
    frames_per_second: float | None = None
    audio_codec: str | None = None
    sample_rate_hz: int | None = None
    num_channels: int | None = None


def probe(path: str | os.PathLike, video_stream: int | None = None) -> MediaFacts:
    """Returns the facts of a file; decodes one frame. MediaError where nothing can be decoded."""
    presentation = opening.presentation(path, video_stream)
    with opening.open_media(path) as container:
        video = opening.choose_stream(container, "video", video_stream)
        audio = opening.choose_stream(container, "audio")
        facts = {
            "path": str(path),
            "container": container.format.name,
            "start_s": float(presentation.start),
            "duration_s": _claimed_duration_s(container, video or audio),
            "num_video_streams": len(container.streams.video),
            "num_audio_streams": len(container.streams.audio),
        }
        if audio is not None and audio.codec_context is not None:
            facts["audio_codec"] = audio.codec_context.codec.name
            facts["sample_rate_hz"] = audio.codec_context.sample_rate
            facts["num_channels"] = audio.codec_context.layout.nb_channels
        if video is not None:
            facts |= _video_facts(
                video, next(opening.decode(container, video)), presentation.pixel_aspect
            )
        return MediaFacts(**facts)


def _claimed_duration_s(container, stream) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _video_facts(stream, frame, pixel_aspect: Fraction) -> dict:
    turns, _ = _orientation(frame)
    height_px, width_px = frame.height, round(frame.width * pixel_aspect)
    return {
        "video_codec": stream.codec_context.codec.name,
        "pixel_format": frame.format.name,
        "height_px": width_px if turns % 2 else height_px,
        "width_px": height_px if turns % 2 else width_px,
        "rotation_degrees": frame.rotation,
        "frames_per_second": float(stream.average_rate) if stream.average_rate else None,
    }


def read_video(
    path: str | os.PathLike,
    frames_per_second: float = 8.0,
    height_px: int | None = None,
    width_px: int | None = None,
    *,
    start_s: float = 0.0,
    num_frames: int | None = None,
    video_stream: int | None = None,
) -> UInt8[np.ndarray, "T Y X 3"]:
    """Returns RGB frames at start_s + k / frames_per_second, as many as there are.

    Args:
      path: a video file.
      frames_per_second: of the result; a slower file repeats frames.
      height_px: of the result, with `width_px`. The largest centred part of that shape is cut
        out and resized, averaging over source pixels. None keeps the file's size.
      width_px: see `height_px`.
      start_s: from the first presented frame.
      num_frames: at most so many; None for all up to the end.
      video_stream: N for the N-th video stream; None for the default one.

    Raises:
      MediaError: the file cannot be decoded, or ends before `start_s`.
    """
    frames = stream_frames(
        path, frames_per_second, height_px, width_px, start_s=start_s, video_stream=video_stream
    )
    kept = []
    for frame in frames:
        kept.append(frame)
        if len(kept) == num_frames:
            break
    frames.close()
    if not kept:
        raise MediaError(f"{path} has no frame at {start_s:g} s; ask for an earlier start.")
    return np.stack(kept)


def stream_frames(
    path: str | os.PathLike,
    frames_per_second: float = 8.0,
    height_px: int | None = None,
    width_px: int | None = None,
    *,
    start_s: float = 0.0,
    video_stream: int | None = None,
    presentation: opening.Presentation | None = None,
) -> Iterator[UInt8[np.ndarray, "Y X 3"]]:
    """Yields the frames of `read_video` one by one; memory does not grow with the file.

    Who has `opening.presentation` of the file and this `video_stream` already passes it, and saves
    opening the file.
    """
    _check_request(frames_per_second, height_px, width_px, start_s)
    step = 1 / Fraction(frames_per_second).limit_denominator(1001)
    start = Fraction(start_s).limit_denominator(10**6)
    presentation = presentation or opening.presentation(path, video_stream)
    shaper, held = _Shaper(path, height_px, width_px, presentation.pixel_aspect), None
    due = presentation.start + start
    for frame in _frames_from(path, due, presentation.start, video_stream):
        time = opening.frame_time(frame)
        if held is not None and due < time:
            pixels = shaper(held)
            while due < time:
                yield pixels
                due += step
        # A timestamp that goes back does not stop the clock: the later frame replaces the earlier.
        held, held_time = frame, time
    end = held_time + _frame_duration(held, step)
    if due < end:
        pixels = shaper(held)
        while due < end:
            yield pixels
            due += step


def _check_request(frames_per_second, height_px, width_px, start_s) -> None:
    if not 0 < frames_per_second <= 1000:
        raise ValueError(f"frames_per_second must be in (0, 1000], got {frames_per_second}.")
    if (height_px is None) != (width_px is None) or (height_px or 1) < 1 or (width_px or 1) < 1:
        raise ValueError(
            f"height_px and width_px must both be positive or both be None, got {height_px} and "
            f"{width_px}."
        )
    if not 0 <= start_s < float("inf"):
        raise ValueError(f"start_s must be 0 or more, got {start_s}.")


def _frames_from(path, due: Fraction, origin: Fraction, video_stream) -> Iterator:
    """Yields decoded frames from one at or before `due` on, seeking where that is safe."""
    if due - origin > _SEEK_FROM_S:
        with opening.open_media(path) as container:
            stream = _video_stream(container, video_stream)
            if opening.seeks_exactly(container):
                opening.seek(container, stream, due)
                frames = opening.decode(container, stream)
                first = _first_or_none(frames)
                if first is not None and opening.frame_time(first) <= due:
                    yield first
                    yield from frames
                    return
    with opening.open_media(path) as container:
        yield from opening.decode(container, _video_stream(container, video_stream))


def _first_or_none(frames):
    try:
        return next(frames)
    except MediaError:
        # Past the last key frame there may be nothing to decode; the whole file then decides.
        return None


def _video_stream(container, number):
    stream = opening.choose_stream(container, "video", number)
    if stream is None:
        raise MediaError(f"{container.name} has no video stream; leave it out.")
    return stream


def _frame_duration(frame, step: Fraction) -> Fraction:
    """How long the last frame stays: what the file says, else one step of the result."""
    return frame.duration * frame.time_base if frame.duration else step


class _Shaper:
    """Decoded frame -> upright RGB pixels of the asked size."""

    def __init__(self, path, height_px: int | None, width_px: int | None, pixel_aspect: Fraction):
        self._path, self._pixel_aspect = path, pixel_aspect
        self._height_px, self._width_px = height_px, width_px
        self._reformatter = VideoReformatter()

    def __call__(self, frame) -> UInt8[np.ndarray, "Y X 3"]:
        turns, is_mirrored = _orientation(frame)
        source = (frame.height, round(frame.width * self._pixel_aspect))
        target = (self._height_px or source[0], self._width_px or source[1])
        if turns % 2 and self._height_px:
            target = target[::-1]
        # Resized so that it covers the target, then cut: no part of the result is made up.
        ratio = max(target[0] / source[0], target[1] / source[1])
        covering = [max(t, round(ratio * s)) for t, s in zip(target, source, strict=True)]
        shrinks = covering[0] <= frame.height and covering[1] <= frame.width
        with opening.sentences(self._path):
            pixels = self._to_rgb(frame, covering, shrinks)
        top, left = (covering[0] - target[0]) // 2, (covering[1] - target[1]) // 2
        pixels = pixels[top : top + target[0], left : left + target[1]]
        if is_mirrored:
            pixels = pixels[::-1]
        return np.ascontiguousarray(np.rot90(pixels, turns))

    def _to_rgb(self, frame, size: list[int], shrinks: bool):
        """Averages areas when shrinking: exact for enlarged pixels, free of aliasing."""
        kernel = Interpolation.AREA if shrinks else Interpolation.BICUBIC
        is_full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
        rgb = self._reformatter.reformat(
            frame,
            width=size[1],
            height=size[0],
            format="rgb24",
            src_colorspace=_colorspace(frame),
            src_color_range=ColorRange.JPEG if is_full else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=kernel | _EXACT,
            threads=1,
        )
        return rgb.to_ndarray()


def _colorspace(frame) -> int:
    """The matrix of the frame; untagged pictures follow the custom of players (by size)."""
    if frame.colorspace != _UNSPECIFIED_COLORSPACE:
        return frame.colorspace
    return Colorspace.ITU709 if frame.height >= _HD_FROM_ROWS else Colorspace.ITU601


def _orientation(frame) -> tuple[int, bool]:
    """Returns (quarter turns counter-clockwise, whether the rows are reversed before them)."""
    side_data = frame.side_data.get(Type.DISPLAYMATRIX)
    if side_data is None:
        return 0, False
    matrix = np.frombuffer(bytes(side_data), "<i4").astype(np.float64)
    is_mirrored = matrix[0] * matrix[4] - matrix[1] * matrix[3] < 0
    return round(frame.rotation / 90) % 4, bool(is_mirrored)
