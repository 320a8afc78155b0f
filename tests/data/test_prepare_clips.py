"""Cutting files into clips: which frames, which sound, what counts as a still image."""

import os
import pathlib
import threading
import time

import numpy as np
import pytest

from poet.data.clips import ClipRules, cut_clips
from poet.data.decoding import in_order
from poet.media.errors import MediaError
from poet.media.images import write_image
from poet.media.manifest import ManifestRow, read_manifest
from poet.media.write import write_video

_RULES = ClipRules(height_px=16, width_px=16)


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    """40 grey frames at 8 fps, frame k of level 6 k; the sound's level is (1 + k) / 100."""
    path = tmp_path_factory.mktemp("media") / "counter.mp4"
    levels = np.arange(40, dtype=np.uint8) * 6
    frames = np.broadcast_to(levels[:, None, None, None], (40, 16, 16, 3)).copy()
    # A tone rather than a constant, which AAC would not keep.
    tone = np.sin(2 * np.pi * 500 * np.arange(80_000) / 16_000)
    sound = tone * np.repeat((1 + np.arange(40)) / 100, 2_000)
    write_video(path, frames, 8, sound.astype(np.float32))
    return path


def _row(path, **fields):
    return ManifestRow(path=path, clip_id=path.stem, caption="words", **fields)


def _first_frames(clips):
    return [round(float(clip.frames[0].mean()) / 6) for clip in clips]


def _first_sounds(clips):
    """Loudness of the first eighth of a second, in frames of the counter."""
    return [round(float(clip.sound[200:1_800].std()) * 100 * 2**0.5) - 1 for clip in clips]


@pytest.mark.parametrize(
    "stride, starts",
    [(None, [0, 17]), (8, [0, 8, 16]), (3, [0, 3, 6, 9, 12, 15, 18, 21]), (20, [0, 20])],
)
def test_clips_by_stride(counter, stride, starts):
    rules = ClipRules(height_px=16, width_px=16, stride_frames=stride)
    clips = list(cut_clips(_row(counter), rules))
    assert _first_frames(clips) == starts
    assert _first_sounds(clips) == starts
    assert {clip.frames.shape for clip in clips} == {(17, 16, 16, 3)}
    assert {clip.sound.shape for clip in clips} == {(34_000,)}
    assert [clip.clip_id for clip in clips] == [
        "counter" if not start else f"counter@{start / 8:.3f}s" for start in starts
    ]


