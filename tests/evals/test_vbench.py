import json

import numpy as np
import pytest

from poet.evals import vbench

# The row of Show-1 in the table of its paper (arXiv 2309.15818).
SHOW_1 = {
    "subject_consistency": 0.9553,
    "background_consistency": 0.9802,
    "temporal_flickering": 0.9912,
    "motion_smoothness": 0.9824,
    "dynamic_degree": 0.4444,
    "aesthetic_quality": 0.5735,
    "imaging_quality": 0.5975,
    "object_class": 0.9307,
    "multiple_objects": 0.4547,
    "human_action": 0.956,
    "color": 0.8635,
    "spatial_relationship": 0.535,
    "scene": 0.4703,
    "appearance_style": 0.2306,
    "temporal_style": 0.2528,
    "overall_consistency": 0.2746,
}


def test_totals_of_published_values():
    found = vbench.totals(SHOW_1)
    assert found.quality == pytest.approx(0.8059222790063796)
    assert found.semantic == pytest.approx(0.729766747317263)
    assert found.total == pytest.approx(0.7906911726685563)


def test_totals_of_the_ends_of_the_scales():
    for end in (0, 1):
        ends = {name: entry[end] for name, entry in (vbench.QUALITY | vbench.SEMANTIC).items()}
        assert vbench.totals(ends) == vbench.Totals(quality=end, semantic=end, total=end)


def test_flickering_is_the_mean_change():
    frames = np.full((3, 4, 5, 3), 100, np.uint8)
    assert vbench.temporal_flickering(frames) == 1.0
    frames[1] = 49
    assert vbench.temporal_flickering(frames) == pytest.approx(1 - 51 / 255)
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        vbench.temporal_flickering(frames[:1])


def flow_of(num_moving, length_px, num_pairs=15, num_rows=256, num_columns=256):
    """In the first pairs the fastest 5 % of the pixels move; the others rest."""
    flow = np.zeros((num_pairs, num_rows * num_columns, 2))
    num_fast = int(num_rows * num_columns * 0.05)
    flow[:num_moving, :num_fast] = np.array([0.6, 0.8]) * length_px
    return flow.reshape(num_pairs, num_rows, num_columns, 2)


def test_dynamic_degree_counts_pairs_that_move():
    # 16 frames need 4 pairs above 6 px at 256 rows.
    assert vbench.is_dynamic(flow_of(4, 6.1), 8.0)
    assert not vbench.is_dynamic(flow_of(3, 60.0), 8.0)
    assert not vbench.is_dynamic(flow_of(15, 5.9), 8.0)
    # Half the rate, twice the motion; a higher rate asks for no less.
    assert not vbench.is_dynamic(flow_of(4, 11.9), 4.0)
    assert vbench.is_dynamic(flow_of(4, 12.1), 4.0)
    assert not vbench.is_dynamic(flow_of(15, 5.9), 24.0)
    # The shorter side sets the scale.
    assert vbench.is_dynamic(flow_of(4, 3.1, num_rows=128), 8.0)
    with pytest.raises(ValueError, match=r"got \(0, 8, 8, 2\) at 8.0 frames a second"):
        vbench.is_dynamic(np.zeros((0, 8, 8, 2)), 8.0)


def test_frames_that_are_compared():
    assert list(vbench.compared_frames(16, 24.0)) == [0, 3, 6, 9, 12, 15]
    assert list(vbench.compared_frames(3, 8.0)) == [0, 1, 2]
    assert list(vbench.compared_frames(3, 2.0)) == [0, 1, 2]


def test_results_of_its_own_tool(tmp_path):
    first, second = tmp_path / "a_eval_results.json", tmp_path / "b_eval_results.json"
    details = [{"video_path": "x-0.mp4", "video_results": 0.5}]
    names = list(SHOW_1)
    first.write_text(json.dumps({name: [SHOW_1[name], details] for name in names[:5]}))
    second.write_text(json.dumps({name: [SHOW_1[name], details] for name in names[5:]}))
    assert vbench.read_results(first, second) == SHOW_1
    with pytest.raises(ValueError, match="subject_consistency is scored twice"):
        vbench.read_results(first, first)
    for content in ('{"quality": 0.5}', '{"color": 0.5}', "[1]", '{"color": []}'):
        first.write_text(content)
        with pytest.raises(ValueError, match="Expected VBench's results, .dimension: .score"):
            vbench.read_results(first)


def test_folder_for_its_tool(tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.mp4").write_text(name)
    videos = {
        "a dog, running": [tmp_path / "one.mp4", tmp_path / "two.mp4"],
        "A red car.": [tmp_path / "three.mp4"],
    }
    written = vbench.lay_out(tmp_path / "out", videos)
    names = ["a dog, running-0.mp4", "a dog, running-1.mp4", "A red car.-0.mp4"]
    assert [path.name for path in written] == names
    assert [path.read_text() for path in written] == ["one", "two", "three"]


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"missing \['color'\], unknown \['colour'\]"):
        vbench.totals({name.replace("color", "colour"): x for name, x in SHOW_1.items()})
    with pytest.raises(ValueError, match="imaging_quality=59.75; divide percentages by 100"):
        vbench.totals(SHOW_1 | {"imaging_quality": 59.75})
    for prompt in ("left/right", "", "x" * 300):
        with pytest.raises(ValueError, match="cannot name a file"):
            vbench.lay_out(tmp_path, {prompt: [tmp_path / "one.mp4"]})
    with pytest.raises(ValueError, match="reads .mp4 files, got .*one.webm"):
        vbench.lay_out(tmp_path, {"a": [tmp_path / "one.webm"]})
