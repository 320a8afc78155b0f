"""Sound on the picture's clock."""

from fractions import Fraction

import av
import numpy as np
import pytest

from poet.media.errors import MediaError
from poet.media.sound import SoundReader, has_sound, read_sound
from poet.media.video import read_video
from poet.media.write import write_video, write_wav


def _onsets_s(sound, threshold=0.05, quiet_s=0.1):
    """When the sound becomes louder than the threshold after a quiet stretch."""
    loud = np.flatnonzero(np.abs(sound) > threshold)
    is_first = np.r_[True, np.diff(loud) > quiet_s * 16_000]
    return loud[is_first] / 16_000


@pytest.mark.parametrize("flash", [0, 3, 8, 16])
def test_flash_and_click_stay_together(tmp_path, flash):
    frames = np.zeros((17, 32, 32, 3), np.uint8)
    frames[flash] = 255
    click = np.zeros(34_000, np.float32)
    click[flash * 2_000 : flash * 2_000 + 80] = 0.9
    path = tmp_path / "flash.mp4"
    write_video(path, frames, 8, click)
    bright = np.flatnonzero(read_video(path, 8).mean((1, 2, 3)) > 128)
    assert bright.tolist() == [flash]
    (heard_s,) = _onsets_s(read_sound(path), 0.3)
    assert heard_s == pytest.approx(flash / 8, abs=0.002)


def test_the_beeps_of_the_counter_clip(real_clips):
    """Twenty beeps at 0.04 + 0.5 k s."""
    sound = read_sound(real_clips / "smpte_counter_beep.mp4")
    np.testing.assert_allclose(_onsets_s(sound, 0.02), 0.04 + 0.5 * np.arange(20), atol=0.01)


def test_reading_from_the_middle_changes_nothing(real_clips):
    path = real_clips / "smpte_counter_beep.mp4"
    whole = read_sound(path)
    part = read_sound(path, start_s=6.25, duration_s=2.0)
    np.testing.assert_allclose(part, whole[100_000:132_000], atol=1e-4)


def test_the_sound_of_real_clips(real_clips, real_facts):
    """Loudness and length as the manifest says (its figure is before mixing to mono)."""
    for name, row in real_facts.items():
        if row["has_audio"] != "yes":
            assert not (row["video_codec"] and has_sound(real_clips / name))
            continue
        sound = read_sound(real_clips / name)
        assert len(sound) / 16_000 == pytest.approx(float(row["duration_s"]), abs=0.04), name
        rms = float(np.sqrt(np.mean(sound**2)))
        assert 0.5 * float(row["audio_rms"]) <= rms <= 1.02 * float(row["audio_rms"]), name


def _write_streams(path, offset_samples, layout="mono", level=(0.5,), num_samples=16_000):
    """Two seconds of black at 8 fps, and a constant level that starts at an offset."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=8, options={"bf": "0"})
        video.height, video.width, video.pix_fmt = 32, 32, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=16_000, layout=layout)
        for number in range(16):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number + 8, Fraction(1, 8)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = np.repeat(np.array(level)[None] * 32_767, num_samples, 0).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.pts, frame.sample_rate = 16_000 + offset_samples, 16_000
        frame.time_base = Fraction(1, 16_000)
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


@pytest.mark.parametrize("offset_s", [-0.5, 0.0, 0.25])
def test_streams_that_start_apart(tmp_path, offset_s):
    """Picture from 1 s on the file's clock, sound earlier or later by offset_s."""
    path = tmp_path / "apart.mkv"
    _write_streams(path, int(offset_s * 16_000))
    sound = read_sound(path)
    assert len(sound) == pytest.approx((1 + offset_s) * 16_000, abs=20)
    start = max(0, int(offset_s * 16_000))
    assert not sound[: max(0, start - 20)].any()
    np.testing.assert_allclose(sound[start + 100 : -100], 0.5, atol=0.01)


@pytest.mark.parametrize(
    "layout, level, mixed",
    [
        ("mono", (0.5,), 0.5),
        ("stereo", (0.5, 0.5), 0.5),
        ("stereo", (0.8, 0.0), 0.4),
        ("stereo", (0.8, -0.8), 0.0),
        ("5.1", (0.9, 0.9, 0.9, 0.0, 0.9, 0.9), 0.9),
    ],
)
def test_channels_are_mixed_without_clipping(tmp_path, layout, level, mixed):
    path = tmp_path / "channels.mkv"
    _write_streams(path, 0, layout, level)
    np.testing.assert_allclose(read_sound(path)[200:15_000], mixed, atol=0.01)


def test_windows_say_what_is_missing(tmp_path):
    path = tmp_path / "late.mkv"
    _write_streams(path, 4_000)
    with SoundReader(path) as reader:
        first = reader.window(0, 8_000)
        second = reader.window(6_000, 10_000)
        third = reader.window(30_000, 1_000)
    assert first.num_missing == pytest.approx(4_000, abs=20)
    assert second.num_missing == 0
    np.testing.assert_array_equal(first.samples[6_000:], second.samples[:2_000])
    assert third.num_missing == 1_000 and third.is_silent and not second.is_silent


def test_a_gap_stays_silent(tmp_path):
    """Two stretches of sound with half a second of nothing between them."""
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for at in (0, 16_000):
            samples = np.full((1, 8_000), 16_384, np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.pts, frame.sample_rate, frame.time_base = at, 16_000, Fraction(1, 16_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    sound = read_sound(path)
    assert len(sound) == pytest.approx(24_000, abs=20)
    assert np.abs(sound[8_100:15_900]).max() == 0
    assert sound[100:7_900].min() > 0.49 and sound[16_100:23_900].min() > 0.49


def test_wav_files_have_a_clock_of_their_own(tmp_path):
    tone = (0.5 * np.sin(np.arange(16_000) / 5)).astype(np.float32)
    write_wav(tmp_path / "tone.wav", tone)
    np.testing.assert_allclose(read_sound(tmp_path / "tone.wav"), tone, atol=1e-4)
    assert read_sound(tmp_path / "tone.wav", start_s=2.0).shape == (0,)
    assert read_sound(tmp_path / "tone.wav", start_s=0.5, duration_s=2.0).shape == (8_000,)


def test_refusals(tmp_path):
    path = tmp_path / "mute.mp4"
    write_video(path, np.zeros((2, 32, 32, 3), np.uint8), 8)
    assert not has_sound(path)
    with pytest.raises(MediaError, match="has no audio stream; use it without sound"):
        read_sound(path)
    with pytest.raises(ValueError, match="Times must be 0 s or more, got -1"):
        read_sound(path, start_s=-1.0)
