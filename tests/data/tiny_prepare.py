"""Tokenizers that can be worked out by hand, and small files for them: for tests of `prepare`."""

import hashlib
import pathlib

import numpy as np

from poet.data import records
from poet.data.clips import ClipRules
from poet.data.prepare import PrepareConfig
from poet.media.write import write_video

RULES = ClipRules(height_px=16, width_px=16)


class MeanColour:
    """A visual tokenizer: a token is the mean level of its pixels."""

    num_codes = 256
    px_per_token, frames_per_token = 8, 4
    fingerprint = "mean-colour-1"

    def __init__(self):
        self.batch_shapes = []

    def encode(self, video):
        self.batch_shapes.append(video.shape)
        assert video.dtype == np.float32 and 0 <= video.min() <= video.max() <= 1
        rows, columns = video.shape[2] // 8, video.shape[3] // 8
        # The first frame alone, then groups of four.
        frames = np.concatenate([np.repeat(video[:, :1], 3, 1), video], 1)
        cells = frames.reshape(len(video), -1, 4, rows, 8, columns, 8, 3)
        return np.round(cells.mean((2, 4, 6, 7)) * 255).astype(np.int32)


class Loudness:
    """An audio tokenizer: two levels of a frame's loudness."""

    num_levels = 2
    codebook_size = 256
    samples_per_frame = 320
    fingerprint = "loudness-1"

    def encode(self, wave):
        assert wave.shape[1] == 34_000 and np.abs(wave).max() <= 1
        loud = np.abs(wave[:, : 106 * 320].reshape(len(wave), 106, 320)).mean(2)
        return np.stack([loud * 255, loud * 2550 % 256], 1).astype(np.int32)


def write_clip(path, level, num_frames=17, pitch_hz=440, **kwargs):
    """A file whose picture and sound both tell `level`."""
    frames = np.full((num_frames, 16, 16, 3), level, np.uint8)
    frames[:, :8] //= 2
    times = np.arange(num_frames * 2_000) / 16_000
    sound = (level / 300 * np.sin(2 * np.pi * pitch_hz * times)).astype(np.float32)
    write_video(path, frames, 8, sound, **kwargs)


def config_of(media, out_dir, **changes):
    return PrepareConfig(
        **({"media": media, "out_dir": out_dir, "rules": RULES, "batch_size": 4} | changes)
    )


def contents(folder):
    """File name -> digest of everything below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file() and path.name != "prepare.json"
    }


def read(out_dir, split):
    dataset = records.open_dataset(out_dir)
    return [dataset.read(split, index) for index in range(dataset.splits[split])]
