import numpy as np
import pytest

from poet.evals import inception_score


def score(logits, **settings):
    return inception_score.inception_score(
        np.asarray(logits, np.float64), **({"num_splits": 1} | settings)
    )


def test_hand_worked_scores():
    assert score(np.zeros((5, 7))).mean == pytest.approx(1.0)
    # Every class once, surely: as many as there are classes. Probabilities of 0 stay finite.
    assert score(1000 * np.eye(101)).mean == pytest.approx(101.0)
    p = np.array([[0.9, 0.1], [0.1, 0.9]])
    found = score(np.log(p))
    assert found.mean == pytest.approx(np.exp(0.9 * np.log(1.8) + 0.1 * np.log(0.2)))
    assert found.mean == pytest.approx(1.4449348111684153)
    assert (found.std, found.num_splits, found.num_videos) == (0.0, 1, 2)


def test_two_flat_classifications():
    logits = [[1, 2] * 500 + [4], [4, 5] * 500 + [6]]
    assert score(logits).mean == pytest.approx(1.0008087798617324)


def test_a_constant_added_to_a_video_changes_nothing():
    logits = np.random.default_rng(0).standard_normal((20, 5))
    shifted = logits + 500 * np.arange(20)[:, None]
    assert score(shifted).mean == pytest.approx(score(logits).mean)


def test_splits_are_runs_and_lower_the_score():
    logits = 1000 * np.eye(4)[[0, 1, 2, 3, 3]]
    found = score(logits, num_splits=2)
    # Two videos of two classes, and three of which two share one: exp(entropy) of 1/3 and 2/3.
    second = np.exp(np.log(3) - 2 / 3 * np.log(2))
    assert found.mean == pytest.approx((2 + second) / 2)
    assert found.std == pytest.approx((2 - second) / 2)
    assert found.mean < score(logits).mean


def test_shuffling_is_seeded_and_moves_only_splits():
    logits = np.repeat(1000 * np.eye(4), 5, axis=0)
    assert score(logits, num_splits=4).mean == pytest.approx(1.0)
    mixed = score(logits, num_splits=4, shuffle_seed=42)
    assert mixed == score(logits, num_splits=4, shuffle_seed=42)
    assert mixed.mean > 1.5
    assert score(logits, shuffle_seed=42).mean == pytest.approx(4.0)


def test_refusals():
    with pytest.raises(ValueError, match="1 to 3 splits of 3 videos, got 4"):
        score(np.zeros((3, 2)), num_splits=4)
    with pytest.raises(ValueError, match="1 to 0 splits of 0 videos"):
        score(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="Expected finite logits"):
        score([[0.0, -np.inf]])
