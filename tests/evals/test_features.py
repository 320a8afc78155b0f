import dataclasses

import numpy as np
import pytest

from poet.evals import features, frechet, toy_features

EXTRACTORS = [
    toy_features.PixelProjection,
    toy_features.FrameMeanProjection,
    toy_features.ChangeProjection,
]


def random_clips(num_clips, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_clips, 5, 6, 4, 3), np.uint8)


@dataclasses.dataclass
class Counting:
    """Hands on to another extractor, and notes the batches it was given."""

    inner: features.FeatureExtractor
    seen: list

    def features(self, clips):
        self.seen.append(len(clips))
        return self.inner.features(clips)


@pytest.mark.parametrize("toy", EXTRACTORS)
def test_batches_are_of_one_size_and_padding_never_counts(toy):
    clips, seen = random_clips(7), []
    want = toy().features(clips)
    extractor = Counting(toy(), seen)
    assert isinstance(extractor, features.FeatureExtractor)
    found = features.all_features(extractor, iter(clips), batch_size=3)
    assert seen == [3, 3, 3]
    np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-12)
    for batch_size in (1, 7, 10):
        batches = features.feature_batches(toy(), clips, batch_size)
        moments = frechet.moments_of_batches(batches)
        assert moments.count == 7
        np.testing.assert_allclose(moments.mean, want.mean(axis=0), atol=1e-12)


@pytest.mark.parametrize("toy", EXTRACTORS)
def test_whole_path_without_weights(toy):
    real, noise = random_clips(40), random_clips(40, seed=1).astype(np.int16) - 128
    distances = []
    for share in (0, 4, 2):
        noisy = np.clip(real + (noise // share if share else 0), 0, 255).astype(np.uint8)
        sides = [features.feature_batches(toy(), side, 16) for side in (real, noisy)]
        left, right = (frechet.moments_of_batches(side) for side in sides)
        distances.append(frechet.distance_between(left, right))
    assert distances[0] < 1e-12 < distances[1] < distances[2]


def test_only_the_change_sees_the_order_of_frames():
    # Frames of a slow fade; in another order the changes are larger, the mean frame the same.
    levels = np.arange(5, dtype=np.uint8)[:, None, None, None] * 20
    clips = levels + random_clips(30, seed=2) // 16
    shuffled = clips[:, [3, 0, 4, 1, 2]]
    mean, change = toy_features.FrameMeanProjection(), toy_features.ChangeProjection()
    np.testing.assert_array_equal(mean.features(clips), mean.features(shuffled))
    assert frechet.frechet_distance(mean.features(clips), mean.features(shuffled)) < 1e-12
    moved = frechet.frechet_distance(change.features(clips), change.features(shuffled))
    assert moved > 100 * frechet.frechet_distance(
        change.features(clips[:15]), change.features(clips[15:])
    )


def test_a_seed_is_a_projection():
    clips = random_clips(2)
    first = toy_features.PixelProjection(num_features=3).features(clips)
    np.testing.assert_array_equal(
        first, toy_features.PixelProjection(num_features=3).features(clips)
    )
    other = toy_features.PixelProjection(num_features=3, seed=1).features(clips)
    assert first.shape == (2, 3) and not np.allclose(first, other)
    # Of independent values the variance stays about the same.
    rows = np.random.default_rng(0).standard_normal((4000, 50))
    assert toy_features.random_projection(rows, 20).var() == pytest.approx(1.0, rel=0.1)


class OneRow:
    def features(self, clips):
        return np.zeros((1, 4))


def test_refusals():
    clips = random_clips(3)
    toy = toy_features.PixelProjection()
    with pytest.raises(ValueError, match=r"one size, got \(5, 6, 4, 3\) and then \(4, 6, 4, 3\)"):
        features.all_features(toy, [clips[0], clips[1][:4]], batch_size=1)
    with pytest.raises(ValueError, match="at least 1 clip, got batch_size=0"):
        features.all_features(toy, clips, batch_size=0)
    with pytest.raises(ValueError, match="at least one clip, got none"):
        features.all_features(toy, [], batch_size=2)
    with pytest.raises(ValueError, match=r"features \[3, D\] for 3 clips, got \(1, 4\)"):
        features.all_features(OneRow(), clips, batch_size=3)
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        toy_features.ChangeProjection().features(clips[:, :1])


@pytest.mark.parametrize(("num_rows", "most", "size"), [(1, 8, 1), (3, 8, 4), (5, 6, 6), (8, 8, 8)])
def test_rows_are_filled_to_few_sizes(num_rows, most, size):
    rows = np.arange(2 * num_rows).reshape(num_rows, 2)
    found = features.filled(rows, most)
    assert len(found) == size
    np.testing.assert_array_equal(found[:num_rows], rows)
    np.testing.assert_array_equal(found[num_rows:], np.repeat(rows[-1:], size - num_rows, 0))
