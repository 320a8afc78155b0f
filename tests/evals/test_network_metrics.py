"""Networks behind the metrics: which extractor, what is said of it, and CLIP's rows by hand."""

import numpy as np
import pytest
import tiny_clip

from poet.evals import clip_scorer, embedding_scores, extractors, metrics, toy_features
from poet.evals.metric import Case, Clip

ABOUT = {"weights_sha256": "0123456789abcdef" * 4, "weights_note": "UNVERIFIED", "weights": "x"}


@pytest.fixture
def toys(monkeypatch):
    """Toys in the places of the networks; what they were asked for."""
    asked = []

    def i3d(path, *, resize):
        asked.append((path.name, resize))
        return toy_features.PixelProjection(seed=len(asked)), ABOUT | {"resize": resize}

    monkeypatch.setattr(extractors, "i3d_features", i3d)
    toy = toy_features.FrameMeanProjection(num_features=5)
    monkeypatch.setattr(extractors, "c3d_logits", lambda path: (toy, ABOUT))
    sound = toy_features.SoundProjection()
    monkeypatch.setattr(extractors, "vggish_features", lambda path: (sound, ABOUT))
    return asked


def clips_of(num_clips, num_frames=9, **more):
    draw = np.random.default_rng(0)
    shape = (num_frames, 16, 16, 3)
    return [
        Clip(name="a", frames=draw.integers(0, 256, shape, np.uint8), frames_per_second=8.0, **more)
        for _ in range(num_clips)
    ]


def test_each_resizing_of_i3d_is_a_protocol_of_its_own(toys, tmp_path):
    found = metrics.choose(["fvd", "kvd", "fvd_crop"], {"i3d": tmp_path / "i3d.npz"}, 2)
    fvd, kvd, crop = found
    assert toys == [("i3d.npz", "squash_tf1"), ("i3d.npz", "crop_half_pixel")]
    assert [metric.name for metric in found] == ["fvd", "kvd", "fvd_crop"]
    assert fvd.protocol == "frechet/i3d-0123456789ab-logits/squash_tf1"
    assert kvd.protocol == "kernel-cubic-one-pass/i3d-0123456789ab-logits/squash_tf1"
    # One pass of the network serves both.
    assert fvd.source is kvd.source and crop.source.name == "i3d_crop_half_pixel"
    assert fvd.source.about["weights_note"] == "UNVERIFIED"
    assert fvd.source.needs.num_frames[0] == 9
    cases = [Case(clip=clip) for clip in clips_of(3)]
    want = toy_features.PixelProjection(seed=1).features(np.stack([c.clip.frames for c in cases]))
    np.testing.assert_allclose(np.concatenate(fvd.source.rows(cases)), want)


def test_c3d_sees_generated_clips_of_16_frames_and_vggish_hears(toys, tmp_path):
    files = {"c3d": tmp_path / "c.npz", "vggish": tmp_path / "v.npz"}
    one, ten, fad = metrics.choose(["is", "is_10_splits", "fad"], files)
    assert one.source.sides == ("generated",) and one.source.needs.num_frames == (16, 16)
    assert (one.summary, ten.summary, fad.summary) == (
        "inception",
        "inception_10_splits",
        "frechet",
    )
    sound = np.random.default_rng(0).standard_normal(33_000)
    (rows,) = fad.source.rows([Case(clip=clips_of(1, sounds={16_000: sound})[0])])
    # Seconds that begin at 0, 0.5 and 1 s.
    assert rows.shape == (3, 16)


def test_clip_scores_by_hand(tmp_path):
    folder = tiny_clip.write(tmp_path / "clip")
    names = ["clipsim", "clip_consistency", "clip_consistency_all"]
    similar, consecutive, pairs = metrics.choose(names, {"clip": folder})
    clip = clips_of(1, num_frames=3, caption="a photo of a dog")[0]
    scorer, about = clip_scorer.load(folder)
    frames = scorer.frame_features(clip.frames[None])
    words = scorer.caption_features(["a photo of a dog"])
    for metric, want in (
        (similar, embedding_scores.text_similarity(frames, words)),
        (consecutive, embedding_scores.frame_consistency(frames, pairs="consecutive")),
        (pairs, embedding_scores.frame_consistency(frames, pairs="all")),
    ):
        (row,) = metric.source.rows([Case(clip=clip)])
        np.testing.assert_allclose(row, [[want[0], 1.0]], rtol=1e-6)
        assert about["weights_sha256"][:12] in metric.protocol
    assert similar.source.needs.has_captions and not pairs.source.needs.has_captions
