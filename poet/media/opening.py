"""Opening files, choosing streams, decoding: where FFmpeg's errors become sentences."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from fractions import Fraction

import av

from poet.media.errors import MediaError

# A stream may lose this share of its packets (a recording that starts in the middle of a picture
# does) before the file counts as damaged.
_MAX_BAD_SHARE = 0.1


@contextlib.contextmanager
def open_media(path: str | os.PathLike) -> Iterator[av.container.InputContainer]:
    """Opens a file for reading; every FFmpeg error inside the block becomes a MediaError."""
    if not os.path.exists(path):
        raise MediaError(f"There is no file {path}; check the name, or the manifest's folder.")
    if os.path.isdir(path):
        raise MediaError(f"Expected a media file, got the folder {path}; name a file in it.")
    with sentences(path), av.open(str(path), metadata_errors="replace") as container:
        yield container


@contextlib.contextmanager
def sentences(path: str | os.PathLike) -> Iterator[None]:
    """Turns FFmpeg's errors about `path` into MediaErrors."""
    try:
        yield
    except av.FFmpegError as error:
        raise MediaError(
            f"{path} cannot be decoded ({error.strerror}); replace the file or leave it out."
        ) from error


def choose_stream(container, kind: str, number: int | None = None):
    """Returns the stream to use, or None where the file has none of this kind.

    Args:
      container: an open file.
      kind: "video" or "audio".
      number: N for the N-th stream of the kind, from 0; None for the first with the default
        disposition, else the first. Cover pictures are never chosen by themselves.
    """
    streams = list(getattr(container.streams, kind))
    if number is not None:
        if not 0 <= number < len(streams):
            names = ", ".join(f"{i}: {_describe(stream)}" for i, stream in enumerate(streams))
            raise MediaError(
                f"{container.name} has no {kind} stream {number}; it has {names or 'none'}."
            )
        return streams[number]
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in streams if not stream.disposition & cover]
    default = av.stream.Disposition.default
    chosen = [stream for stream in streams if stream.disposition & default] or streams
    return chosen[0] if chosen else None


def _describe(stream) -> str:
    context = stream.codec_context
    if stream.type == "video":
        return f"{context.name} {context.width}x{context.height}"
    return f"{context.name} {context.sample_rate} Hz"


def decode(container, stream) -> Iterator[av.frame.Frame]:
    """Yields the decoded frames of one stream in the order of presentation.

    Packets that cannot be decoded are skipped; a stream that loses more than a tenth of them, or
    has no frame at all, is a MediaError.
    """
    if stream.codec_context is None:
        raise MediaError(
            f"{container.name} holds a {stream.type} stream of an unknown codec; convert it to mp4."
        )
    stream.thread_type = "AUTO"
    num_packets = num_bad = num_frames = 0
    for packet in container.demux(stream):
        num_packets += 1
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            num_bad += 1
            continue
        for frame in frames:
            if frame.pts is not None:
                num_frames += 1
                yield frame
    if not num_frames or num_bad > _MAX_BAD_SHARE * num_packets:
        raise MediaError(
            f"{container.name} is damaged: {num_bad} of {num_packets} {stream.type} packets cannot "
            f"be decoded, {num_frames} frames can; replace the file or leave it out."
        )


def frame_time(frame) -> Fraction:
    """Returns the exact presentation time of a frame on the file's timeline, in seconds."""
    return frame.pts * frame.time_base


def seeks_exactly(container) -> bool:
    """Whether the container has an index of key frames, so that seeking loses nothing."""
    return container.format.name.startswith(("mov", "matroska"))


def seek(container, stream, time: Fraction) -> None:
    """Moves to a key frame at or before `time` on the file's timeline."""
    container.seek(int(time / stream.time_base), stream=stream, backward=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Presentation:
    """Where a file begins on its own timeline, the width of its pixels over their height, and
    whether it has an audio stream.

    `start` is the time of the first presented frame (without video: of the first sound), in s. It
    is the zero of every `start_s` in this room, so that picture and sound share one clock.
    """

    start: Fraction
    pixel_aspect: Fraction = Fraction(1)
    has_sound: bool = False


def presentation(path: str | os.PathLike, video_stream: int | None = None) -> Presentation:
    """Returns the presentation of a file; decodes one frame."""
    with open_media(path) as container:
        audio = choose_stream(container, "audio")
        stream = choose_stream(container, "video", video_stream) or audio
        if stream is None:
            raise MediaError(f"{path} has neither video nor sound; leave it out.")
        start = frame_time(next(decode(container, stream)))
        aspect = stream.sample_aspect_ratio if stream.type == "video" else None
        return Presentation(
            start=start, pixel_aspect=aspect or Fraction(1), has_sound=audio is not None
        )
