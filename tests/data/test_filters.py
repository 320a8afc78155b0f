import numpy as np
import pytest

from poet.data import filters
from poet.data.clips import Clip, ClipRules, cut_clips
from poet.data.filters import ClipFilters, Duplicates
from poet.media.errors import MediaError
from poet.media.images import image_size, write_image
from poet.media.manifest import ManifestRow
from poet.media.write import write_video

ALL = ClipFilters(names=filters.NAMES)


def noise(seed=0, num_frames=5):
    return np.random.default_rng(seed).integers(0, 255, (num_frames, 16, 16, 3), dtype=np.uint8)


def a_clip(frames, sound=True):
    wave = 0.1 * np.sin(np.arange(8_000, dtype=np.float32)) if sound is True else sound
    return Clip(clip_id="a", caption="", split="", frames=frames, sound=wave)


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (a_clip(noise()), ""),
        (a_clip(noise() // 40), "black"),
        (a_clip(np.repeat(noise(num_frames=1), 5, axis=0)), "frozen"),
        (a_clip(noise(), sound=None), "silent"),
        (a_clip(noise(), sound=np.full(8_000, 1e-4, np.float32)), "silent"),
        (a_clip(noise(num_frames=1), sound=None), ""),
    ],
)
def test_reasons(clip, reason):
    assert ALL.reason(clip, 16_000) == reason
    assert ClipFilters().reason(clip, 16_000) == ""


def test_one_loud_moment_is_not_silence_and_one_bright_frame_not_black():
    sound, frames = np.zeros(16_000, np.float32), noise() // 40
    sound[8_000:8_200] = 0.05
    frames[2] = 200
    assert ALL.reason(a_clip(frames, sound), 16_000) == ""


def test_sizes():
    small = ClipFilters(min_side_px=64, max_aspect=3)
    assert small.size_reason(64, 192) == ""
    assert small.size_reason(63, 100) == "100 x 63 px, shorter than 64 px on a side"
    assert "sides differ by more than 3" in small.size_reason(64, 193)


def test_hash_survives_what_encoding_does_and_tells_pictures_apart():
    frames = np.kron(noise(3, 1), np.ones((1, 4, 4, 1), np.uint8))
    blurred = np.clip(
        frames.astype(int) + np.random.default_rng(1).normal(0, 3, frames.shape), 0, 255
    )
    one, two = filters.clip_hash(frames), filters.clip_hash(blurred.astype(np.uint8))
    other = filters.clip_hash(np.kron(noise(4, 1), np.ones((1, 4, 4, 1), np.uint8)))
    assert (one[0] ^ two[0]).bit_count() <= 3 < 15 < (one[0] ^ other[0]).bit_count()


@pytest.mark.parametrize("max_bits", [0, 3])
def test_duplicates_equal_a_search_over_all(max_bits):
    rng = np.random.default_rng(0)
    hashes = [[int(n) for n in rng.integers(0, 2**63, 3)] for _ in range(40)]
    for at in range(40):  # near copies: a few bits of each hash turned
        flips = [sum(1 << int(b) for b in rng.choice(64, at % 5, False)) for _ in range(3)]
        hashes.append([h ^ f for h, f in zip(hashes[at], flips, strict=True)])
    seen, kept = Duplicates(max_bits), []
    for one in hashes:
        is_new = not any(
            all((a ^ b).bit_count() <= max_bits for a, b in zip(one, other, strict=True))
            for other in kept
        )
        assert seen.is_new(one) == is_new
        kept += [one] * is_new
    assert 40 < len(kept) < 80


def scenes(path):
    """20 frames of one level, 12 of another, 10 of a third, each with a little motion."""
    frames = np.concatenate(
        [np.full((n, 32, 32, 3), level, np.uint8) for n, level in ((20, 40), (12, 200), (10, 90))]
    )
    frames[:, :4, :4] += (np.arange(42, dtype=np.uint8) % 2 * 20)[:, None, None, None]
    write_video(path, frames, 8, np.zeros(84_000, np.float32))


def test_no_clip_reaches_over_a_scene_change(tmp_path):
    scenes(tmp_path / "a.mp4")
    row = ManifestRow(path=tmp_path / "a.mp4", clip_id="a")
    rules = ClipRules(height_px=32, width_px=32, num_frames=9, scene_change=30.0)
    cut = list(cut_clips(row, rules))
    # Two of the first scene (0 to 17 of 20 frames), one of the second (20), one of the third (32).
    assert [clip.clip_id for clip in cut] == ["a", "a@1.125s", "a@2.500s", "a@4.000s"]
    levels = [clip.frames[:, 8:].mean(axis=(1, 2, 3)) for clip in cut]
    assert [round(float(level.mean()), -1) for level in levels] == [40, 40, 200, 90]
    assert max(float(np.ptp(level)) for level in levels) < 5
    plain = list(cut_clips(row, ClipRules(height_px=32, width_px=32, num_frames=9)))
    assert [clip.clip_id for clip in plain] == ["a", "a@1.125s", "a@2.250s", "a@3.375s"]


def test_short_files_are_refused_where_asked(tmp_path):
    write_video(tmp_path / "s.mp4", noise(num_frames=5), 8)
    row = ManifestRow(path=tmp_path / "s.mp4", clip_id="s")
    rules = {"height_px": 16, "width_px": 16}
    (still,) = cut_clips(row, ClipRules(**rules))
    assert len(still.frames) == 1
    with pytest.raises(MediaError, match="no 17 frames on end"):
        list(cut_clips(row, ClipRules(**rules, filters=ClipFilters(names=("short",)))))


def test_small_files_are_refused_before_they_are_decoded(tmp_path):
    write_image(tmp_path / "wide.png", np.zeros((16, 80, 3), np.uint8))
    assert image_size(tmp_path / "wide.png") == (16, 80)
    write_video(tmp_path / "s.mp4", noise(num_frames=17), 8)
    for name, size, words in (
        ("wide.png", {"max_aspect": 4.0}, "80 x 16 px, sides differ"),
        ("s.mp4", {"min_side_px": 32}, "16 x 16 px, shorter than 32"),
    ):
        row = ManifestRow(path=tmp_path / name, clip_id="s")
        rules = ClipRules(height_px=16, width_px=16, filters=ClipFilters(**size))
        with pytest.raises(MediaError, match=words):
            list(cut_clips(row, rules))


def test_refusals():
    with pytest.raises(ValueError, match=r"Unknown filters \['blurry'\]; choose some of black"):
        ClipFilters(names=("blurry",))
    with pytest.raises(ValueError, match="duplicate_bits must be 0 to 3, got 4"):
        ClipFilters(duplicate_bits=4)
    with pytest.raises(ValueError, match="scene_change must be in"):
        ClipRules(height_px=16, width_px=16, scene_change=0)
