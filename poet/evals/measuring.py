"""Measures the clips of two folders in parts that hosts share, and puts the parts together.

The items are cut into parts of a few clips; a part is a file in a folder that is named after
everything which could change its rows. Whoever measures a part writes it whole or not at all, and
parts that are there are kept: a killed run goes on, and any number of processes that see one folder
may share the work. Rows of all parts are joined by name, and only then summed up: neither batches,
nor hosts, nor the order of files can change a result.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from poet.evals import folders, reading
from poet.evals.folders import Folders, Item
from poet.evals.metric import Case, Clip, Metric, Side, Source
from poet.evals.reading import Reading
from poet.evals.rows import Measured, Rows, arrays_of, join_rows, rows_of
from poet.media.write import temporary_sibling

# Raise it when the same clips give other rows.
_ROWS_VERSION = 1
_NUM_READERS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be measured and how.

    Attributes:
      folders: The files.
      metrics: Whose sources are asked.
      real, generated: How clips of each side are read.
      parts: Folder for the parts; a folder in it is ours.
      batch_size: Clips in memory of each side at once, at most those of a part.
      clips_per_part: Names that a killed run measures again, at most.
    """

    folders: Folders
    metrics: tuple[Metric, ...]
    real: Reading
    generated: Reading
    parts: Path
    batch_size: int = 8
    clips_per_part: int = 16

    def __post_init__(self):
        check(self)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Of the metrics, each once."""
        return tuple({metric.source.name: metric.source for metric in self.metrics}.values())

    @property
    def num_parts(self) -> int:
        """Parts of all items."""
        return -(-len(self.folders.items) // self.clips_per_part)

    def part_path(self, part: int) -> Path:
        """The file of a part."""
        return self.parts / self._key / f"{part:06d}-of-{self.num_parts:06d}.npz"

    @functools.cached_property
    def _key(self) -> str:
        """Digits that change whenever rows could."""
        protocols = sorted([metric.source.name, metric.protocol] for metric in self.metrics)
        readings = [dataclasses.astuple(each) for each in (self.real, self.generated)]
        files = [
            [
                *(item.name, item.caption, dataclasses.asdict(item.spec) if item.spec else None),
                *map(folders.identity, (item.real, item.generated)),
            ]
            for item in self.folders.items
        ]
        text = json.dumps([_ROWS_VERSION, self.clips_per_part, protocols, readings, files])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def missing(self) -> list[int]:
        """Parts that nobody has measured yet."""
        return [part for part in range(self.num_parts) if not self.part_path(part).exists()]

    def items_of(self, part: int) -> tuple[Item, ...]:
        """The items of a part."""
        start = part * self.clips_per_part
        return self.folders.items[start : start + self.clips_per_part]


def check(work: Work) -> None:
    """Refuses metrics that these folders or this reading do not allow.

    Raises:
      ValueError: Naming the metric, what it needs and what there is.
    """
    if min(work.batch_size, work.clips_per_part) < 1:
        raise ValueError(
            "Expected batches and parts of at least 1 clip, got"
            f" {work.batch_size} and {work.clips_per_part}."
        )
    if not work.metrics:
        raise ValueError("Expected at least one metric, got none.")
    for metric in work.metrics:
        reason = why_not(metric, work.folders, work.generated.num_frames)
        if reason:
            raise ValueError(f"{metric.name} {reason}")


def why_not(metric: Metric, found: Folders, num_frames: int) -> str:
    """Why a metric cannot be had, as the rest of a sentence that begins with its name; or ""."""
    needs = metric.source.needs
    least, most = needs.num_frames
    if not least <= num_frames <= most:
        wanted = f"{least}" if least == most else f"at least {least}"
        return f"needs clips of {wanted} frames, got {num_frames}; ask for other frames."
    needs_real = needs.has_pairs or needs.has_laws
    if not found.real and (needs_real or "real" in metric.source.sides):
        return "compares with real clips; give their folder."
    if needs.has_pairs and not found.is_paired:
        return (
            "compares clips of one name, but the folders have other names:"
            f" {_difference(found)}; rename or leave out files, or take the common ones only."
        )
    made = [item for item in found.items if item.generated is not None]
    for attribute, is_needed, what in (
        ("spec", needs.has_laws, "a law in the real folder's manifest (of `poet render`)"),
        (
            "caption",
            needs.has_captions,
            "words in one of the folders (manifest, .txt or .json files)",
        ),
    ):
        lacking = [item.name for item in made if not getattr(item, attribute)]
        if is_needed and lacking:
            return f"needs {what} for each name; {len(lacking)} have none, the first {lacking[0]}."
    return ""


def _difference(found: Folders) -> str:
    real = {item.name for item in found.items if item.real is not None}
    made = {item.name for item in found.items if item.generated is not None}
    words = []
    for names, where in ((real - made, "real"), (made - real, "generated")):
        if names:
            words.append(f"{len(names)} only in the {where} one, the first {min(names)}")
    return "; ".join(words) or f"{len(real)} real and {len(made)} generated of more"


def measure(
    work: Work,
    shard: int = 0,
    num_shards: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Measures every `num_shards`-th part from `shard` on, those that are there excepted.

    Args:
      work: The same for all shards.
      shard: Of 0 .. num_shards - 1.
      num_shards: How many share the work.
      progress: Called with the items of this shard that are done.
    """
    mine = range(shard, work.num_parts, num_shards)
    todo = [part for part in mine if not work.part_path(part).exists()]
    done = num_items(work, shard, num_shards) - sum(len(work.items_of(part)) for part in todo)
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        batches = _read_ahead(work, todo, readers)
        for part, group in itertools.groupby(batches, key=lambda batch: batch[0]):
            rows = _measure_part(work, (clips for _, clips in group))
            _write(work.part_path(part), rows)
            done += len(work.items_of(part))
            progress(done)


