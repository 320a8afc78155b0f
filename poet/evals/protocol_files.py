"""What a person brings for a protocol, by the source of its requests:

captions   FOLDER/captions.txt   a caption a line, in the benchmark's order
           FOLDER/real           its real clips
classes    FOLDER/classes.tsv    CLASS, tab, the words that ask for it; a line a class
           FOLDER/test.txt       the benchmark's test list, CLASS/FILE a line; what follows a space
                                 is passed over
           FOLDER/real           its real clips
clips      FOLDER/real or FOLDER the clips that are given to the task, with captions where wanted

Clips are anything that `poet evaluate --real` reads: files, a manifest, folders of pictures. Those
that a task is given have to be files.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from poet.evals import folders
from poet.evals.protocol import Protocol
from poet.media import images
from poet.media.manifest import ManifestRow
from poet.sample import inputs
from poet.sample.asks import Ask
from poet.tokens.tasks import Task

REAL = "real"
CAPTIONS, CLASSES, TEST_LIST = "captions.txt", "classes.tsv", "test.txt"
_DRAWS_OF_REQUESTS, _DRAWS_OF_REAL = 0, 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Brought:
    """What was found of a protocol's files.

    Attributes:
      asks: All requests, a sample of all after the other; numbered.
      clips: Name -> row of the clips that they are about; empty for another source than clips.
      real: Name -> row of the benchmark's real clips; empty if no measure draws any.
    """

    asks: tuple[Ask, ...]
    clips: Mapping[str, ManifestRow]
    real: Mapping[str, ManifestRow]


def bring(protocol: Protocol, task: Task, seed: int) -> Brought:
    """Requests and real clips of a protocol.

    Args:
      protocol: Whose folder is read.
      task: What answers it, which decides whether clips are given.
      seed: Of the classes that are drawn.

    Raises:
      ValueError: Something is missing, or there is too little of it; names it.
    """
    folder = Path(protocol.folder)
    if not folder.is_dir():
        raise ValueError(
            f"{protocol.name} needs its benchmark's files in {folder}, and there is no such folder;"
            " docs/evaluation.md says what to lay where."
        )
    clips: dict[str, ManifestRow] = {}
    if protocol.source == "captions":
        asks = _of_words(protocol, _lines(protocol, folder / CAPTIONS, "a caption a line"))
    elif protocol.source == "classes":
        asks = _of_words(protocol, _class_words(protocol, folder, seed))
    else:
        clips = _asked_clips(protocol, folder)
        asks = [_of_clip(protocol, task, name, row) for name, row in clips.items()]
    if protocol.mask and Path(protocol.mask).suffix and not Path(protocol.mask).is_file():
        raise ValueError(f"{protocol.name} needs the mask {protocol.mask}; there is no such file.")
    counts = [measure.num_real or 0 for measure in protocol.measures]
    real: dict[str, ManifestRow] = {}
    if max(counts):
        if not (folder / REAL).exists():
            raise ValueError(
                f"{protocol.name} compares with {max(counts):,} real clips, and there is no"
                f" {folder / REAL}; lay them there."
            )
        real = folders.rows_of(folder / REAL)
        if len(real) < max(counts) and not protocol.real_may_repeat:
            raise ValueError(
                f"{protocol.name} compares with {max(counts):,} real clips, but {folder / REAL} has"
                f" {len(real):,}; bring as many, or ask for fewer (NUM_REAL)."
            )
    return Brought(asks=_numbered(protocol, asks), clips=clips, real=real)


def draw_real(brought: Brought, count: int, seed: int) -> dict[str, ManifestRow]:
    """So many real clips by name, drawn; all come once before one comes twice, as NAME~2."""
    names = sorted(brought.real)
    found = {}
    for place in _draw(len(names), count, seed, _DRAWS_OF_REAL):
        name, times = names[place % len(names)], place // len(names)
        found[f"{name}~{times + 1}" if times else name] = brought.real[name]
    return found


def _draw(num_there: int, count: int, seed: int, stream: int) -> list[int]:
    """Places of `count` draws; those of the n-th time around have n times `num_there` added."""
    if not count:
        return []
    draws = np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))
    rounds = -(-count // num_there)
    places = [draws.permutation(num_there) + at * num_there for at in range(rounds)]
    return np.concatenate(places)[:count].tolist()


def _numbered(protocol: Protocol, asks: Sequence[Ask]) -> tuple[Ask, ...]:
    """Every sample of every request, with a number of its own."""
    found = []
    for sample in range(protocol.num_samples):
        for number, ask in enumerate(asks):
            # The sample first: repeats are equal parts of the names in order.
            name = f"{sample}_{ask.name}" if protocol.num_samples > 1 else ask.name
            found.append(dataclasses.replace(ask, name=name, number=(sample << 32) + number))
    return tuple(found)


def _of_words(protocol: Protocol, words: Sequence[str]) -> list[Ask]:
    return [
        Ask(name=f"{number:06d}", prompt=prompt)
        for number, prompt in enumerate(_first(protocol, words, "captions"))
    ]


def _first(protocol: Protocol, found: Sequence, what: str) -> Sequence:
    wanted = protocol.num_requests or len(found)
    if len(found) < wanted:
        raise ValueError(
            f"{protocol.name} asks for {wanted:,} {what}, but {protocol.folder} has {len(found):,};"
            " bring as many, or ask for fewer (NUM_REQUESTS)."
        )
    return found[:wanted]


def _lines(protocol: Protocol, path: Path, what: str) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{protocol.name} needs {path}, {what}; there is no such file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line]
    if not kept:
        raise ValueError(f"{path} is empty; expected {what}.")
    return kept


def _class_words(protocol: Protocol, folder: Path, seed: int) -> list[str]:
    """The words of the class of each video that is drawn from the test list."""
    lines = _lines(protocol, folder / CLASSES, "a class, a tab and its words a line")
    pairs = [line.split("\t") for line in lines]
    if wrong := [line for line, pair in zip(lines, pairs, strict=True) if len(pair) != 2]:
        raise ValueError(
            f"{folder / CLASSES} expects a class, a tab and its words, got {wrong[0]!r}."
        )
    words = {name.strip(): prompt.strip() for name, prompt in pairs}
    videos = _lines(protocol, folder / TEST_LIST, "the test list, CLASS/FILE a line")
    classes = [line.split()[0].rpartition("/")[0].rpartition("/")[2] for line in videos]
    if unknown := sorted(set(classes) - set(words)):
        raise ValueError(
            f"{folder / TEST_LIST} has videos of class {unknown[0]!r}, for which"
            f" {folder / CLASSES} has no words; add a line."
        )
    count = protocol.num_requests or len(classes)
    drawn = _draw(len(classes), count, seed, _DRAWS_OF_REQUESTS)
    return [words[classes[place % len(classes)]] for place in drawn]


def _asked_clips(protocol: Protocol, folder: Path) -> dict[str, ManifestRow]:
    where = folder / REAL if (folder / REAL).exists() else folder
    rows = folders.rows_of(where, protocol.split or None)
    names = list(rows)
    return {name: rows[name] for name in _first(protocol, names, "clips")}


def _of_clip(protocol: Protocol, task: Task, name: str, row: ManifestRow) -> Ask:
    prompt = row.caption if protocol.uses_captions and task.has_text else ""
    if task.needs_text and not prompt:
        raise ValueError(
            f"{protocol.name} asks with captions, and clip {name} of {protocol.folder} has none;"
            " give it one in the manifest or in a .txt file beside it."
        )
    ask = Ask(name=name, prompt=prompt, start_s=row.start_s, mask=protocol.mask, facts=row.extra)
    if not any(inputs.needs(task)):
        return ask
    if row.part is not None or not isinstance(row.path, Path) or not row.path.is_file():
        raise ValueError(
            f"{protocol.name} gives {task.name} its clips, which have to be files of this machine;"
            f" {row.path} of clip {name} is not there, or a folder, an archive or a URL."
        )
    if row.suffix in images.IMAGE_SUFFIXES:
        return dataclasses.replace(ask, image=str(row.path))
    return dataclasses.replace(ask, video=str(row.path))
