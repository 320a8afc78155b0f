"""Pictures and clips out of TFDS datasets."""

import numpy as np
import pytest

from poet.train import tokenizer_media

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two clips of five frames and their first pictures, by number."""
    import tensorflow_datasets as tfds

    class TwoClips(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"number": np.int64, "video": tfds.features.Video((None, 8, 12, 3))}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            del manager
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(2):
                video = np.full((5, 8, 12, 3), 100 * number + 50, np.uint8)
                yield number, {"number": number, "video": video}

    builder = TwoClips(data_dir=str(tmp_path_factory.mktemp("tfds")))
    builder.download_and_prepare()
    return str(builder.data_path)


def test_clips_are_cut_and_resized(folder):
    rows = tokenizer_media.rows_of_split(f"tfds:{folder}", "train")
    assert len(rows) == 2 and len(rows[:1]) == 1 and len(rows[:None]) == 2
    facts = {"height_px": 4, "width_px": 4, "frames_per_second": 8.0}
    frames = tokenizer_media.read_frames(rows, num_frames=1, **facts)
    assert frames.shape == (10, 1, 4, 4, 3)
    assert sorted(np.unique(frames)) == [50, 150]
    assert tokenizer_media.read_frames(rows[:1], num_frames=5, **facts).shape == (1, 5, 4, 4, 3)
    with pytest.raises(ValueError, match="None of 2 examples of .* has 9 frames"):
        tokenizer_media.read_frames(rows, num_frames=9, **facts)
    keys = {tokenizer_media.media_key(part, facts) for part in (rows, rows[:1], rows[:2])}
    assert len(keys) == 2


def test_what_is_not_there_is_said(folder):
    assert tokenizer_media.splits(f"tfds:{folder}") == {"train"}
    with pytest.raises(ValueError, match="has no split 'test', only train"):
        tokenizer_media.rows_of_split(f"tfds:{folder}", "test")
    with pytest.raises(ValueError, match="There is no TFDS dataset 'no_such_set'"):
        tokenizer_media.rows_of_split("tfds:no_such_set", "train")
    rows = tokenizer_media.rows_of_split(f"tfds:{folder}", "train")
    with pytest.raises(ValueError, match="not from TFDS datasets; give a folder or a manifest"):
        tokenizer_media.read_sounds(rows, num_samples=1, sample_rate_hz=16_000)
