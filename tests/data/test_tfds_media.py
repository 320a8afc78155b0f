"""Pictures and clips out of TFDS datasets."""

import dataclasses

import numpy as np
import pytest
from tiny_prepare import RULES, Loudness, MeanColour, config_of, read

from poet.data import records
from poet.data.prepare import prepare
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


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """Three grey images with captions, and one of another split without words."""
    import tensorflow_datasets as tfds

    class Captioned(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(shape=(None, None, 1))}
            features |= {"note": tfds.features.Text(), "caption": tfds.features.Text()}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            del manager
            return {"train": self._generate_examples(3), "test": self._generate_examples(1)}

        def _generate_examples(self, count):
            for number in range(count):
                image = np.full((20, 30, 1), 60 * number + 40, np.uint8)
                words = f"level  {60 * number + 40}" if count > 1 else ""
                yield number, {"image": image, "note": f"note {number}", "caption": words}

    builder = Captioned(data_dir=str(tmp_path_factory.mktemp("tfds")))
    builder.download_and_prepare()
    return str(builder.data_path)


def test_prepare_reads_images_with_captions(captioned, tmp_path):
    config = config_of(f"tfds:{captioned}", tmp_path / "out")
    report = prepare(config, MeanColour(), Loudness())
    dataset = records.open_dataset(tmp_path / "out")
    assert dataset.splits == {"test": 1, "train": 3} and not report.rejected
    for index in range(3):
        record = dataset.read("train", index)
        level = int(record["caption"].removeprefix("level "))
        assert record["visual"].shape == (1, 2, 2) and (record["visual"] == level).all()
    assert not len(dataset.capability("test", "caption"))
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert prepare(config, MeanColour(), Loudness()).num_units_reused == 1
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_prepare_takes_another_caption_feature(captioned, tmp_path):
    config = config_of(f"tfds:{captioned}", tmp_path / "out", caption_feature="note")
    prepare(config, MeanColour(), Loudness())
    captions = [read(tmp_path / "out", "train")[index]["caption"] for index in range(3)]
    assert sorted(captions) == ["note 0", "note 1", "note 2"]
    with pytest.raises(ValueError, match="no text feature 'title', only .'caption', 'note'"):
        prepare(
            config_of(f"tfds:{captioned}", tmp_path / "two", caption_feature="title"),
            MeanColour(),
            Loudness(),
        )


def test_prepare_reads_clips(folder, tmp_path):
    rules = dataclasses.replace(RULES, num_frames=5)
    prepare(config_of(f"tfds:{folder}", tmp_path / "out", rules=rules), MeanColour(), Loudness())
    for record in read(tmp_path / "out", "train"):
        assert record["visual"].shape == (2, 2, 2) and len(np.unique(record["visual"])) == 1