def num_items(work: Work, shard: int, num_shards: int) -> int:
    """Items of a shard."""
    return sum(len(work.items_of(part)) for part in range(shard, work.num_parts, num_shards))


def _measure_part(
    work: Work, batches: Iterable[tuple[list[Clip], list[Clip]]]
) -> dict[tuple[str, Side], Rows]:
    found: dict[tuple[str, Side], list[np.ndarray]] = {
        (source.name, side): [] for source in work.sources for side in source.sides
    }
    for real, generated in batches:
        truth = {clip.name: clip for clip in real}
        # Pairs only if the folders pair: equal names of others would meet by chance.
        pairs = truth if work.folders.is_paired else {}
        cases: dict[Side, list[Case]] = {
            "real": [Case(clip=clip) for clip in real],
            "generated": [Case(clip=clip, real=pairs.get(clip.name)) for clip in generated],
        }
        for source in work.sources:
            for side in source.sides:
                if cases[side]:
                    found[source.name, side] += _rows(source, cases[side])
    return {key: join_rows(clips) for key, clips in found.items()}


def _rows(source: Source, cases: Sequence[Case]) -> list[np.ndarray]:
    found = list(source.rows(cases))
    for case, rows in zip(cases, found, strict=True):
        if not np.isfinite(rows).all():
            raise ValueError(
                f"{source.name} of {case.clip.name} is not finite; look at the file, or at the"
                " network's weights."
            )
    return found


def _read_ahead(
    work: Work, parts: Sequence[int], readers: ThreadPoolExecutor
) -> Iterator[tuple[int, tuple[list[Clip], list[Clip]]]]:
    """(part, (real, generated) clips) of a batch at a time; the next one is read meanwhile."""
    reads, size = _sides_to_read(work), work.batch_size

    def start(batch: Sequence[Item]) -> dict[str, list]:
        jobs: dict[str, list] = {"real": [], "generated": []}
        for item in batch:
            for side, (how, sample_rates_hz) in reads.items():
                row = getattr(item, side)
                if row is not None:
                    job = readers.submit(reading.read_clip, item, row, how, sample_rates_hz)
                    jobs[side].append(job)
        return jobs

    ahead = None
    for part in parts:
        items = work.items_of(part)
        for batch in (items[at : at + size] for at in range(0, len(items), size)):
            before, ahead = ahead, (part, start(batch))
            if before is not None:
                yield before[0], _results(before[1])
    if ahead is not None:
        yield ahead[0], _results(ahead[1])


def _results(jobs) -> tuple[list[Clip], list[Clip]]:
    real, generated = ([job.result() for job in jobs[side]] for side in ("real", "generated"))
    return real, generated


def _sides_to_read(work: Work) -> dict[Side, tuple[Reading, tuple[int, ...]]]:
    """Sides that some source looks at, how, and at which rates it hears them."""
    heard: dict[Side, set[int]] = {}
    for source in work.sources:
        sides: set[Side] = {*source.sides}
        if source.needs.has_pairs:
            sides.add("real")
        for side in sides:
            heard.setdefault(side, set()).update(source.needs.sample_rates_hz)
    readings: dict[Side, Reading] = {"real": work.real, "generated": work.generated}
    return {side: (readings[side], tuple(sorted(rates))) for side, rates in heard.items()}


def collect(work: Work) -> Measured:
    """The rows of all parts.

    Raises:
      ValueError: Parts are missing.
    """
    missing = work.missing()
    if missing:
        raise ValueError(
            f"{len(missing)} of {work.num_parts} parts are not measured yet, the first is number"
            f" {missing[0]}; run the other shards with the same flags first."
        )
    parts = [_read(work.part_path(part)) for part in range(work.num_parts)]
    rows = {}
    for source in work.sources:
        for side in source.sides:
            clips = [part[source.name, side] for part in parts]
            filled = [each.values for each in clips if len(each.values)]
            rows[source.name, side] = Rows(
                values=np.concatenate(filled) if filled else np.zeros((0, 0)),
                counts=np.concatenate([each.counts for each in clips]),
            )
    names: dict[Side, tuple[str, ...]] = {
        "real": tuple(item.name for item in work.folders.items if item.real is not None),
        "generated": tuple(item.name for item in work.folders.items if item.generated is not None),
    }
    return Measured(names=names, rows=rows)


def _write(path: Path, rows: Mapping[tuple[str, Side], Rows]) -> None:
    with temporary_sibling(path, is_shared=True) as temporary:
        arrays: dict[str, Any] = arrays_of(rows)
        np.savez(temporary, **arrays)


def _read(path: Path) -> dict[tuple[str, Side], Rows]:
    with np.load(path, allow_pickle=False) as arrays:
        return rows_of(arrays)
