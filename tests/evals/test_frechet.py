import io
import subprocess
import sys

import numpy as np
import pytest

from poet.evals import features as extraction
from poet.evals import frechet, toy_features


def draws(num, width, seed=0):
    return np.random.default_rng(seed).standard_normal((num, width))


def test_hand_worked_distances():
    one, identity = [0.0, 0.0], np.eye(2)
    assert frechet.distance_of_moments(one, identity, [3, 4], identity) == pytest.approx(25.0)
    left, right = np.array([[2.0, 1], [1, 2]]), np.diag([1.0, 3.0])
    # Tr sqrt(A) of a 2 x 2 matrix is sqrt(Tr A + 2 sqrt(det A)).
    found = frechet.distance_of_moments(one, left, [1, 2], right)
    assert found == pytest.approx(13 - 2 * np.sqrt(14))
    assert found == pytest.approx(5.516685226452117, rel=1e-12)
    scales = np.arange(1.0, 6.0)
    found = frechet.distance_of_moments(
        np.zeros(5), np.diag(scales**2), np.ones(5), np.diag((scales + 1) ** 2)
    )
    assert found == pytest.approx(10.0)
    # Covariances of 0: the distance of two points.
    assert frechet.distance_of_moments(one, 0 * identity, [3, 4], 0 * identity) == 25.0


def test_samples_and_fewer_of_them_than_features():
    left = np.array([[0.0, 0], [2, 0], [0, 2], [2, 2]])
    right = np.array([[1.0, 1], [5, 1], [1, 5], [5, 5]])
    assert frechet.frechet_distance(left, right) == pytest.approx(32 / 3)
    # What it is not: the divisor N.
    means, others = ([side.mean(axis=0), np.cov(side.T, ddof=0)] for side in (left, right))
    assert frechet.distance_of_moments(*means, *others) == pytest.approx(10.0)
    draw = np.random.default_rng(0)
    few, others = draw.standard_normal((8, 400)), draw.standard_normal((8, 400))
    # The exact value, from the singular values of the centred cross product.
    exact = 814.1092951699746
    assert frechet.frechet_distance(few, others) == pytest.approx(exact, abs=1e-8)
    assert frechet.frechet_distance(few, few) == pytest.approx(0.0, abs=1e-8)


def test_equal_sets_are_at_0_and_sides_are_alike():
    left, right = draws(50, 7), 2 * draws(30, 7, seed=1)
    assert frechet.frechet_distance(left, left) == pytest.approx(0.0, abs=1e-12)
    there, back = frechet.frechet_distance(left, right), frechet.frechet_distance(right, left)
    assert there == pytest.approx(back, rel=1e-12)


def test_a_negative_eigenvalue_counts_as_0():
    broken = np.diag([1.0, -1e-3])
    found = frechet.distance_of_moments(np.zeros(2), broken, np.zeros(2), np.eye(2))
    assert found == pytest.approx(np.trace(broken) + 2 - 2)


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_moments_do_not_depend_on_batches_hosts_or_order(num_hosts, batch_size):
    rows = 50.0 + draws(101, 6)
    order = np.random.default_rng(2).permutation(len(rows))
    hosts = [
        frechet.moments_of_batches(
            part[start : start + batch_size] for start in range(0, len(part), batch_size)
        )
        for part in np.array_split(rows[order], num_hosts)
    ]
    found = frechet.merge_moments(reversed(hosts))
    assert found.count == 101
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.covariance, np.cov(rows, rowvar=False), rtol=1e-10)


HOST = """
import sys
import numpy as np
from poet.evals import frechet
rows, host, num_hosts, batch_size = np.load(sys.argv[1]), *map(int, sys.argv[3:])
mine = rows[host::num_hosts]
batches = (mine[at : at + batch_size] for at in range(0, len(mine), batch_size))
frechet.moments_of_batches(batches).save(sys.argv[2])
"""


@pytest.mark.parametrize(
    "num_hosts",
    [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)],
)
def test_moments_of_several_processes_merge(tmp_path, num_hosts):
    """Each takes every n-th row in batches of its own size and leaves a file."""
    rows = {"real": 50 + draws(101, 6), "made": 51 + 2 * draws(90, 6, seed=1)}
    commands, files = [], {side: [] for side in rows}
    for side, values in rows.items():
        np.save(tmp_path / f"{side}.npy", values)
        for host in range(num_hosts):
            files[side].append(tmp_path / f"{side}.{host}")
            words = (tmp_path / f"{side}.npy", files[side][-1], host, num_hosts, 3 + host)
            commands.append([sys.executable, "-c", HOST, *map(str, words)])
    hosts = [subprocess.Popen(command) for command in commands]
    assert not any(host.wait(timeout=250) for host in hosts)
    real, made = (
        frechet.merge_moments(map(frechet.load_moments, reversed(files[side]))) for side in rows
    )
    assert (real.count, made.count) == (101, 90)
    np.testing.assert_allclose(real.covariance, np.cov(rows["real"], rowvar=False), rtol=1e-10)
    want = frechet.frechet_distance(rows["real"], rows["made"])
    assert frechet.distance_between(real, made) == pytest.approx(want, rel=1e-10)


