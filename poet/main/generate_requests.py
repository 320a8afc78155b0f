"""The requests of `poet generate`: from its flags, from a manifest, or from lines of JSON."""

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

from poet.main import commands

# What a line of a .jsonl file may say besides the settings of sampling.
_FIELDS = (
    "name", "prompt", "later", "negative_prompt", "image", "video", "audio", "mask", "start_s",
)  # fmt: skip
# "4: a red circle" says what is seen from the fourth second on.
_TIMED = re.compile(r"\s*(\d+(?:\.\d+)?)\s*:\s*(.*\S)\s*$")
_SETTINGS = ("temperature", "top_k", "top_p", "guidance", "seed")


def asks_of(flags: Any, sampling: Any) -> list:
    """Requests in order; every sample has a number of its own."""
    from poet.sample.asks import Ask

    if flags.num_samples < 1:
        raise commands.UserError(f"--num_samples expects 1 or more, got {flags.num_samples}.")
    if flags.dataset and not flags.requests:
        raise commands.UserError(
            "--dataset goes with the name of a SeqIO task, such as --requests poet_inpainting."
        )
    if flags.requests:
        rows = _record_rows(flags) if flags.dataset else _file_rows(flags)
    else:
        rows = _flag_rows(flags)
    if not flags.task:
        raise commands.UserError(
            "--task says what to make, such as text_to_video; give it, or a SeqIO task and its"
            " --dataset as --requests."
        )
    asks = []
    for number, row in enumerate(rows):
        settings = {key: row.pop(key) for key in _SETTINGS if key in row}
        own = _own_sampling(sampling, row["name"], settings)
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


def _own_sampling(sampling: Any, name: str, settings: dict) -> Any:
    try:
        return dataclasses.replace(sampling, **settings) if settings else None
    except TypeError as error:
        raise commands.UserError(
            f"Request {name!r} has {settings}; settings of sampling are numbers."
        ) from error


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
    prompts, later = flags.prompt, ()
    if flags.seconds:
        prompts, later = _timed(prompts)
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
        "later": later,
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


def _timed(prompts: list[str]) -> tuple[list[str], tuple[tuple[float, str], ...]]:
    """(prompts, what follows): "0: ..." and "4: ..." are one prompt whose words change."""
    found = [_TIMED.match(prompt) for prompt in prompts]
    if not prompts or not all(found):
        return prompts, ()
    changes = tuple((float(match.group(1)), match.group(2)) for match in found)
    if changes[0][0] != 0:
        raise commands.UserError(
            f"Prompts of a clip start at 0 s, got {changes[0][0]:g}; write them as"
            ' --prompt "0: ..." --prompt "4: ...".'
        )
    return [changes[0][1]], changes[1:]


def _file_rows(flags: Any) -> list[dict]:
    _check_rows_alone(flags)
    path = Path(flags.requests)
    if not path.exists():
        raise commands.UserError(
            f"--requests {path}: there is no such file; a SeqIO task needs --dataset besides."
        )
    if path.suffix == ".jsonl":
        rows = _json_lines(path)
        # A manifest's rows name a "file" or "path" each; requests say which kind it is.
        if not any({"file", "path"} & set(row) for _, row in rows):
            return [_json_row(path, *row) for row in rows][: flags.limit]
    return _manifest_rows(flags)


def _record_rows(flags: Any) -> list[dict]:
    """One row a record that serves a SeqIO task, in the order of the dataset; sets the task."""
    from poet.data import records, registry

    _check_rows_alone(flags)
    if flags.mask or flags.start_s is not None:
        raise commands.UserError(
            "Records of a dataset were cut and masked when it was prepared; leave --mask and"
            " --start_s out."
        )
    registry.load_task_modules(flags.task_modules)
    dataset, split = records.open_dataset(flags.dataset), flags.split or "validation"
    found = registry.resolve(flags.requests)
    if len(found) != 1:
        raise commands.UserError(
            f"--requests {flags.requests} is a mixture; name one of its tasks:"
            f" {', '.join(entry.name for entry, _ in found)}."
        )
    entry = found[0][0]
    if flags.task not in ("", entry.task.name):
        raise commands.UserError(
            f"--requests {flags.requests} asks for {entry.task.name}, not for {flags.task}; leave"
            " --task out."
        )
    flags.task = entry.task.name
    if split not in dataset.splits:
        raise commands.UserError(
            f"{flags.dataset} has no split {split!r}; its splits are {', '.join(dataset.splits)}."
        )
    served = dataset.having(split, entry.needs)[: flags.limit]
    if not len(served):
        raise commands.UserError(
            f"No record of {flags.dataset}, split {split}, has what {entry.name} needs:"
            f" {', '.join(sorted(entry.needs))}."
        )
    rows = [_record_row(dataset, split, int(index), entry) for index in served]
    return [row | {"negative_prompt": flags.negative_prompt} for row in rows]


def _record_row(dataset: Any, split: str, index: int, entry: Any) -> dict:
    record = dataset.read(split, index)

    def codes(text_tokenizer: Any) -> dict:
        return entry.objective(dataset.read(split, index), entry.task, text_tokenizer)

    return {
        "name": record["clip_id"].replace("/", "_"),
        "prompt": record["caption"] if entry.task.has_text else "",
        "record": f"{dataset.fingerprint[:12]}/{split}/{record['clip_id']}",
        "codes": codes,
    }


def check_dataset(flags: Any, engine: Any) -> None:
    """UserError where a dataset's codes were made by other tokenizers than the model reads."""
    from poet.data import records

    made = records.open_dataset(flags.dataset).fingerprints
    for kind, trained in engine.facts["tokenizers"].items():
        if made.get(kind) not in (None, trained):
            raise commands.UserError(
                f"The {kind} codes of {flags.dataset} were made by tokenizer {made[kind][:12]}, but"
                f" the model reads those of {trained[:12]}; prepare the clips with its tokenizers."
            )


def _check_rows_alone(flags: Any) -> None:
    if flags.limit is not None and flags.limit < 1:
        raise commands.UserError(f"--limit expects 1 or more, got {flags.limit}.")
    given = [name for name in ("prompt", "image", "video", "audio") if getattr(flags, name)]
    if given:
        raise commands.UserError(
            f"--requests and --{given[0]} do not go together; write it into the rows."
        )


def _json_lines(path: Path) -> list[tuple[int, dict]]:
    """(line number, row) of every line that is not empty."""
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise commands.UserError(f"{path}:{number} is no JSON: {error}.") from error
        if not isinstance(row, dict):
            raise commands.UserError(
                f'{path}:{number} expects an object, such as {{"prompt": "a red circle"}}.'
            )
        rows.append((number, row))
    return rows


def _json_row(path: Path, number: int, row: dict) -> dict:
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
    return {"name": f"{number:04d}"} | row


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
