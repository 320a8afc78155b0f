import pytest

from poet.tokens.clip import ClipShape, SoundShape


@pytest.mark.parametrize(
    "frames, height, width, grid, tokens",
    [
        (17, 128, 128, (5, 16, 16), 1280),
        (17, 224, 128, (5, 28, 16), 2240),
        (41, 128, 128, (11, 16, 16), 2816),
        (41, 224, 128, (11, 28, 16), 4928),
        (1, 128, 128, (1, 16, 16), 256),
        (17, 32, 32, (5, 4, 4), 80),
    ],
)
def test_grids(frames, height, width, grid, tokens):
    clip = ClipShape(frames, height, width)
    assert clip.grid == grid and clip.num_tokens == tokens


def test_latent_frames_to_pixel_frames():
    clip = ClipShape(17, 32, 32)
    assert [clip.frames_of(n) for n in range(6)] == [0, 1, 5, 9, 13, 17]
    assert clip.duration_s == 2.125


@pytest.mark.parametrize("frames, audio_frames", [(17, 106), (41, 256)])
def test_sound_of_a_clip(frames, audio_frames):
    sound = SoundShape.for_clip(ClipShape(frames, 128, 128), num_levels=4)
    assert sound.num_audio_frames == audio_frames
    assert sound.num_tokens == 4 * audio_frames
    assert sound.num_samples == 320 * audio_frames


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((17, 130, 128), "height_px=130 is not a whole number of tokens .* 128 or 136"),
        ((17, 128, 0), "width_px=0 is not a whole number of tokens"),
        ((16, 128, 128), r"num_frames=16 must be 1 \+ a multiple of 4, for example 13 or 17"),
        ((0, 128, 128), "num_frames=0 must be 1"),
        ((17, 128, 128, float("nan")), "frames_per_second=nan must be a positive number"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClipShape(*arguments)


def test_silent_clips_have_no_sound_shape():
    with pytest.raises(ValueError, match="num_levels=0 must be at least 1; a clip without sound"):
        SoundShape(0, 106)
