"""Reading sound: mono at the asked rate, on the clock of the picture.

Sample 0 is the moment of the first presented frame (without video, of the first sound), whatever
the two streams' own starts are; encoder priming is cut off as the container's edit list says.

Axes: S samples.
"""

import dataclasses
import os
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from poet.media import opening
from poet.media.errors import MediaError
from poet.typing import Float

# A larger step between timestamps and counted samples is a gap or an overlap; a smaller one is
# rounding (Matroska counts milliseconds).
_MAX_JITTER_S = Fraction(1, 100)
# Decoders need what came before (MP3 and Opus up to about 0.1 s) to come into tune.
_WARM_UP_S = 1
_SEEK_FROM_S = 4
# Without the bound, libswresample adds channels of float sound up to 1.4 times full scale.
_DOWNMIX = {"rematrix_maxval": "1.0"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundWindow:
    """A stretch of sound. `num_missing` of its samples are zeros that no stream holds."""

    samples: Float[np.ndarray, "S"]
    num_missing: int

    @property
    def is_silent(self) -> bool:
        """Whether every sample is digital silence."""
        return not self.samples.any()


def has_sound(path: str | os.PathLike) -> bool:
    """Whether the file has an audio stream."""
    with opening.open_media(path) as container:
        return opening.choose_stream(container, "audio") is not None


def read_sound(
    path: str | os.PathLike,
    sample_rate_hz: int = 16_000,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    video_stream: int | None = None,
) -> Float[np.ndarray, "S"]:
    """Returns mono float32 samples in [-1, 1] from start_s on; an array of 0 where none is left.

    Args:
      path: a video or sound file.
      sample_rate_hz: of the result. Channels are mixed, never above full scale.
      start_s: from the first presented frame. Sound that starts later is preceded by zeros.
      duration_s: at most so long; None up to the end of the sound.
      video_stream: the picture whose first frame is time zero; None for the default one.

    Raises:
      MediaError: the file cannot be decoded or has no audio stream.
    """
    start = _sample_index(start_s, sample_rate_hz)
    limit = None if duration_s is None else _sample_index(duration_s, sample_rate_hz)
    with SoundReader(path, sample_rate_hz, start_s=start_s, video_stream=video_stream) as reader:
        if limit is None:
            return reader.rest(start)
        window = reader.window(start, limit)
    return window.samples[: reader.end - start] if reader.end < start + limit else window.samples


def _sample_index(seconds: float, sample_rate_hz: int) -> int:
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"Times must be 0 s or more, got {seconds}.")
    return round(seconds * sample_rate_hz)


class SoundReader:
    """Cuts windows out of a file's sound in one pass; memory holds one window. Use it in a `with`.

    Windows must be asked for by rising start. A file without an audio stream is a MediaError.
    `presentation`, if given, says instead of `video_stream` where time zero is.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        sample_rate_hz: int = 16_000,
        *,
        start_s: float = 0.0,
        video_stream: int | None = None,
        presentation: opening.Presentation | None = None,
    ):
        self._chunks = _stream_chunks(path, sample_rate_hz, start_s, video_stream, presentation)
        self._held: list[tuple[int, np.ndarray]] = []
        # Samples before this index have been decoded.
        self.end = 0
        self._is_over = False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._chunks.close()

    def window(self, start: int, num_samples: int) -> SoundWindow:
        """Returns samples [start, start + num_samples), counted from the first presented frame."""
        self._held = [(at, chunk) for at, chunk in self._held if at + len(chunk) > start]
        self._read_to(start + num_samples, drop_before=start)
        samples = np.zeros(num_samples, np.float32)
        is_known = np.zeros(num_samples, bool)
        for at, chunk in self._held:
            first, stop = max(at, start), min(at + len(chunk), start + num_samples)
            if first < stop:
                samples[first - start : stop - start] = chunk[first - at : stop - at]
                is_known[first - start : stop - start] = True
        return SoundWindow(samples=samples, num_missing=int(num_samples - is_known.sum()))

    def rest(self, start: int) -> Float[np.ndarray, "S"]:
        """Returns everything from `start` to the end of the sound."""
        self._read_to(None, drop_before=start)
        return self.window(start, max(0, self.end - start)).samples

    def _read_to(self, stop: int | None, drop_before: int) -> None:
        while not self._is_over and (stop is None or self.end < stop):
            at, chunk = next(self._chunks, (0, None))
            if chunk is None:
                self._is_over = True
                return
            self.end = max(self.end, at + len(chunk))
            if at + len(chunk) > drop_before:
                self._held.append((at, chunk))


def _stream_chunks(
    path, sample_rate_hz, start_s, video_stream, presentation
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index of the first sample, samples); indices count from the first frame."""
    origin = (presentation or opening.presentation(path, video_stream)).start
    with opening.open_media(path) as container:
        stream = opening.choose_stream(container, "audio")
        if stream is None:
            raise MediaError(f"{path} has no audio stream; use it without sound.")
        if start_s > _SEEK_FROM_S and opening.seeks_exactly(container):
            start = origin + Fraction(start_s).limit_denominator(10**6)
            opening.seek(container, stream, start - _WARM_UP_S)
        run = None
        for frame in opening.decode(container, stream):
            if run is None or not run.continues(frame):
                if run is not None:
                    yield from run.convert(None)
                run = _Run(frame, origin, sample_rate_hz)
            yield from run.convert(frame)
        yield from run.convert(None)


class _Run:
    """A stretch of frames without a gap or a change of format, resampled as one signal."""

    def __init__(self, first_frame, origin: Fraction, sample_rate_hz: int):
        self._start = opening.frame_time(first_frame)
        self._format = _sound_format(first_frame)
        self._num_in = 0
        self._at = round((self._start - origin) * sample_rate_hz)
        self._resampler = av.AudioResampler(
            format="fltp", layout="mono", rate=sample_rate_hz, options=_DOWNMIX
        )

    def continues(self, frame) -> bool:
        expected = self._start + Fraction(self._num_in, frame.sample_rate)
        is_on_time = abs(opening.frame_time(frame) - expected) <= _MAX_JITTER_S
        return is_on_time and _sound_format(frame) == self._format

    def convert(self, frame) -> Iterator[tuple[int, np.ndarray]]:
        """Yields what the resampler has ready; None as the frame empties it."""
        if frame is not None:
            self._num_in += frame.samples
            # The resampler would act upon jitter; positions are counted here.
            frame.pts = None
        for converted in self._resampler.resample(frame):
            samples = np.clip(converted.to_ndarray()[0], -1.0, 1.0)
            yield self._at, samples
            self._at += len(samples)


def _sound_format(frame) -> tuple:
    return frame.sample_rate, frame.format.name, frame.layout.name
