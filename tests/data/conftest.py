"""A small prepared dataset: clips with and without sound or conditions, stills, a caption less."""

import numpy as np
import pytest
from tiny_prepare import Loudness, MeanColour, config_of, write_clip

from poet.data import masking

GRID, NUM_LEVELS, NUM_AUDIO_FRAMES = (5, 2, 2), 2, 106


def _records(seed: int, count: int):
    rng = np.random.default_rng(seed)
    for index in range(count):
        has_audio, is_image = index % 4 != 1, index % 5 == 4
        visual = rng.integers(0, 64, (1 if is_image else GRID[0], *GRID[1:]), dtype=np.int32)
        num_audio_frames = NUM_AUDIO_FRAMES if has_audio and not is_image else 0
        region = "" if is_image or index % 7 == 6 else masking.REGIONS[index % 8]
        masked = rng.integers(0, 64, visual.shape if region else (0, 0, 0), dtype=np.int32)
        has_structure = not is_image and index % 6 != 5
        structure = rng.integers(0, 64, visual.shape if has_structure else (0, 0, 0))
        yield {
            "clip_id": f"clip_{seed}_{index}",
            "caption": "" if index == 7 else f"caption {index} é",
            "visual": visual,
            "audio": rng.integers(0, 16, (NUM_LEVELS, num_audio_frames), dtype=np.int32),
            "num_frames": 1 if is_image else 17,
            "has_audio": num_audio_frames > 0,
            "region": region,
            "masked": masked,
            "structure": structure.astype(np.int32),
        }


@pytest.fixture(scope="session")
def make_records():
    """(seed, count) -> an iterator of records."""
    return _records


@pytest.fixture(scope="session")
def metadata():
    """What `poet prepare` would write down."""
    return {"fingerprints": {"visual": "abc", "audio": "def"}}


@pytest.fixture(scope="session")
def write(metadata):
    """(directory, **options) -> content of poet.json: train of 43, validation of 11 records."""
    from poet.data import writer

    def write_small(directory, **options):
        splits = {"train": _records(0, 43), "validation": _records(1, 11)}
        return writer.write_dataset(directory, splits, metadata, records_per_shard=20, **options)

    return write_small


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory, write):
    """The small dataset as array_record; nobody writes to it."""
    directory = tmp_path_factory.mktemp("prepared") / "dataset"
    write(directory)
    return directory


@pytest.fixture(scope="session")
def dataset(dataset_dir):
    """The small dataset, open."""
    from poet.data import records

    return records.open_dataset(dataset_dir)


@pytest.fixture(scope="session")
def sizes():
    """Plan sizes that fit the small dataset."""
    from poet.data import groups
    from poet.tokens.clip import ClipShape, SoundShape
    from poet.tokens.vocabulary import Vocabulary

    clip = ClipShape(17, 16, 16)
    return groups.SequenceSizes(
        clip=clip,
        sound=SoundShape.for_clip(clip, NUM_LEVELS),
        text_slots=16,
        vocabulary=Vocabulary(num_visual=64, audio_levels=(16, 16), num_text=259),
    )


@pytest.fixture(scope="session")
def text_tokenizer():
    """Bytes in 16 slots."""
    from poet.tokenizers.text import ByteTokenizer

    return ByteTokenizer(16)


@pytest.fixture(scope="session")
def pretrain():
    """The tasks of poet_pretrain with their shares."""
    from poet.data import registry

    registry.load_task_modules(["tasks.paper", "tasks.mixtures"])
    return registry.resolve("poet_pretrain")


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """Eight files: clips in two splits, one long, one short, one broken, one missing."""
    folder = tmp_path_factory.mktemp("media")
    lines = ["file\tcaption\tsplit"]
    for number in range(5):
        write_clip(folder / f"{number}.mp4", 40 * number + 30)
        lines.append(f"{number}.mp4\tlevel {number}\t{'held_out' if number == 3 else ''}")
    write_clip(folder / "long.mp4", 100, num_frames=60)
    write_clip(folder / "short.mp4", 200, num_frames=5)
    (folder / "broken.mp4").write_bytes(b"nothing" * 100)
    lines += [f"{name}.mp4\tword\t" for name in ("broken", "long", "short", "absent")]
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def whole(media, tmp_path_factory):
    """(out_dir, report, visual tokenizer) of an undisturbed run."""
    out_dir, visual = tmp_path_factory.mktemp("whole") / "dataset", MeanColour()
    from poet.data.prepare import prepare

    return out_dir, prepare(config_of(media, out_dir), visual, Loudness()), visual
