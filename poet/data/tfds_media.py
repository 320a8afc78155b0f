"""Pictures and clips of a TFDS dataset as training media of the visual tokenizer.

`tfds:NAME` names a prepared dataset, `tfds:FOLDER` one that lies in a folder. Its first feature
that is an image or a video is used.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from poet.media import images
from poet.typing import UInt8


@dataclasses.dataclass(frozen=True)
class TfdsSplit:
    """The first examples of one split; stands where rows of a manifest do.

    Attributes:
      name: Of the dataset, or its folder.
      split: Of the dataset.
      num_examples: In all.
      feature: Which one is read.
    """

    name: str
    split: str
    num_examples: int
    feature: str

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, part: slice) -> "TfdsSplit":
        """The first examples: only slices from the start."""
        return dataclasses.replace(self, num_examples=len(range(self.num_examples)[part]))

    def frames(
        self, height_px: int, width_px: int, num_frames: int, on_file: Callable[[int], None]
    ) -> UInt8[np.ndarray, "W T Y X 3"]:
        """Clips cut one after the other, at the dataset's own frame rate; an image is one frame."""
        pieces = []
        for done, example in enumerate(self._examples(), start=1):
            pixels = example if example.ndim == 4 else example[None]
            fitted = [images.fit_pixels(frame, height_px, width_px) for frame in pixels]
            for start in range(0, len(fitted) - num_frames + 1, num_frames):
                pieces.append(np.stack(fitted[start : start + num_frames]))
            on_file(done)
        if not pieces:
            raise ValueError(
                f"None of {len(self)} examples of {self.name} has {num_frames} frames; ask for"
                " fewer in the gin file (1 for images)."
            )
        return np.stack(pieces)

    def _examples(self) -> Iterator[np.ndarray]:
        import tensorflow_datasets as tfds

        dataset = _builder(self.name).as_dataset(split=f"{self.split}[:{self.num_examples}]")
        for example in tfds.as_numpy(dataset):
            yield example[self.feature]


def open_split(name: str, split: str) -> TfdsSplit:
    """The split of a dataset that is prepared on this machine.

    Raises:
      ValueError: There is no such dataset, split, or no feature of images or videos in it.
    """
    builder = _builder(name)
    if split not in builder.info.splits:
        raise ValueError(
            f"{name} has no split {split!r}, only {', '.join(sorted(builder.info.splits))}; set"
            " TokenizerRun.split."
        )
    return TfdsSplit(name, split, builder.info.splits[split].num_examples, _feature(name, builder))


def splits(name: str) -> set[str]:
    """Names of a dataset's splits."""
    return set(_builder(name).info.splits)


def _builder(name: str) -> Any:
    import tensorflow_datasets as tfds
    from etils import epath

    try:
        if epath.Path(name).is_dir():
            return tfds.builder_from_directory(name)
        builder = tfds.builder(name)
    except Exception as error:  # Its registry raises types of its own.
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"There is no TFDS dataset {name!r} ({first_line[:120]}); name a prepared dataset or"
            " the folder of one."
        ) from error
    if not builder.data_path.exists():
        raise ValueError(
            f"The TFDS dataset {name!r} is not prepared at {builder.data_path}; run `tfds build"
            f" {name}` first."
        )
    return builder


def _feature(name: str, builder: Any) -> str:
    import tensorflow_datasets as tfds

    kinds = (tfds.features.Video, tfds.features.Image)
    for feature, what in builder.info.features.items():
        if isinstance(what, kinds) and what.shape[-1] in (3, 1):
            return feature
    raise ValueError(
        f"{name} has no feature of images or videos, only"
        f" {', '.join(builder.info.features)}; choose another dataset."
    )
