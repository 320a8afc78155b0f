"""What `poet evaluate` does with two folders of clips, and with two results."""

import sys
from pathlib import Path
from typing import Any

from poet.main import commands

_PARTS = "parts"
_NATIVE = "native"


def compare(flags: Any) -> int:
    """Prints which differences between two results matter."""
    from poet.evals import checkpoint_report

    first, second = (Path(path) for path in flags.compare)
    measures = [checkpoint_report.measures(path) for path in (first, second)]
    if not all(measures):
        return _compare(flags, first, second)
    shared = [name for name in measures[0] if name in measures[1]]
    if not shared:
        raise commands.UserError(
            f"{first} and {second} share no measure of a protocol: one has"
            f" {', '.join(measures[0])}, the other {', '.join(measures[1])}."
        )
    for name in shared:
        print(f"## {name}\n")
        _compare(flags, measures[0][name], measures[1][name])
        print()
    return 0


def _compare(flags: Any, one: Path, other: Path) -> int:
    from poet.evals import comparing, results

    first, second = results.read(one), results.read(other)
    names = flags.metrics.split(",") if flags.metrics else None
    found = comparing.compare(first, second, names=names, seed=flags.seed)
    print(f"first: {one}\nsecond: {other}\n")
    print(comparing.table(found), end="")
    if found and not found[0].is_paired:
        print("\nThe clips have other names, or other groups: each result drew its own.")
    return 0


def run(flags: Any) -> int:
    """Measures a share of two folders' clips; sums up when all parts are there."""
    from poet.evals import measuring, resampling, results
    from poet.train.progress import Progress

    shard, num_shards = shard_of(flags.shard)
    commands.check_writable(flags.out)
    work = _work(flags)
    statistics = resampling.Statistics(repeats=flags.repeats, seed=flags.seed)
    counts = work.folders.real, work.folders.generated
    resampling.check_counts(work.metrics, *counts, statistics)
    if not flags.merge:
        total = measuring.num_items(work, shard, num_shards)
        with Progress("evaluate", total, unit="names") as progress:
            measuring.measure(work, shard, num_shards, progress.update)
        missing = work.missing()
        if missing and num_shards > 1:
            print(f"{work.num_parts - len(missing)} of {work.num_parts} parts are measured.")
            return 0
    measured = measuring.collect(work)
    about = {"real": flags.real or "", "generated": flags.generated}
    facts = results.write(Path(flags.out), work, measured, statistics, about)
    print(results.table({"": facts}), end="")
    for note in notes(facts):
        print(note, file=sys.stderr)
    print(f"\n{Path(flags.out) / results.RESULT_NAME}")
    return 0


def _work(flags: Any) -> Any:
    from poet.evals import folders, measuring, metrics, plugins, reading

    if not flags.generated:
        raise commands.UserError("--real needs --generated, the folder to compare with it.")
    found = folders.pair(
        flags.real,
        flags.generated,
        split=flags.split,
        only_common=flags.only_common,
        num_clips=flags.num_clips,
    )
    names = (flags.metrics or metrics.ALL).split(",")
    weights = _weights(flags.weights)
    brought = plugins.load(flags.plugin, weights, flags.batch_size)
    chosen = metrics.choose(names, weights, flags.batch_size, brought)
    if names == [metrics.ALL]:
        chosen = _possible(chosen, found, flags.num_frames)
    height_px, width_px = _size(flags.size, found)
    size = {"height_px": height_px, "width_px": width_px, "num_frames": flags.num_frames}
    rate = _rate("--fps", flags.fps)
    real_rate = _rate("--real_fps", flags.real_fps) if flags.real_fps else rate
    return measuring.Work(
        folders=found,
        metrics=tuple(chosen),
        real=reading.Reading(frames_per_second=real_rate, is_central=flags.real_central, **size),
        generated=reading.Reading(frames_per_second=rate, **size),
        parts=Path(flags.out) / _PARTS,
        batch_size=flags.batch_size,
    )


def _possible(chosen: list, found: Any, num_frames: int) -> list:
    """The metrics that the folders allow; says why the others are left out."""
    from poet.evals import measuring, reading

    ends = (found.items[0], found.items[-1])
    rows = [row for item in ends for row in (item.real, item.generated) if row is not None]
    is_heard = all(map(reading.has_sound, rows))
    kept = []
    for metric in chosen:
        reason = measuring.why_not(metric, found, num_frames)
        if not reason and metric.source.needs.sample_rates_hz and not is_heard:
            reason = "needs sound, and the first files have none."
        if reason:
            print(f"left out: {metric.name} {reason}", file=sys.stderr)
        else:
            kept.append(metric)
    return kept


def shard_of(text: str) -> tuple[int, int]:
    """(I, N) of I/N."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise commands.UserError(f"--shard expects I/N with I below N, such as 0/4, got {text!r}.")
    return int(index), int(count)


def _weights(words: list[str]) -> dict[str, Path]:
    found = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise commands.UserError(
                f"--weights expects NAME=FILE, such as i3d=i3d.safetensors, got {word!r}."
            )
        found[name] = Path(path)
    return found


def _size(text: str, found: Any) -> tuple[int, int]:
    from poet.evals import reading

    if not text:
        first = next(item for item in found.items if item.generated is not None)
        return reading.size_px(first.generated)
    height, _, width = text.partition("x")
    if not (height.isdigit() and (width or height).isdigit()):
        raise commands.UserError(
            f"--size expects 128 or HEIGHTxWIDTH, such as 64x96, got {text!r}."
        )
    return int(height), int(width or height)


def _rate(flag: str, text: str) -> float | None:
    if text == _NATIVE:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise commands.UserError(
            f"{flag} expects frames a second or {_NATIVE!r}, got {text!r}."
        ) from error


def notes(facts: dict) -> list[str]:
    """What is known of the weights, once for each file."""
    notes = (entry.get("weights_note") for entry in facts["metrics"].values())
    return list(dict.fromkeys(note for note in notes if note))
