import numpy as np
import pytest

from poet.evals import frechet


def test_hand_worked_distances():
    one, identity = [0.0, 0.0], np.eye(2)
    assert frechet.distance_of_moments(one, identity, [3, 4], identity) == pytest.approx(25.0)
    left, right = np.array([[2.0, 1], [1, 2]]), np.diag([1.0, 3.0])
    # Tr sqrt(A) of a 2 x 2 matrix is sqrt(Tr A + 2 sqrt(det A)).
    found = frechet.distance_of_moments(one, left, [1, 2], right)
    assert found == pytest.approx(13 - 2 * np.sqrt(14))
    scales = np.arange(1.0, 6.0)
    found = frechet.distance_of_moments(
        np.zeros(5), np.diag(scales**2), np.ones(5), np.diag((scales + 1) ** 2)
    )
    assert found == pytest.approx(10.0)


def test_samples_and_fewer_of_them_than_features():
    left = np.array([[0.0, 0], [2, 0], [0, 2], [2, 2]])
    right = np.array([[1.0, 1], [5, 1], [1, 5], [5, 5]])
    assert frechet.frechet_distance(left, right) == pytest.approx(32 / 3)
    draw = np.random.default_rng(0)
    few, others = draw.standard_normal((8, 400)), draw.standard_normal((8, 400))
    assert frechet.frechet_distance(few, others) == pytest.approx(814.1093, abs=1e-3)
    assert frechet.frechet_distance(few, few) == pytest.approx(0.0, abs=1e-3)


def test_toy_features_are_fixed_and_see_noise_grow():
    pictures = np.random.default_rng(0).random((40, 8, 8, 3)).astype(np.float32)
    features = frechet.toy_features(pictures, num_features=5)
    assert features.shape == (40, 5)
    np.testing.assert_array_equal(features[:3], frechet.toy_features(pictures[:3], 5))
    noise = np.random.default_rng(1).standard_normal(pictures.shape).astype(np.float32)
    distances = [
        frechet.frechet_distance(features, frechet.toy_features(pictures + scale * noise, 5))
        for scale in (0.0, 0.5, 2.0)
    ]
    assert distances[0] < 1e-9 < distances[1] < distances[2]


def test_one_example_is_refused():
    with pytest.raises(ValueError, match=r"got \(1, 2\) and \(4, 2\); give more clips"):
        frechet.frechet_distance(np.zeros((1, 2)), np.zeros((4, 2)))
