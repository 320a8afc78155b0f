import numpy as np
import pytest

from poet.data import structure
from poet.shapes_world import render, world


def a_clip(motion="right", speed="fast", **more):
    words = {"shape": "square", "colour": "red", "start_x": 0.25, "start_y": 0.5} | more
    return world.ClipSpec(motion=motion, speed=speed, **words)


def exact(spec, size_px=64, num_frames=5):
    return structure.exact_structure(spec, world.frame_times_s(num_frames + 1), size_px)


def test_a_moving_shape_moves_as_one():
    spec = a_clip()
    flow, nearness = exact(spec)
    # Half a width a second, eight frames a second.
    inside = nearness == 1
    np.testing.assert_allclose(flow[inside], [[0.0625, 0.0]] * inside.sum(), atol=1e-6)
    assert not flow[nearness == 0].any()
    frames = render.render_frames(spec, 64, 5)
    np.testing.assert_array_equal(nearness > 0, frames[..., 0] > world.LOW_LEVEL)


def test_the_next_frame_is_where_the_flow_points():
    spec = a_clip("up", "slow", start_y=0.6)
    flow, nearness = exact(spec, 64, 4)
    # 1/32 of 64 px is 2 rows.
    np.testing.assert_array_equal(nearness[0][2:], nearness[1][:-2])
    np.testing.assert_allclose(flow[0][nearness[0] == 1][:, 1] * 64, -2, atol=1e-5)


def test_a_growing_shape_flows_outwards():
    flow, nearness = exact(a_clip("growing", world.NONE, start_x=0.5, start_y=0.5), 64, 5)
    inside = nearness[0] == 1
    rows, columns = np.nonzero(inside)
    assert (np.sign(flow[0][inside][:, 0]) == np.sign(columns + 0.5 - 32)).all()
    assert (np.sign(flow[0][inside][:, 1]) == np.sign(rows + 0.5 - 32)).all()


@pytest.mark.parametrize("motion", ["left", "down"])
def test_estimated_flow_is_near_the_exact_one(motion):
    spec = a_clip(motion, shape="circle", start_x=0.7, start_y=0.3)
    frames = render.render_frames(spec, 64, 6)
    want, nearness = exact(spec, 64, 6)
    got, flat = structure.EstimatedStructure()(frames, {}, 0.0)
    inside = nearness[0] == 1
    # In the middle of a flat shape nothing is to be seen but what its edges say.
    np.testing.assert_allclose(got[0][inside].mean(axis=0), want[0][inside].mean(axis=0), atol=0.01)
    assert not flat.any()
    np.testing.assert_array_equal(got[-1], got[-2])


def test_packing_is_as_written():
    flow = np.zeros((2, 1, 3, 2), np.float32)
    flow[0, 0, :, 0] = [0.0625, -0.125, 1.0]
    nearness = np.array([2.0, 3.0, 4.0], np.float32) * np.ones((2, 1, 3), np.float32)
    picture = structure.pack(flow, nearness)
    assert picture[0, 0].tolist() == [[191, 128, 0], [0, 128, 128], [255, 128, 255]]
    back, near = structure.unpack(picture)
    np.testing.assert_allclose(back[0, 0, :2, 0], [0.0625, -0.125], atol=1e-3)
    np.testing.assert_allclose(near[0, 0], [0, 0.5, 1], atol=3e-3)
    assert (structure.pack(flow, 0 * nearness)[..., 2] == 128).all()


def test_exact_structure_of_a_row():
    spec = a_clip()
    facts = {
        name: str(getattr(spec, name))
        for name in ("shape", "colour", "motion", "speed", "start_x", "start_y")
    }
    estimator = structure.ExactStructure()
    frames = render.render_frames(spec, 32, 9)
    flow, nearness = estimator(frames[2:], facts, 0.25)
    want = structure.exact_structure(spec, 0.25 + world.frame_times_s(8), 32)
    np.testing.assert_array_equal(flow, want[0])
    np.testing.assert_array_equal(nearness > 0, frames[2:, ..., 0] > world.LOW_LEVEL)
    with pytest.raises(ValueError, match="need the manifest of `poet render`.*without motion"):
        estimator(frames, {name: facts[name] for name in facts if name != "motion"}, 0.0)
    with pytest.raises(ValueError, match="are of square clips, got .32, 16."):
        estimator(frames[:, :, :16], facts, 0.0)


def test_a_folder_without_a_depth_model_is_refused(tmp_path):
    estimator = structure.EstimatedStructure(str(tmp_path))
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="has no config.json; give the folder"):
        estimator(frames, {}, 0.0)


def test_a_depth_model_from_a_folder(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        apply_layernorm=False,
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(tmp_path)
    size = {"height": 28, "width": 28}
    transformers.DPTImageProcessor(size=size).save_pretrained(tmp_path)
    frames = np.random.default_rng(0).integers(0, 255, (3, 16, 24, 3), dtype=np.uint8)
    estimator = structure.EstimatedStructure(str(tmp_path))
    flow, nearness = estimator(frames, {}, 0.0)
    assert nearness.shape == (3, 16, 24) and nearness.std() > 0
    assert estimator.fingerprint != structure.EstimatedStructure().fingerprint
