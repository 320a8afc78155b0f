import numpy as np
import pytest

from poet.evals import embedding_scores

FRAMES = np.array([[[1.0, 0, 0], [0.6, 0.8, 0], [0, 1, 0]]])
CAPTION = np.array([[1.0, 0, 0]])


def test_hand_worked_scores():
    found = embedding_scores.text_similarity(FRAMES, CAPTION)
    assert found == pytest.approx([(1 + 0.6 + 0) / 3])
    assert found == pytest.approx([0.5333333333333333])
    # What it is not: the cosine of the mean frame.
    mean_frame = FRAMES.mean(axis=1, keepdims=True)
    other = embedding_scores.text_similarity(mean_frame, CAPTION)
    assert other == pytest.approx([0.6643638388299198])
    consecutive = embedding_scores.frame_consistency(FRAMES, pairs="consecutive")
    assert consecutive == pytest.approx([0.7])
    every = embedding_scores.frame_consistency(FRAMES, pairs="all")
    assert every == pytest.approx([0.4666666666666667])


def test_lengths_do_not_count_and_videos_stay_apart():
    draw = np.random.default_rng(0)
    frames, captions = draw.standard_normal((3, 5, 8)), draw.standard_normal((3, 8))
    long = frames * draw.uniform(0.1, 9, (3, 5, 1))
    found = embedding_scores.text_similarity(frames, captions)
    np.testing.assert_allclose(embedding_scores.text_similarity(long, 3 * captions), found)
    for number in range(3):
        alone = embedding_scores.text_similarity(frames[[number]], captions[[number]])
        assert alone == pytest.approx(found[[number]])


def test_equal_frames_agree_wholly_and_only_neighbours_see_order():
    still = np.repeat(FRAMES[:, :1], 4, axis=1)
    turned = FRAMES[:, [1, 0, 2]]
    assert embedding_scores.frame_consistency(still, pairs="consecutive") == pytest.approx([1.0])
    assert embedding_scores.frame_consistency(turned, pairs="consecutive") == pytest.approx([0.3])
    assert embedding_scores.frame_consistency(turned, pairs="all") == pytest.approx([7 / 15])


def test_refusals():
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        embedding_scores.frame_consistency(FRAMES[:, :1], pairs="all")
    with pytest.raises(ValueError, match="finite frame embeddings other than 0"):
        embedding_scores.text_similarity(0 * FRAMES, CAPTION)
    with pytest.raises(ValueError, match="finite caption embeddings other than 0"):
        embedding_scores.text_similarity(FRAMES, CAPTION + np.nan)