def test_a_later_piece_gives_the_same_clips(counter):
    rules = ClipRules(height_px=16, width_px=16, stride_frames=3)
    whole = list(cut_clips(_row(counter), rules))
    pieces = [*cut_clips(_row(counter), rules, 0, 4), *cut_clips(_row(counter), rules, 4)]
    assert [clip.clip_id for clip in pieces] == [clip.clip_id for clip in whole]
    for one, other in zip(pieces, whole, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_allclose(one.sound, other.sound, atol=1e-3)
    assert not list(cut_clips(_row(counter), rules, first=20))


def test_a_part_of_a_file(counter):
    (clip,) = cut_clips(_row(counter, start_s=1.0, end_s=4.0), _RULES)
    assert _first_frames([clip]) == [8] and _first_sounds([clip]) == [8]
    (still,) = cut_clips(_row(counter, start_s=1.0, end_s=3.0), _RULES)
    assert still.frames.shape[0] == 1 and still.sound is None
    assert still.note == "16 frames, fewer than 17"
    with pytest.raises(MediaError, match="has no frame at 9 s; correct start_s"):
        list(cut_clips(_row(counter, start_s=9.0), _RULES))


@pytest.mark.parametrize(
    "num_samples, has_sound", [(34_000, True), (32_300, True), (30_000, False)]
)
def test_sound_is_padded_by_an_eighth_of_a_second(tmp_path, num_samples, has_sound):
    path = tmp_path / "short.mp4"
    frames = np.zeros((17, 16, 16, 3), np.uint8)
    noise = 0.1 * np.random.default_rng(0).normal(size=num_samples)
    write_video(path, frames, 8, noise.astype(np.float32))
    (clip,) = cut_clips(_row(path), _RULES)
    assert (clip.sound is not None) == has_sound
    if has_sound:
        assert clip.sound.shape == (34_000,)
    else:
        assert clip.note.startswith("sound shorter than the clip by")


def test_mute_silent_and_still(tmp_path):
    frames = np.zeros((17, 16, 16, 3), np.uint8)
    write_video(tmp_path / "mute.mp4", frames, 8)
    write_video(tmp_path / "silent.mp4", frames, 8, np.zeros(34_000, np.float32))
    write_image(tmp_path / "still.png", frames[0])
    mute, silent, still = (
        next(cut_clips(_row(tmp_path / name), _RULES))
        for name in ("mute.mp4", "silent.mp4", "still.png")
    )
    assert mute.sound is None and mute.note == "no audio stream"
    assert silent.sound is not None and silent.note == "digital silence"
    assert still.frames.shape == (1, 16, 16, 3) and still.note == "image file"


def test_real_clips():
    repository = pathlib.Path(__file__).resolve().parents[2]
    folder = os.environ.get("POET_CLIPS", repository.parent / "shared" / "clips")
    if not pathlib.Path(folder, "MANIFEST.tsv").is_file():
        pytest.skip(f"no real clips at {folder} (set POET_CLIPS)")
    rows = {row.clip_id: row for row in read_manifest(folder)}
    cut = {
        name: list(cut_clips(rows[name], _RULES))
        for name in (
            "rooftop_street_60fps",
            "bbb_squirrel_vp9_6ch",
            "testpattern_prores",
            "flower_silent_audio",
            "beetle_noaudio",
            "bbb_title_mpeg2",
        )
    }
    assert {name: [len(clip.frames) for clip in clips] for name, clips in cut.items()} == {
        "rooftop_street_60fps": [17, 17],
        "bbb_squirrel_vp9_6ch": [1],
        "testpattern_prores": [1],
        "flower_silent_audio": [17, 17],
        "beetle_noaudio": [17, 17, 17],
        "bbb_title_mpeg2": [17],
    }
    notes = {name: clips[0].note for name, clips in cut.items()}
    assert notes["flower_silent_audio"] == "digital silence"
    assert notes["beetle_noaudio"] == "no audio stream"
    assert notes["bbb_squirrel_vp9_6ch"] == "8 frames, fewer than 17"
    assert all(clip.sound is not None for clip in cut["rooftop_street_60fps"])


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("height_px", 20, "height_px must be a positive multiple of 8 .* got 20"),
        ("width_px", 0, "width_px must be a positive multiple of 8"),
        ("num_frames", 16, "num_frames must be 1 [+] 4k .* got 16; use 17"),
        ("stride_frames", 0, "stride_frames must be 1 or more, got 0"),
        ("frames_per_second", float("nan"), "frames_per_second must be in"),
        ("max_sound_padding_s", 3.0, "max_sound_padding_s must be between"),
    ],
)
def test_refusals(field, value, words):
    with pytest.raises(ValueError, match=words):
        ClipRules(**({"height_px": 16, "width_px": 16} | {field: value}))


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_jobs_come_in_order(num_workers):
    """Slow jobs first; one fails half-way, which is an item as well."""

    def job(number):
        def run():
            for item in range(20):
                time.sleep(0.002 / (1 + number))
                if (number, item) == (2, 5):
                    raise MediaError("half")
                yield number * 100 + item

        return run

    got = list(in_order([job(number) for number in range(4)], num_workers))
    assert [number for number, _ in got] == [0] * 20 + [1] * 20 + [2] * 6 + [3] * 20
    assert isinstance(got[45][1], MediaError)
    assert [item for number, item in got if number == 3] == [300 + item for item in range(20)]


def test_giving_up_stops_the_workers():
    def endless():
        while True:
            yield 1

    results = in_order([endless, endless], 2)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
