"""Pictures and clips of a TFDS dataset, for training the visual tokenizer and for `poet prepare`.

`tfds:NAME` names a prepared dataset, `tfds:FOLDER` one that lies in a folder. Its first feature
that is an image or a video is used.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from poet.media import images
from poet.media.manifest import ManifestRow
from poet.media.write import temporary_sibling
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


def export(
    name: str, folder: Path, caption_feature: str = "", split: str | None = None
) -> list[ManifestRow]:
    """Writes the pictures and clips of a TFDS dataset as files and returns their rows.

    Images become PNG, clips NumPy files of all frames: both exactly what the dataset holds. Files
    that are there are kept, so that an interrupted call can be repeated.

    Args:
      name: of a prepared dataset, or its folder.
      folder: where files go, SPLIT/NUMBER.png or .npy.
      caption_feature: text feature with captions; "" takes "caption" or "text" if there is one.
      split: only this one; None for all.

    Raises ValueError as `open_split` does, or if there is no such text feature.
    """
    import tensorflow_datasets as tfds

    builder = _builder(name)
    feature, caption = _feature(name, builder), _caption_feature(name, builder, caption_feature)
    if split is not None:
        open_split(name, split)  # says which there are
    rows = []
    for each in [split] if split else sorted(builder.info.splits):
        (folder / each).mkdir(parents=True, exist_ok=True)
        for number, example in enumerate(tfds.as_numpy(builder.as_dataset(split=each))):
            pixels = example[feature]
            suffix = ".png" if pixels.ndim == 3 else ".npy"
            path = folder / each / f"{number:07d}{suffix}"
            if not path.exists():
                _write_pixels(path, pixels)
                os.utime(path, (0, 0))  # written again, it is the same file to `prepare`
            words = example[caption].decode("utf-8") if caption else ""
            rows.append(
                ManifestRow(
                    path=path,
                    clip_id=f"{each}/{number:07d}",
                    caption=" ".join(words.split()),
                    split=each,
                    source=name,
                )
            )
    return rows


def _write_pixels(path: Path, pixels: np.ndarray) -> None:
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    if path.suffix == ".png":
        images.write_image(path, pixels)
        return
    with temporary_sibling(path) as temporary, open(temporary, "wb") as file:
        np.save(file, pixels)


def _caption_feature(name: str, builder: Any, wanted: str) -> str:
    import tensorflow_datasets as tfds

    # A dataset read from its folder names its features in any order (a protobuf map).
    texts = sorted(
        feature
        for feature, what in builder.info.features.items()
        if isinstance(what, tfds.features.Text)
    )
    if wanted and wanted not in texts:
        raise ValueError(
            f"{name} has no text feature {wanted!r}, only {texts or 'none'}; correct"
            " --caption_feature."
        )
    return wanted or next((known for known in ("caption", "text") if known in texts), "")