def test_a_host_without_examples_changes_nothing():
    some = frechet.moments_of(draws(5, 3))
    none = frechet.Moments(count=0, mean=np.zeros(3), scatter=np.zeros((3, 3)))
    for parts in ([some, none], [none, some], [none, none, some]):
        merged = frechet.merge_moments(parts)
        np.testing.assert_array_equal(merged.scatter, some.scatter)
        np.testing.assert_array_equal(merged.mean, some.mean)
    assert frechet.merge_moments([none, none]).count == 0


def test_features_in_float32_far_from_0_keep_their_distance():
    # Raw second moments in float32 would be off by 0.4 % here.
    near = [draws(256, 64, seed).astype(np.float32) for seed in (0, 1)]
    far = [side + np.float32(50.0) for side in near]
    assert frechet.frechet_distance(*far) == pytest.approx(
        frechet.frechet_distance(*near), rel=1e-5
    )


def test_moments_are_saved_as_they_are(tmp_path):
    moments = frechet.moments_of(draws(9, 4))
    moments.save(tmp_path / "real.moments")
    buffer = io.BytesIO()
    moments.save(buffer)
    buffer.seek(0)
    for file in (tmp_path / "real.moments", buffer):
        found = frechet.load_moments(file)
        assert found.count == 9
        np.testing.assert_array_equal(found.mean, moments.mean)
        np.testing.assert_array_equal(found.scatter, moments.scatter)
    np.savez(tmp_path / "other.npz", mean=np.zeros(2))
    with pytest.raises(ValueError, match=r"lacks \['count', 'scatter'\]; save them again"):
        frechet.load_moments(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("count", "mean"), [(256, 299.4), (512, 158.4), (1024, 79.2), (2048, 39.52), (10_000, 8.07)]
)
def test_null_distance_of_400_features(count, mean):
    """The mean over many draws; a wrong divisor or kind of root is far off."""
    found = frechet.frechet_distance(draws(count, 400), draws(count, 400, seed=1))
    assert found == pytest.approx(mean, rel=0.03)
    if count >= 400:
        assert mean == pytest.approx((2 * 400 + 400 * 401 / 2) / count, rel=0.01)


def test_null_distance_of_two_halves_is_the_bias():
    width, num = 16, 512
    extractor = toy_features.PixelProjection(num_features=width)
    clips = np.random.default_rng(0).integers(0, 256, (2 * num, 4, 8, 8, 3), np.uint8)
    rows = extraction.all_features(extractor, clips, batch_size=256)
    bias = (2 * width + width * (width + 1) / 2) / num * rows.var(axis=0).mean()
    assert frechet.frechet_distance(rows[:num], rows[num:]) == pytest.approx(bias, rel=0.3)


def test_toy_features_are_fixed_and_see_noise_grow():
    pictures = np.random.default_rng(0).random((40, 8, 8, 3)).astype(np.float32)
    features = frechet.toy_features(pictures, num_features=5)
    assert features.shape == (40, 5)
    np.testing.assert_array_equal(features, frechet.toy_features(pictures, 5))
    # To rounding only: which of its products numpy's library takes depends on rows and processor.
    np.testing.assert_allclose(features[:3], frechet.toy_features(pictures[:3], 5), atol=1e-13)
    noise = np.random.default_rng(1).standard_normal(pictures.shape).astype(np.float32)
    distances = [
        frechet.frechet_distance(features, frechet.toy_features(pictures + scale * noise, 5))
        for scale in (0.0, 0.5, 2.0)
    ]
    assert distances[0] < 1e-9 < distances[1] < distances[2]


def test_one_example_is_refused():
    with pytest.raises(ValueError, match=r"got \(1, 2\) and \(4, 2\); give more clips"):
        frechet.frechet_distance(np.zeros((1, 2)), np.zeros((4, 2)))
    one, four = frechet.moments_of(np.zeros((1, 2))), frechet.moments_of(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="got 4 and 1; give more clips"):
        frechet.distance_between(four, one)
    with pytest.raises(ValueError, match="at least 2 examples, got 1"):
        _ = one.covariance


def test_what_no_distance_is_of_is_refused():
    with pytest.raises(ValueError, match=r"\(4, 2\) and \(4, 3\); give more clips or one extract"):
        frechet.frechet_distance(np.zeros((4, 2)), np.zeros((4, 3)))
    two, three = (frechet.moments_of(np.zeros((4, width))) for width in (2, 3))
    for act in (frechet.distance_between, lambda *pair: frechet.merge_moments(pair)):
        with pytest.raises(ValueError, match="one width, got 2 and 3; use one extractor"):
            act(two, three)
    rows = np.zeros((4, 2))
    rows[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 of 4 examples \(first: 2\) are not"):
        frechet.frechet_distance(rows, np.zeros((4, 2)))
    with pytest.raises(ValueError, match="at least one batch of features, got none"):
        frechet.merge_moments([])
    with pytest.raises(ValueError, match=r"at least 1 example, D\], got \(0, 2\)"):
        frechet.moments_of(np.zeros((0, 2)))
