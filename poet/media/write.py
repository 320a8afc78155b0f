"""Writing clips: mp4, WebM and GIF, with sound where the format has any, and WAV sound.

Every writer fills a temporary sibling and renames it, so a file under its final name is whole. The
same input gives the same bytes: one encoder thread, no dates, no version strings in the container.

Axes: T frames, Y rows, X columns, C channels, S samples.
"""

import contextlib
import os
import uuid
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from poet.typing import Float, UInt8

# Constant rate factor of x264: 12 is visually lossless, so that a checker measures the model and
# not the codec.
# Neither B-frames nor macroblock trees: with them x264 (build of PyAV 18.1) now and then gives
# other bytes for equal tiny frames (1 file in 100), and files are compared byte by byte.
_H264_OPTIONS = {
    "crf": "12",
    "preset": "fast",
    "threads": "1",
    "bf": "0",
    "x264-params": "mbtree=0",
}
# The fast search leaves less noise (75 against 48 dB for a tone) in a third of the time, but it
# cannot hold loud tones: 52 dB or more up to an amplitude of 0.42, 36 dB at 0.44, 28 dB at 0.47.
_FAST_AAC_MAX_TONE = 0.42
_AAC_BITS_PER_SECOND = 128_000
_VP9_OPTIONS = {"crf": "12", "b": "0", "deadline": "good", "cpu-used": "4", "threads": "1"}
_OPUS_RATE_HZ = 48_000
_BT709 = 1
_LIMITED_RANGE = 1


@contextlib.contextmanager
def temporary_sibling(path: str | os.PathLike, is_shared: bool = False) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to it on success and deleted on failure.

    The suffix is kept, because encoders choose the container by it. The name is always the same, so
    that what a killed process left is overwritten by the next one; `is_shared` is for files that
    several hosts may write at once, and gives each a name of its own.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    own = f"-{uuid.uuid4().hex[:8]}" if is_shared else ""
    temporary = final.with_name(f".{final.stem}.partial{own}{final.suffix}")
    try:
        yield temporary
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def write_video(
    path: str | os.PathLike,
    frames: UInt8[np.ndarray, "T Y X 3"],
    frames_per_second: float,
    sound: Float[np.ndarray, "S"] | None = None,
    sample_rate_hz: int = 16_000,
    scale: int = 1,
) -> None:
    """Writes an mp4 file (H.264 yuv420p, AAC) that any player opens.

    Args:
      path: ends in .mp4.
      frames: RGB, 0 to 255. Height and width times `scale` must be even (4:2:0 chroma).
      frames_per_second: constant rate of the frames.
      sound: mono in [-1, 1], starting with the first frame; louder samples are clipped. The
        encoder's priming samples are hidden by the container's edit list, so a reader that honours
        it gets sample 0 at frame 0.
      sample_rate_hz: rate of `sound`.
      scale: every pixel becomes a scale x scale square, for pictures too small to look at.
    """
    _check_video(path, frames, frames_per_second, scale)
    if sound is not None:
        _check_sound(sound, sample_rate_hz)
    rate = Fraction(frames_per_second).limit_denominator(1001)
    with temporary_sibling(path) as temporary:
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        with av.open(str(temporary), "w", format="mp4", options=options) as container:
            video_stream = _add_h264(container, rate, frames.shape, scale)
            audio_stream = None if sound is None else _add_aac(container, sound, sample_rate_hz)
            _mux_video(container, video_stream, frames, scale)
            if sound is not None:
                _mux_sound(container, audio_stream, sound, sample_rate_hz)


def write_clip(path: str | os.PathLike, *args: Any, **more: Any) -> None:
    """Writes what `write_video` takes as .mp4, .webm (VP9, Opus) or .gif (no sound), by the name.

    Raises:
      ValueError: Another ending, or what `write_video` refuses.
    """
    writers = {".mp4": write_video, ".webm": _write_webm, ".gif": _write_gif}
    ending = Path(path).suffix.lower()
    if ending not in writers:
        raise ValueError(f"Clips are written as .mp4, .webm or .gif, got {path}; change the name.")
    writers[ending](path, *args, **more)


def _write_webm(
    path, frames, frames_per_second, sound=None, sample_rate_hz=16_000, scale=1
) -> None:
    _check_pixels(path, frames, frames_per_second, scale)
    if sound is not None:
        _check_sound(sound, sample_rate_hz)
    rate = Fraction(frames_per_second).limit_denominator(1001)
    with temporary_sibling(path) as temporary:
        options = {"fflags": "+bitexact"}
        with av.open(str(temporary), "w", format="webm", options=options) as container:
            stream = container.add_stream("libvpx-vp9", rate=rate, options=dict(_VP9_OPTIONS))
            _describe_picture(stream, rate, frames.shape, scale)
            heard = None
            if sound is not None:
                heard = container.add_stream("libopus", rate=_OPUS_RATE_HZ)
                heard.layout = "mono"
            _mux_video(container, stream, frames, scale)
            if heard is not None:
                # Opus knows five rates only; the resampler gives it the largest.
                _mux_sound(container, heard, sound, sample_rate_hz, _OPUS_RATE_HZ)


