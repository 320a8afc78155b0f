"""WebM and GIF files; mp4 has tests of its own."""

import numpy as np
import pytest

from poet.media import sound, video, write

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def clip():
    """A bright square that crosses a dark picture in a second, with a tone."""
    frames = np.full((8, 64, 96, 3), 30, np.uint8)
    for index in range(8):
        frames[index, 16:48, 8 * index : 8 * index + 32] = (220, 120, 40)
    heard = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ)
    return frames, heard.astype(np.float32)


def test_webm_plays_with_its_sound(clip, tmp_path):
    frames, heard = clip
    path = tmp_path / "clip.webm"
    write.write_clip(path, frames, 8, heard, RATE_HZ, scale=2)
    facts = video.probe(path)
    assert (facts.video_codec, facts.audio_codec) == ("vp9", "opus")
    assert (facts.width_px, facts.height_px) == (192, 128)
    back = video.read_video(path, 8.0, 64, 96)
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 6
    again = sound.read_sound(path, RATE_HZ)
    assert abs(len(again) - RATE_HZ) < 0.03 * RATE_HZ
    spectrum = np.abs(np.fft.rfft(again[2000:14_000]))
    assert abs(spectrum.argmax() * RATE_HZ / 12_000 - 440) < 3


def test_gif_keeps_frames_colours_and_time(clip, tmp_path):
    from PIL import Image

    frames, _ = clip
    path = tmp_path / "clip.gif"
    write.write_clip(path, frames, 8)
    with Image.open(path) as file:
        assert file.n_frames == 8 and file.info["loop"] == 0
        durations = []
        for index in range(8):
            file.seek(index)
            durations.append(file.info["duration"])
            shown = np.asarray(file.convert("RGB")).astype(int)
            assert np.abs(shown - frames[index]).max() <= 8
    # Hundredths of a second: 0.125 s is 12 and 13 in turns, and eight of them are one second.
    assert sum(durations) == 1000 and set(durations) <= {120, 130}


def test_the_same_clip_gives_the_same_bytes(clip, tmp_path):
    frames, heard = clip
    for name in ("a", "b"):
        write.write_clip(tmp_path / f"{name}.gif", frames, 8)
        write.write_clip(tmp_path / f"{name}.mp4", frames, 8, heard)
    for ending in ("gif", "mp4"):
        first, second = ((tmp_path / f"{n}.{ending}").read_bytes() for n in "ab")
        assert first == second


def test_refusals(clip, tmp_path):
    frames, _ = clip
    with pytest.raises(ValueError, match=r"written as \.mp4, \.webm or \.gif, got .*clip\.avi"):
        write.write_clip(tmp_path / "clip.avi", frames, 8)
    with pytest.raises(ValueError, match="needs even sizes, got 63 x 96"):
        write.write_clip(tmp_path / "clip.webm", frames[:, 1:], 8)
    assert not list(tmp_path.iterdir())
