"""Clips from files of every kind, from their beginning and from their middle."""

import numpy as np
import pytest

from poet.evals import folders, reading, resizing
from poet.media import images, write


def counting(num_frames, first=0):
    """Frame k is grey of level 10 (first + k)."""
    levels = 10 * np.arange(first, first + num_frames, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, 16, 16, 3)).copy()


def pictures(folder, frames):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        images.write_image(folder / f"{number:03d}.png", frame)


def one(folder, name="a"):
    (item,) = (item for item in folders.pair(None, folder).items if item.name == name)
    return item


def read(item, **more):
    how = reading.Reading(**({"num_frames": 4, "height_px": 16, "width_px": 16} | more))
    return reading.read_clip(item, item.generated, how)


def levels_of(clip):
    return np.round(clip.frames[:, 8, 8, 0] / 10).astype(int).tolist()


@pytest.mark.parametrize("ending", ["mp4", "webm", "gif", "folder"])
def test_clips_of_every_kind_of_file(tmp_path, ending):
    if ending == "folder":
        pictures(tmp_path / "a", counting(9))
    else:
        write.write_clip(tmp_path / f"a.{ending}", counting(9), 8.0)
    item = one(tmp_path)
    assert reading.size_px(item.generated) == (16, 16) and not reading.has_sound(item.generated)
    assert levels_of(read(item)) == [0, 1, 2, 3]
    # 9 frames: 2 before the middle 4, 3 after them.
    assert levels_of(read(item, is_central=True)) == [2, 3, 4, 5]
    if ending != "folder":
        assert levels_of(read(item, frames_per_second=4.0)) == [0, 2, 4, 6]
    assert read(item, height_px=8, width_px=4).frames.shape == (4, 8, 4, 3)


def test_native_rate_takes_each_frame_once(tmp_path):
    write.write_video(tmp_path / "a.mp4", counting(9), 25.0)
    clip = read(one(tmp_path), frames_per_second=None)
    assert levels_of(clip) == [0, 1, 2, 3] and clip.frames_per_second == 25.0
    assert levels_of(read(one(tmp_path), frames_per_second=None, is_central=True)) == [2, 3, 4, 5]


def test_a_rows_end_is_the_clips_end(tmp_path):
    write.write_video(tmp_path / "x.mp4", counting(9), 8.0)
    rows = ["file\tclip_id\tend_s", "x.mp4\ta\t0.5"]
    (tmp_path / "manifest.tsv").write_text("\n".join(rows) + "\n")
    assert levels_of(read(one(tmp_path))) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="x.mp4 has 4 frames at 8 a second, 5 are needed; ask for"):
        read(one(tmp_path), num_frames=5)


def test_files_that_do_not_serve_are_refused(tmp_path):
    pictures(tmp_path / "p" / "of_p", counting(1))
    with pytest.raises(ValueError, match="of_p has 1 frame at 8 a second, 4 are needed"):
        read(one(tmp_path / "p", "of_p"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="a.mp4 cannot be decoded .*; replace the file or leave"):
        read(one(tmp_path / "bad"))
    write.write_video(tmp_path / "mute" / "a.mp4", counting(9), 8.0)
    item = one(tmp_path / "mute")
    how = reading.Reading(num_frames=4, height_px=16, width_px=16)
    with pytest.raises(ValueError, match="a.mp4 has no sound; leave the metrics of sound out"):
        reading.read_clip(item, item.generated, how, (16_000,))
    with pytest.raises(ValueError, match="at least 1 frame .* got 0 frames of 16 x 16, 8.0 a sec"):
        reading.Reading(num_frames=0, height_px=16, width_px=16)


def test_clips_are_read_at_the_models_side_and_enlarged_bicubically(tmp_path):
    """An answer of 8 px, enlarged by whole pixels to 16: read as 8, then made 32."""
    small = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    pictures(tmp_path / "a", small.repeat(2, 1).repeat(2, 2))
    more = {"num_frames": 2, "height_px": 32, "width_px": 32, "via_px": 8}
    want = resizing.to_uint8(resizing.squash(small, 32, 32, method="bicubic"))
    np.testing.assert_array_equal(read(one(tmp_path), **more).frames, want)
    how = reading.Reading(**more)
    assert how.size == "8x8-cover-crop-to-32x32-bicubic"
    with pytest.raises(ValueError, match="via_px=8 is the side of a square"):
        reading.Reading(**more | {"width_px": 16})