def _write_gif(path, frames, frames_per_second, sound=None, sample_rate_hz=16_000, scale=1) -> None:
    from PIL import Image

    del sound, sample_rate_hz  # the format has none

    _check_pixels(path, frames, frames_per_second, scale, needs_even=False)
    pictures = [Image.fromarray(f.repeat(scale, 0).repeat(scale, 1)) for f in frames]
    # GIF counts hundredths of a second; each frame ends where it should, so that none adds up.
    ends = np.round(100 * np.arange(len(frames) + 1) / frames_per_second).astype(int)
    with temporary_sibling(path) as temporary:
        pictures[0].save(
            temporary,
            save_all=True,
            append_images=pictures[1:],
            duration=(10 * np.diff(ends)).tolist(),
            loop=0,
            optimize=False,
        )


def write_wav(
    path: str | os.PathLike, sound: Float[np.ndarray, "S"], sample_rate_hz: int = 16_000
) -> None:
    """Writes mono 16-bit WAV; `sound` in [-1, 1], louder samples are clipped."""
    _check_sound(sound, sample_rate_hz)
    samples = np.round(np.clip(sound, -1.0, 1.0) * 32_767.0).astype("<i2")
    with temporary_sibling(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(samples.tobytes())


def _check_video(path, frames, frames_per_second: float, scale: int) -> None:
    if Path(path).suffix.lower() != ".mp4":
        raise ValueError(f"write_video writes .mp4 files, got {path}; give a name ending in .mp4.")
    _check_pixels(path, frames, frames_per_second, scale)


def _check_pixels(path, frames, frames_per_second: float, scale: int, needs_even=True) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(
            f"{path}: expected uint8 frames [T, Y, X, 3] with at least one frame, got "
            f"{frames.dtype} {list(frames.shape)}; convert floats in [0, 1] with round(255 * x)."
        )
    if not 0 < frames_per_second <= 1000:
        raise ValueError(f"frames_per_second must be in (0, 1000], got {frames_per_second}.")
    is_odd = (frames.shape[1] * scale) % 2 or (frames.shape[2] * scale) % 2
    if scale < 1 or (needs_even and is_odd):
        raise ValueError(
            f"H.264 4:2:0 needs even sizes, got {frames.shape[1]} x {frames.shape[2]} with "
            f"scale {scale}; use an even scale or crop a row or column."
        )


def _check_sound(sound, sample_rate_hz: int) -> None:
    if sound.ndim != 1 or sound.dtype.kind != "f" or not sound.size:
        raise ValueError(
            f"Sound must be mono float samples [S] in [-1, 1], got {sound.dtype} "
            f"{list(sound.shape)}; average the channels or pass None for no sound."
        )
    if not np.isfinite(sound).all():
        raise ValueError("Sound must be finite, got NaN or infinity; check where it comes from.")
    if not 8_000 <= sample_rate_hz <= 96_000:
        raise ValueError(f"sample_rate_hz must be in [8000, 96000], got {sample_rate_hz}.")


def _add_h264(container, rate: Fraction, shape: tuple[int, ...], scale: int):
    stream = container.add_stream("libx264", rate=rate, options=dict(_H264_OPTIONS))
    _describe_picture(stream, rate, shape, scale)
    return stream


def _describe_picture(stream, rate: Fraction, shape: tuple[int, ...], scale: int) -> None:
    stream.height, stream.width = shape[1] * scale, shape[2] * scale
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = 1 / rate
    # Without these tags a player guesses the matrix from the picture size, and colours shift.
    stream.codec_context.colorspace = _BT709
    stream.codec_context.color_primaries = _BT709
    stream.codec_context.color_trc = _BT709
    stream.codec_context.color_range = _LIMITED_RANGE


def _add_aac(container, sound, sample_rate_hz: int):
    search = "fast" if _loudest_tone(sound) <= _FAST_AAC_MAX_TONE else "twoloop"
    stream = container.add_stream("aac", rate=sample_rate_hz, options={"aac_coder": search})
    stream.layout = "mono"
    stream.bit_rate = _AAC_BITS_PER_SECOND
    return stream


def _loudest_tone(sound) -> float:
    """The amplitude of the loudest sinusoid in any stretch of 1,024 samples, at most 4 % low."""
    window = np.hanning(1024)
    padded = np.pad(np.clip(sound, -1.0, 1.0), (512, 1024))
    stretches = np.lib.stride_tricks.sliding_window_view(padded, 1024)[::512]
    # Twice as many bins as samples ask for: a tone between two bins would read 15 % low.
    return float(np.abs(np.fft.rfft(stretches * window, 2048)).max() * 2 / window.sum())


def _mux_video(container, stream, frames, scale: int) -> None:
    for index, pixels in enumerate(frames):
        enlarged = np.repeat(np.repeat(pixels, scale, axis=0), scale, axis=1)
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(enlarged), format="rgb24")
        frame = rgb.reformat(
            format="yuv420p",
            src_colorspace="ITU709",
            dst_colorspace="ITU709",
            src_color_range="JPEG",
            dst_color_range="MPEG",
            threads=1,
        )
        frame.pts = index
        frame.time_base = stream.codec_context.time_base
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _mux_sound(container, stream, sound, sample_rate_hz: int, rate_hz: int = 0) -> None:
    samples = np.clip(sound, -1.0, 1.0).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate = sample_rate_hz
    frame.pts = 0
    frame.time_base = Fraction(1, sample_rate_hz)
    frames = [frame]
    if rate_hz:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate_hz)
        frames = [*resampler.resample(frame), *resampler.resample(None)]
    for converted in frames:
        container.mux(stream.encode(converted))
    container.mux(stream.encode(None))
