"""Several prepared datasets as one: images and videos, square and portrait, 17 frames and 41.

Each keeps its own size of clips; a task trains on each size in a group of its own
(`poet.data.batches`). All must have been made with the same tokenizers.
"""

import dataclasses
import functools
import hashlib

import numpy as np

from poet.data.records import Dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class JoinedDataset(Dataset):
    """Datasets one after the other, split by split; made by `join`.

    Attributes:
      parts: the datasets. The first one's clips are the run's main size.
    """

    parts: tuple[Dataset, ...]

    def read(self, split: str, index: int | np.integer) -> dict:
        """See `Dataset.read`."""
        starts = self._starts(split)
        if not 0 <= int(index) < starts[-1]:
            raise ValueError(
                f"Record {index} is outside split {split!r} of {self.directory}, which has"
                f" {starts[-1]} records."
            )
        at = int(np.searchsorted(starts, int(index), side="right")) - 1
        return self.parts[at].read(split, int(index) - int(starts[at]))

    def capability(self, split: str, name: str) -> np.ndarray:
        """See `Dataset.capability`."""
        starts = self._starts(split)
        return np.concatenate(
            [
                starts[at] + part.capability(split, name)
                for at, part in enumerate(self.parts)
                if split in part.splits
            ]
        )

    def grids(self, split: str) -> np.ndarray:
        """See `Dataset.grids`."""
        return np.concatenate([part.grids(split) for part in self.parts if split in part.splits])

    def having(self, split: str, names) -> np.ndarray:
        """See `Dataset.having`."""
        indices = np.arange(self._starts(split)[-1])
        for name in sorted(names):
            indices = np.intersect1d(indices, self.capability(split, name), assume_unique=True)
        return indices

    def check_files(self):
        """See `Dataset.check_files`."""
        for part in self.parts:
            part.check_files()

    def _starts(self, split: str) -> np.ndarray:
        if split not in self.splits:
            raise ValueError(
                f"Dataset {self.directory} has no split {split!r}, only {sorted(self.splits)}."
                " Choose one of them, or prepare the split."
            )
        return self._starts_by_split[split]

    @functools.cached_property
    def _starts_by_split(self) -> dict[str, np.ndarray]:
        counts = {
            split: [part.splits.get(split, 0) for part in self.parts] for split in self.splits
        }
        return {split: np.concatenate([[0], np.cumsum(n)]) for split, n in counts.items()}


def join(parts: list[Dataset]) -> Dataset:
    """The datasets as one; the only one itself.

    Raises ValueError, naming both, where tokenizers, codes or rates differ.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        _check_alike(first, part)
    names = list(dict.fromkeys(split for part in parts for split in part.splits))
    digest = hashlib.sha256("".join(part.fingerprint for part in parts).encode()).hexdigest()
    summary = first.summary | {
        "file_format": "joined",
        "fingerprint": digest[:32],
        "splits": {name: _merged(parts, name) for name in names},
    }
    directory = ",".join(str(part.directory) for part in parts)
    return JoinedDataset(directory=directory, summary=summary, parts=tuple(parts))


def _merged(parts: list[Dataset], split: str) -> dict:
    facts = [part.summary["splits"][split] for part in parts if split in part.splits]
    shapes: dict[str, int] = {}
    for each in facts:
        for shape, count in each["visual_shapes"].items():
            shapes[shape] = shapes.get(shape, 0) + count
    sums = {name: sum(each.get(name, 0) for each in facts) for name in _SUMMED}
    return sums | {"visual_shapes": shapes}


_SUMMED = ("num_records", "num_bytes", "num_images", "num_with_audio")


def _check_alike(first: Dataset, other: Dataset) -> None:
    same = {
        "fingerprints": [each.fingerprints for each in (first, other)],
        "num_codes": [each.metadata.get("num_codes") for each in (first, other)],
        "audio_levels": [each.summary["audio_levels"] for each in (first, other)],
        "frames_per_second": [
            each.metadata.get("preprocessing", {}).get("frames_per_second")
            for each in (first, other)
        ],
    }
    for name, (one, two) in same.items():
        if one != two:
            raise ValueError(
                f"{first.directory} has {name} {one}, {other.directory} has {two}; prepare both"
                " with the same tokenizers and rate to train on them together."
            )
