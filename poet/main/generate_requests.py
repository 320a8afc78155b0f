"""The requests of `poet generate`: from its flags, from a manifest, or from lines of JSON."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from poet.main import commands

# What a line of a .jsonl file may say besides the settings of sampling.
_FIELDS = ("name", "prompt", "negative_prompt", "image", "video", "audio", "mask", "start_s")
_SETTINGS = ("temperature", "top_k", "top_p", "guidance", "seed")


def asks_of(flags: Any, sampling: Any) -> list:
    """Requests in order; every sample has a number of its own."""
    from poet.sample.asks import Ask

    if flags.num_samples < 1:
        raise commands.UserError(f"--num_samples expects 1 or more, got {flags.num_samples}.")
    rows = _file_rows(flags) if flags.requests else _flag_rows(flags)
    if flags.size and flags.size not in ("square", "portrait"):
        raise commands.UserError(f"--size expects square or portrait, got {flags.size}.")
    asks = []
    for number, row in enumerate(rows):
        settings = {key: row.pop(key) for key in _SETTINGS if key in row}
        own = dataclasses.replace(sampling, **settings) if settings else None
        for sample in range(flags.num_samples):
            name = row["name"] if flags.num_samples == 1 else f"{row['name']}_{sample}"
            ask = Ask(**row | {"name": name}, number=(sample << 32) + number, sampling=own)
            asks.append(ask)
    index, count = _shard(flags.shard)
    mine = asks[index::count]
    if not mine:
        raise commands.UserError(
            f"--shard {flags.shard} has no request: there are {len(asks)}; use fewer shards."
        )
    return mine


def picker(engine: Any, folder: Path, num_asks: int) -> Any:
    """A function that writes the tries of a step as files and asks which one to keep."""
    from poet.media import write

    if num_asks != 1 or not sys.stdin.isatty():
        raise commands.UserError(
            "--choose hand asks at a terminal, for one request; use --choose likelihood."
        )

    def pick(place: int, codes: dict) -> int:
        folder.mkdir(parents=True, exist_ok=True)
        if "visual" not in codes:
            clips = engine.decode_sound(codes["audio"])
            paths = [folder / f"step{place}_{number}.wav" for number in range(len(clips))]
            for path, sound in zip(paths, clips, strict=True):
                write.write_wav(path, sound, engine.sample_rate_hz)
        else:
            clips = engine.decode_video(codes["visual"])
            paths = [folder / f"step{place}_{number}.mp4" for number in range(len(clips))]
            scale = max(1, 128 // min(clips.shape[2:4]))
            for path, frames in zip(paths, clips, strict=True):
                write.write_video(path, frames, engine.clip.frames_per_second, scale=scale)
        print("\n".join(f"{number}: {path}" for number, path in enumerate(paths)))
        while True:
            answer = input(f"Which one, 0 to {len(paths) - 1}? ").strip()
            if answer.isdigit() and int(answer) < len(paths):
                return int(answer)

    return pick


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise commands.UserError(f"--shard expects I/N with I below N, such as 0/4, got {text!r}.")
    return int(index), int(count)


def _flag_rows(flags: Any) -> list[dict]:
    from poet.sample import extend

    prompts = flags.prompt
    timed = extend.timed_prompts(prompts) if flags.seconds else None
    if timed is not None:
        prompts = [timed]
    columns = {
        "prompt": prompts,
        "image": flags.image,
        "video": flags.video,
        "audio": flags.audio,
    }
    counts = {f"--{name}": len(values) for name, values in columns.items() if len(values) > 1}
    if len(set(counts.values())) > 1:
        words = " and ".join(f"{count} {flag}" for flag, count in counts.items())
        raise commands.UserError(
            f"Expected as many of each flag, got {words}; give one for all, or one for each."
        )
    count = max(counts.values(), default=1)
    if flags.prompt and not all(prompt.strip() for prompt in flags.prompt):
        raise commands.UserError("--prompt is empty; say what is to be seen, or leave it out.")
    common = {
        "negative_prompt": flags.negative_prompt,
        "mask": flags.mask,
        "start_s": flags.start_s,
    }
    rows = []
    for number in range(count):
        own = {
            name: (values[number] if len(values) > 1 else values[0] if values else "")
            for name, values in columns.items()
        }
        for name in ("image", "video", "audio"):
            if own[name] and not Path(own[name]).is_file():
                raise commands.UserError(f"--{name} {own[name]}: there is no such file.")
        if flags.mask and Path(flags.mask).suffix and not Path(flags.mask).is_file():
            raise commands.UserError(f"--mask {flags.mask}: there is no such file.")
        rows.append({"name": f"{number:04d}", **own, **common})
    return rows


def _file_rows(flags: Any) -> list[dict]:
    if flags.limit is not None and flags.limit < 1:
        raise commands.UserError(f"--limit expects 1 or more, got {flags.limit}.")
    given = [name for name in ("prompt", "image", "video", "audio") if getattr(flags, name)]
    if given:
        raise commands.UserError(
            f"--requests and --{given[0]} do not go together; write it into the rows."
        )
    path = Path(flags.requests)
    if path.suffix == ".jsonl" and _holds_requests(path):
        return _json_rows(path)[: flags.limit]
    return _manifest_rows(flags)


def _holds_requests(path: Path) -> bool:
    """Whether lines are requests; a manifest's rows name a "file" or "path" each."""
    for line in path.read_text().splitlines():
        if line.strip():
            row = json.loads(line)
            return isinstance(row, dict) and not {"file", "path"} & set(row)
    return True


def _json_rows(path: Path) -> list[dict]:
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        row = json.loads(line)
        unknown = sorted(set(row) - set(_FIELDS) - set(_SETTINGS))
        if unknown:
            raise commands.UserError(
                f"{path}:{number} has {', '.join(unknown)}; a request has"
                f" {', '.join((*_FIELDS, *_SETTINGS))}."
            )
        for name in ("image", "video", "audio", "mask"):
            # Paths are relative to the file that names them.
            if row.get(name) and (path.parent / row[name]).exists():
                row[name] = str(path.parent / row[name])
        rows.append({"name": f"{len(rows):04d}"} | row)
    return rows


def _manifest_rows(flags: Any) -> list[dict]:
    from poet.media import images, manifest

    rows = manifest.read_manifest(flags.requests)
    kept = [row for row in rows if flags.split in (None, row.split)][: flags.limit]
    if not kept:
        splits = sorted({row.split for row in rows if row.split})
        raise commands.UserError(
            f"Expected rows of split {flags.split!r} in {flags.requests}, found none; its splits"
            f" are {', '.join(splits) or 'not named'}."
        )
    found = []
    for row in kept:
        field = "image" if row.suffix in images.IMAGE_SUFFIXES else "video"
        found.append(
            {
                "name": row.clip_id.replace("/", "_"),
                "prompt": row.caption,
                field: str(row.path),
                "mask": flags.mask,
                "negative_prompt": flags.negative_prompt,
                "start_s": row.start_s if flags.start_s is None else flags.start_s,
                "facts": row.extra,
            }
        )
    return found
