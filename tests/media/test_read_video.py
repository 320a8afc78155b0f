"""Frames on the grid: the last one at or before t, upright, cut out and resized."""

from fractions import Fraction

import av
import numpy as np
import pytest

from poet.media.errors import MediaError
from poet.media.video import probe, read_video, stream_frames
from poet.media.write import write_video


def _levels(frames):
    """The grey level of each frame, in steps of ten: which frame it was."""
    return np.round(frames.reshape(len(frames), -1).mean(1) / 10).astype(int).tolist()


def _write_at(path, frames, milliseconds, **streams):
    """A file with one frame at each of the given times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000, options={"crf": "5", "bf": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, at in zip(frames, milliseconds, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_the_last_frame_at_or_before(tmp_path, grey_steps, suffix):
    """times   0    100  125  126  370  380  600 ms     (variable frame rate)
    frame      0    1    2    3    4    5    6
    grid       0    125  250  375  500  ...
    takes      0    2    3    4    5
    """
    path = tmp_path / f"vfr{suffix}"
    _write_at(path, grey_steps[:7], [0, 100, 125, 126, 370, 380, 600])
    assert _levels(read_video(path, 8))[:5] == [0, 2, 3, 4, 5]


def test_time_is_counted_from_the_first_frame(tmp_path, grey_steps):
    path = tmp_path / "late.mkv"
    _write_at(path, grey_steps[:4], [700, 800, 900, 1000])
    assert probe(path).start_s == pytest.approx(0.7)
    assert _levels(read_video(path, 10, num_frames=4)) == [0, 1, 2, 3]
    assert _levels(read_video(path, 10, start_s=0.2, num_frames=2)) == [2, 3]


def test_rates(tmp_path, grey_steps):
    path = tmp_path / "steps.mp4"
    write_video(path, grey_steps, 16)
    assert _levels(read_video(path, 16)) == list(range(20))
    assert _levels(read_video(path, 8)) == list(range(0, 20, 2))
    assert _levels(read_video(path, 32)) == [k // 2 for k in range(40)]
    assert _levels(read_video(path, 12)) == [k * 16 // 12 for k in range(15)]
    assert _levels(read_video(path, 8, start_s=0.55)) == [8, 10, 12, 14, 16, 18]


def test_the_edit_list_is_honoured(tmp_path, grey_steps, set_edit):
    """The track starts at its fifth frame and ends after ten, though frame 4 is no key frame."""
    path = tmp_path / "edited.mp4"
    write_video(path, grey_steps, 16)
    set_edit(path, 0, 4 * 1024, 625)
    assert _levels(read_video(path, 16)) == list(range(4, 14))


def test_seeking_changes_nothing(tmp_path):
    """A start beyond 4 s is reached by a key frame; the frames are those of the whole reading."""
    frames = np.random.default_rng(0).integers(0, 255, (400, 2, 2, 3)).astype(np.uint8)
    path = tmp_path / "long.mp4"
    write_video(path, frames, 16, scale=16)
    whole = read_video(path, 8, 32, 32)
    for start in (33, 100, 190):
        part = read_video(path, 8, 32, 32, start_s=start / 8, num_frames=9)
        np.testing.assert_array_equal(part, whole[start : start + 9])
    with pytest.raises(MediaError, match="has no frame at 25 s; ask for an earlier start"):
        read_video(path, 8, start_s=25.0)


@pytest.mark.parametrize(
    "matrix, upright",
    [
        ((1, 0, 0, 1), lambda x: x),
        ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
        ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
        ((0, -1, 1, 0), lambda x: np.rot90(x, 1)),
        ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
        ((1, 0, 0, -1), lambda x: x[::-1]),
        ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
    ],
)
def test_rotation_is_applied(tmp_path, set_display_matrix, matrix, upright):
    """The matrix (a b, c d) sends the stored point (x, y) to (a x + c y, b x + d y)."""
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :16], picture[:16, 32:], picture[16:, :16] = 60, 120, 240
    path = tmp_path / "turned.mp4"
    write_video(path, picture[None], 8)
    set_display_matrix(path, *matrix)
    expected = upright(picture)
    back = read_video(path)[0]
    assert back.shape == expected.shape
    assert np.abs(back.astype(int) - expected).max() < 12
    facts = probe(path)
    assert (facts.height_px, facts.width_px) == expected.shape[:2]
    small = read_video(path, 8, expected.shape[0] // 2, expected.shape[1] // 2)[0]
    assert np.abs(small.astype(int) - expected[::2, ::2]).max() < 24


def test_the_middle_is_cut_out(tmp_path):
    """A wide picture loses its sides, a target of another shape decides what is cut."""
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, 32:96] = 200
    path = tmp_path / "wide.mp4"
    write_video(path, picture[None], 8)
    square = read_video(path, 8, 32, 32)[0]
    assert square.shape == (32, 32, 3)
    assert np.abs(square.astype(int) - 200).max() < 12
    wide = read_video(path, 8, 16, 32)[0]
    assert np.abs(wide[:, 10:22].astype(int) - 200).max() < 12
    assert wide[:, :4].max() < 12
    tall = read_video(path, 8, 64, 16)[0]
    assert tall.shape == (64, 16, 3)


def test_shrinking_averages(tmp_path):
    """Fine stripes become grey, not stripes of another width."""
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 200
    path = tmp_path / "stripes.mp4"
    write_video(path, stripes[None], 8)
    assert np.ptp(read_video(path, 8, 32, 32)[0][4:-4, 4:-4].astype(int)) <= 80
    assert np.ptp(read_video(path, 8, 16, 16)[0].astype(int)) <= 8


def test_streams(tmp_path, grey_steps):
    """The default stream is used wherever it stands; another can be asked for."""
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for _ in range(2):
            stream = container.add_stream("libx264", rate=8, options={"bf": "0"})
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
            streams.append(stream)
        streams[0].disposition = av.stream.Disposition.original
        streams[1].disposition = av.stream.Disposition.default
        for stream, level in zip(streams, (5, 15), strict=True):
            frame = av.VideoFrame.from_ndarray(grey_steps[level], format="rgb24")
            frame.pts, frame.time_base = 0, Fraction(1, 8)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert _levels(read_video(path, num_frames=1)) == [15]
    assert _levels(read_video(path, num_frames=1, video_stream=0)) == [5]
    with pytest.raises(MediaError, match="has no video stream 2; it has 0: h264 48x32, 1: h264"):
        read_video(path, video_stream=2)


def test_refusals(tmp_path, grey_steps):
    with pytest.raises(MediaError, match="There is no file .*none.mp4"):
        read_video(tmp_path / "none.mp4")
    with pytest.raises(MediaError, match="got the folder"):
        probe(tmp_path)
    (tmp_path / "text.mp4").write_text("not a video" * 100)
    with pytest.raises(MediaError, match=r"text.mp4 cannot be decoded \(.*\); replace the file"):
        probe(tmp_path / "text.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(MediaError, match="cannot be decoded"):
        read_video(tmp_path / "empty.mp4")
    path = tmp_path / "good.mp4"
    write_video(path, grey_steps, 8)
    for arguments in ({"frames_per_second": 0}, {"height_px": 8}, {"start_s": -1.0}):
        with pytest.raises(ValueError, match="must"):
            next(stream_frames(path, **arguments))


def test_a_damaged_stream_is_refused(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3)).astype(np.uint8)
    path = tmp_path / "damaged.mp4"
    write_video(path, frames, 8)
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 4
    data[at + 2000 :] = bytes(len(data) - at - 2000)
    path.write_bytes(data)
    with pytest.raises(MediaError, match="damaged: .* packets cannot be decoded"):
        read_video(path)


def test_real_clips_match_their_manifest(real_clips, real_facts):
    for name, row in real_facts.items():
        if not row["video_codec"]:
            with pytest.raises(MediaError, match="cannot be decoded"):
                probe(real_clips / name)
            continue
        facts = probe(real_clips / name)
        size = (int(row["width"]), int(row["height"]))
        is_turned = int(row["rotation"]) % 180 != 0
        assert (facts.width_px, facts.height_px) == (size[::-1] if is_turned else size), name
        assert facts.rotation_degrees == int(row["rotation"]), name
        assert facts.video_codec == row["video_codec"], name
        assert facts.pixel_format == row["pix_fmt"], name
        assert facts.frames_per_second == pytest.approx(float(row["avg_fps"]), rel=0.002), name
        assert facts.duration_s == pytest.approx(float(row["duration_s"]), abs=0.06), name
        assert (facts.audio_codec is not None) == (row["has_audio"] == "yes"), name
        if facts.audio_codec:
            assert facts.sample_rate_hz == int(row["audio_rate"]), name
            assert facts.num_channels == int(row["audio_channels"]), name


@pytest.mark.parametrize(
    "name, num_frames",
    [
        ("bear_cage_161x121.webm", 9),
        ("testpattern_prores.mov", 8),
        ("motionphoto_vfr_2tracks_rot.mp4", 17),
        ("bbb_title_mpeg2.ts", 20),
        ("nasa_multistream.mp4", 104),
    ],
)
def test_real_clips_are_read(real_clips, name, num_frames):
    frames = read_video(real_clips / name, 8, 32, 32)
    assert frames.shape == (num_frames, 32, 32, 3)
    assert frames.std() > 10


def test_a_turned_real_clip_is_upright(real_clips):
    """Sky above, roof below: grey sky is brighter and flatter than metal louvres."""
    frame = read_video(real_clips / "arched_roof_hevc_rot_editlist.mp4", 8, 64, 64, num_frames=1)[0]
    assert frame[:12].mean() > frame[-24:].mean() + 20
    assert np.abs(np.diff(frame[:12].astype(int), axis=0)).mean() < 8


def test_the_second_stream_of_a_real_clip(real_clips):
    facts = probe(real_clips / "nasa_multistream.mp4", video_stream=1)
    assert (facts.height_px, facts.width_px) == (270, 480)
