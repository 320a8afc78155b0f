"""A prepared dataset of random ids, small enough to train on in seconds."""

import numpy as np
import pytest

NUM_VISUAL, AUDIO_LEVELS = 32, (16, 16)
GRID, NUM_AUDIO_FRAMES = (5, 2, 2), 106


def records(split_seed, count):
    """Clips whose sound follows from the picture, so that there is something to learn."""
    rng = np.random.default_rng(split_seed)
    for index in range(count):
        kind = int(rng.integers(4))
        visual = np.full(GRID, 4 * kind, np.int32)
        visual[:, 0, 0] = rng.integers(0, NUM_VISUAL, GRID[0])
        audio = np.full((len(AUDIO_LEVELS), NUM_AUDIO_FRAMES), kind, np.int32)
        yield {
            "clip_id": f"clip_{split_seed}_{index}",
            "caption": f"kind {kind}",
            "visual": visual,
            "audio": audio,
            "num_frames": 17,
            "has_audio": True,
        }


def metadata(**changes):
    """What `poet prepare` writes down."""
    return {
        "fingerprints": {"visual": "abc", "audio": "def"},
        "num_codes": {"visual": NUM_VISUAL, "audio": list(AUDIO_LEVELS)},
        "preprocessing": {
            "num_frames": 17,
            "height_px": 16,
            "width_px": 16,
            "frames_per_second": 8.0,
            "sample_rate_hz": 16_000,
        },
    } | changes


@pytest.fixture(scope="session")
def write_small():
    """(directory, **changes of the metadata) -> the directory, with 24 + 8 clips."""
    from poet.data import writer

    def write(directory, seed=0, **changes):
        splits = {"train": records(seed, 24), "validation": records(seed + 1, 8)}
        writer.write_dataset(directory, splits, metadata(**changes))
        return directory

    return write


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory, write_small):
    """A directory that nobody writes to."""
    return write_small(tmp_path_factory.mktemp("prepared") / "dataset")
