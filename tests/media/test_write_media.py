"""Written files are whole, equal for equal input, and faithful."""

import wave

import numpy as np
import pytest

from poet.media.images import write_image
from poet.media.sound import read_sound
from poet.media.video import probe, read_video
from poet.media.write import temporary_sibling, write_video, write_wav


@pytest.fixture(scope="module")
def moving_box():
    frames = np.full((17, 32, 32, 3), 40, np.uint8)
    for t in range(17):
        frames[t, 8:20, t : t + 12] = (220, 40, 60)
    return frames


@pytest.fixture(scope="module")
def noise():
    return (0.1 * np.random.default_rng(0).normal(size=34_000)).astype(np.float32)


def test_equal_input_gives_equal_bytes(tmp_path, moving_box, noise):
    files = []
    for number in range(8):
        path = tmp_path / f"{number}.mp4"
        write_video(path, moving_box, 8, noise)
        files.append(path.read_bytes())
    assert len(set(files)) == 1


def test_pixels_come_back(tmp_path, moving_box):
    """Enlarged pixels survive the halved chroma; 1:1 pixels suffer at coloured edges only."""
    for scale, least_psnr_db in ((1, 28.0), (2, 35.0), (4, 41.0)):
        path = tmp_path / f"{scale}.mp4"
        write_video(path, moving_box, 8, scale=scale)
        back = read_video(path, 8, 32, 32)
        assert back.shape == moving_box.shape
        error = np.mean((back.astype(float) - moving_box) ** 2)
        assert 10 * np.log10(255**2 / error) > least_psnr_db
        assert np.abs(back[:, 0, 0].astype(int) - 40).max() <= 2


def test_facts_of_a_written_file(tmp_path, moving_box, noise):
    path = tmp_path / "clip.mp4"
    write_video(path, moving_box, 8, noise, scale=2)
    facts = probe(path)
    assert (facts.video_codec, facts.pixel_format) == ("h264", "yuv420p")
    assert (facts.height_px, facts.width_px, facts.frames_per_second) == (64, 64, 8.0)
    assert (facts.audio_codec, facts.sample_rate_hz, facts.num_channels) == ("aac", 16_000, 1)
    assert facts.duration_s == pytest.approx(2.125)
    write_video(path, moving_box, 8)
    assert probe(path).audio_codec is None


@pytest.mark.parametrize("sample_rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_sound_comes_back_in_place(tmp_path, moving_box, sample_rate_hz):
    """A tone that begins at 1 s: right to half a sample at 16 kHz after AAC and resampling."""
    path = tmp_path / "clip.mp4"

    def tone(rate):
        times = np.arange(int(2.125 * rate)) / rate
        return (0.5 * np.sin(2 * np.pi * 440 * times) * (times >= 1)).astype(np.float32)

    write_video(path, moving_box, 8, tone(sample_rate_hz), sample_rate_hz)
    back = read_sound(path)
    assert len(back) >= 34_000
    assert np.abs(back[18_000:30_000] - tone(16_000)[18_000:30_000]).max() < 0.005


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), temporary_sibling(tmp_path / "a.txt") as path:
        path.write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_a_failure_keeps_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyError), temporary_sibling(tmp_path / "a.txt") as path:
        path.write_text("half")
        raise KeyError
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_wav(tmp_path):
    sound = np.array([0.0, 0.5, -1.0, 2.0], np.float32)
    write_wav(tmp_path / "a.wav", sound)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels()) == (16_000, 1)
        assert np.frombuffer(file.readframes(4), "<i2").tolist() == [0, 16384, -32767, 32767]


def test_refusals(tmp_path, moving_box, noise):
    path = tmp_path / "a.mp4"
    with pytest.raises(ValueError, match=r"writes .mp4 files, got .*a.avi"):
        write_video(tmp_path / "a.avi", moving_box, 8)
    with pytest.raises(ValueError, match="needs even sizes, got 31 x 32 with scale 1"):
        write_video(path, moving_box[:, :31], 8)
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(path, moving_box[:0], 8)
    with pytest.raises(ValueError, match="frames_per_second must be"):
        write_video(path, moving_box, float("nan"))
    with pytest.raises(ValueError, match="Sound must be finite"):
        write_video(path, moving_box, 8, noise * np.float32("nan"))
    with pytest.raises(ValueError, match="Sound must be mono float"):
        write_video(path, moving_box, 8, noise[:0])
    with pytest.raises(ValueError, match="sample_rate_hz must be"):
        write_wav(tmp_path / "a.wav", noise, 1)
    with pytest.raises(ValueError, match="as .png or .jpg"):
        write_image(tmp_path / "a.tga", moving_box[0])
    assert not list(tmp_path.iterdir())


# 445.3 Hz lies between two bins of 1,024 samples.
@pytest.mark.parametrize("frequency_hz", [440.0, 445.3125])
@pytest.mark.parametrize(
    "amplitude, least_snr_db", [(0.1, 55), (0.3, 55), (0.41, 55), (0.46, 30), (0.49, 30), (0.9, 30)]
)
def test_quiet_and_loud_tones_keep_their_loudness(
    tmp_path, moving_box, amplitude, least_snr_db, frequency_hz
):
    turns = frequency_hz * np.arange(34_000) / 16_000
    tone = (amplitude * np.sin(2 * np.pi * turns)).astype(np.float32)
    write_video(tmp_path / "tone.mp4", moving_box, 8, tone)
    error = read_sound(tmp_path / "tone.mp4")[500:33_500] - tone[500:33_500]
    assert 20 * np.log10(tone.std() / error.std()) > least_snr_db
