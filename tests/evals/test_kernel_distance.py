import numpy as np
import pytest

from poet.evals import kernel_distance


def test_hand_worked_distances():
    # Within zeros 1, within ones (1 + 1)^3 = 8, between 1: 1 + 8 - 2.
    found = kernel_distance.kernel_distance(np.zeros((4, 400)), np.ones((4, 400)))
    assert found == pytest.approx(7.0)
    left = np.array([[0.0, 0], [1, 1]])
    right = np.array([[1.0, 0], [0, 1], [2, 2]])
    # Within left 1; right (1 + 8 + 8) / 3; between (3 + 2 * 1.5^3 + 27) / 6 = 6.125:
    # 1 + 17 / 3 - 12.25.
    found = kernel_distance.kernel_distance(left, right)
    assert found == pytest.approx(-5.583333333333333)


def test_it_is_symmetric_and_blind_to_order_and_blocks():
    draw = np.random.default_rng(0)
    left, right = draw.standard_normal((1500, 5)), 0.3 + draw.standard_normal((1100, 5))
    found = kernel_distance.kernel_distance(left, right)
    assert kernel_distance.kernel_distance(right, left) == pytest.approx(found, rel=1e-9)
    shuffled = draw.permutation(left)
    assert kernel_distance.kernel_distance(shuffled, right) == pytest.approx(found, rel=1e-9)
    cubes = [((a @ b.T) / 5 + 1) ** 3 for a, b in ((left, left), (right, right), (left, right))]
    within = [(c.sum() - np.trace(c)) / (len(c) * (len(c) - 1)) for c in cubes[:2]]
    assert found == pytest.approx(sum(within) - 2 * cubes[2].mean(), rel=1e-9)


def test_sets_of_one_law_are_at_0_of_either_sign():
    draw = np.random.default_rng(0)
    found = [
        kernel_distance.kernel_distance(*draw.standard_normal((2, 100, 4))) for _ in range(200)
    ]
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))


def test_subsets_are_seeded_and_agree_with_all_examples():
    draw = np.random.default_rng(0)
    left, right = draw.standard_normal((300, 8)), 1 + draw.standard_normal((200, 8))
    settings = dict(num_subsets=40, subset_size=100)
    found = kernel_distance.subset_kernel_distance(left, right, **settings, seed=3)
    assert found == kernel_distance.subset_kernel_distance(left, right, **settings, seed=3)
    assert found != kernel_distance.subset_kernel_distance(left, right, **settings, seed=4)
    assert (found.num_subsets, found.subset_size) == (40, 100)
    everything = kernel_distance.kernel_distance(left, right)
    assert abs(found.mean - everything) < found.std
    whole = kernel_distance.subset_kernel_distance(
        left[:200], right, num_subsets=2, subset_size=200
    )
    assert whole.mean == pytest.approx(kernel_distance.kernel_distance(left[:200], right))
    assert whole.std == pytest.approx(0.0, abs=1e-9)


def test_refusals():
    four = np.zeros((4, 2))
    with pytest.raises(ValueError, match=r"got \(1, 2\) and \(4, 2\); give more clips"):
        kernel_distance.kernel_distance(four[:1], four)
    with pytest.raises(ValueError, match=r"got \(4, 2\) and \(4, 3\)"):
        kernel_distance.kernel_distance(four, np.zeros((4, 3)))
    with pytest.raises(ValueError, match="Expected finite features"):
        kernel_distance.kernel_distance(four, four + np.inf)
    with pytest.raises(ValueError, match=r"2 to 4 examples \(the smaller set\), got 100 of 1000"):
        kernel_distance.subset_kernel_distance(four, np.zeros((9, 2)))
