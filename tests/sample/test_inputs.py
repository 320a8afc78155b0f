"""Ordinary files to what tasks are given, and what people are told about it."""

import numpy as np
import pytest

from poet.data import masking, structure
from poet.media import images, write
from poet.sample import inputs
from poet.sample.asks import Ask
from poet.tokens import tasks
from poet.tokens.clip import ClipShape

CLIP = ClipShape(9, 16, 16)
RATE_HZ, NUM_SAMPLES = 16_000, 18_000


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A clip of 16 wide frames, each brighter than the one before, with a rising sound."""
    folder = tmp_path_factory.mktemp("files")
    frames = np.zeros((16, 32, 64, 3), np.uint8)
    frames += (10 * np.arange(16, dtype=np.uint8))[:, None, None, None]
    sound = np.linspace(0, 0.4, 24_000, dtype=np.float32)
    write.write_video(folder / "clip.mp4", frames, 8, sound)
    write.write_video(folder / "short.mp4", frames[:4], 8)
    write.write_wav(folder / "sound.wav", sound)
    images.write_image(folder / "photo.png", np.full((20, 10, 3), 200, np.uint8))
    mask = np.zeros((32, 64, 3), np.uint8)
    mask[:, 32:] = 255
    images.write_image(folder / "mask.png", mask)
    images.write_image(folder / "black.png", 0 * mask)
    images.write_image(folder / "other.png", np.full((30, 30, 3), 255, np.uint8))
    return folder


def read(files, task, from_end=False, **fields):
    named = {
        name: str(files / value) if name in ("image", "video", "audio") else value
        for name, value in fields.items()
    }
    if str(named.get("mask", "")).endswith(".png"):
        named["mask"] = str(files / named["mask"])
    ask = Ask(name="a", **named)
    inputs.check(tasks.get(task), ask)
    return inputs.read(ask, tasks.get(task), CLIP, RATE_HZ, NUM_SAMPLES, from_end=from_end)


def levels(frames):
    """Brightness of each frame's middle, in steps of the file."""
    return np.round(frames[:, 8, 4].mean(axis=-1) / 10).astype(int).tolist()


def test_a_clip_is_cut_from_its_beginning_or_end(files):
    given = read(files, "video_to_audio", video="clip.mp4")
    assert levels(given.frames["visual"]) == list(range(9)) and given.sound is None
    assert given.notes == (
        f"{files / 'clip.mp4'}: 64 x 32, cut to 32 x 32 around its middle, resized to 16 x 16;"
        " 8 frames a second from 0 s",
    )
    given = read(files, "future_prediction_5", from_end=True, video="clip.mp4")
    assert levels(given.frames["visual"]) == [11, 12, 13, 14, 15]
    assert given.notes[0].endswith("from 1.375 s")


def test_a_short_clip_holds_its_last_frame(files):
    given = read(files, "video_to_audio", video="short.mp4")
    assert levels(given.frames["visual"]) == [0, 1, 2, 3, 3, 3, 3, 3, 3]
    assert given.notes[0].endswith("its 4 frames are 5 short, the last one is held")


def test_a_picture_is_the_first_frame(files):
    given = read(files, "image_to_video", image="photo.png")
    assert given.frames["visual"].shape == (1, 16, 16, 3) and given.frames["visual"].min() == 200
    assert given.notes[0].endswith("10 x 20, cut to 10 x 10 around its middle, resized to 16 x 16")
    given = read(files, "image_to_video", video="clip.mp4", start_s=1.0)
    assert levels(given.frames["visual"]) == [8]


def test_sound_is_as_long_as_a_clip(files):
    given = read(files, "audio_to_video", audio="sound.wav", start_s=1.0)
    assert given.sound.shape == (NUM_SAMPLES,) and not given.frames
    np.testing.assert_allclose(given.sound[:8000], np.linspace(0.267, 0.4, 8000), atol=2e-3)
    assert not given.sound[8000:].any()
    assert given.notes[0].endswith("mono at 16000 Hz, 0.62 s of silence at its end")
    both = read(files, "audio_video_continuation", video="clip.mp4")
    assert both.sound is not None and both.frames["visual"].shape[0] == 1


def test_regions_and_masks_hide(files):
    given = read(files, "inpainting", video="clip.mp4")
    whole = read(files, "video_to_audio", video="clip.mp4").frames["visual"]
    np.testing.assert_array_equal(given.frames["masked"], masking.hide(whole, "inpaint_central", 4))
    assert set(given.frames) == {"masked"}
    given = read(files, "outpainting_with_text", video="clip.mp4", mask="outpaint_horizontal")
    np.testing.assert_array_equal(
        given.frames["masked"], masking.hide(whole, "outpaint_horizontal", 4)
    )
    # The right half of the file's frame is the right half of the square cut from its middle.
    given = read(files, "inpainting", video="clip.mp4", mask="mask.png")
    assert not given.frames["masked"][:, :, 8:].any()
    np.testing.assert_array_equal(given.frames["masked"][:, :, :8], whole[:, :, :8])


def test_structure_comes_from_the_clip_and_the_picture_is_the_first_frame(files):
    given = read(
        files, "stylization_with_first_frame", video="clip.mp4", image="photo.png", prompt="a"
    )
    assert given.frames["visual"].shape[0] == 1 and given.frames["visual"].min() == 200
    assert given.frames["structure"].shape == (9, 16, 16, 3)
    flow, nearness = structure.unpack(given.frames["structure"])
    assert np.abs(flow).max() < 0.02 and np.allclose(nearness, nearness[0, 0, 0])


@pytest.mark.parametrize(
    ("task", "fields", "says"),
    [
        ("inpainting", {"video": "photo.png"}, "is a picture, but the task is given a clip of 9"),
        ("inpainting", {"video": "clip.mp4", "mask": "other.png"}, "30 x 30 px, but its clip"),
        ("inpainting", {"video": "clip.mp4", "mask": "black.png"}, "hides nothing; white"),
        ("inpainting", {"video": "clip.mp4", "start_s": 1.9}, "gives 1 frame at 8"),
        ("audio_to_video", {"audio": "photo.png"}, "is a picture and has no sound"),
        ("audio_to_video", {"audio": "short.mp4"}, "has no audio stream"),
        ("audio_to_video", {"audio": "sound.wav", "start_s": 9.0}, "has no sound from 9 s on"),
        ("image_to_video", {"image": "sound.wav"}, "sound.wav"),
    ],
)
def test_refusals(files, task, fields, says):
    with pytest.raises(ValueError, match=says):
        read(files, task, **fields)
