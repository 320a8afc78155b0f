"""Says what a dataset, checkpoint, tokenizer, media file or task plan is, in words and a table.

poet inspect out/demo/dataset
poet inspect out/demo/model
poet inspect out/demo/clips/manifest.tsv
poet inspect out/demo/dataset --task text_to_video      the sequence plan at the dataset's sizes
poet inspect --task video_to_audio                      the same at the paper's sizes
"""

import collections
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from poet.main import commands

Table = list[tuple[Any, ...]]


def main(argv: list[str] | None = None) -> int:
    """Runs `poet inspect` and returns its exit code."""
    return commands.run_command(_run, argv)


def _run(argv: list[str]) -> int:
    parser = commands.parser(__doc__, "inspect")
    parser.add_argument("path", nargs="?", help="dataset, MODEL_DIR, tokenizer, file or manifest")
    parser.add_argument("--task", help="show the sequence plan of this task")
    flags = parser.parse_args(argv)
    if flags.path is None and flags.task is None:
        raise commands.UserError("Nothing to inspect; give a path, or --task NAME.")
    words, table = _plan(flags.task, flags.path) if flags.task else _look(flags.path)
    print(words)
    print(render(table))
    return 0


def render(table: Table) -> str:
    """Returns rows as aligned columns; the first row is the heading."""
    cells = [[str(cell) for cell in row] for row in table]
    if not cells:
        return ""
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(f"  {line}" for line in lines)


def _look(name: str) -> tuple[str, Table]:
    path = Path(name)
    if "://" not in name and not path.exists():
        raise commands.UserError(
            f"There is nothing at {name}; expected a dataset, a MODEL_DIR, a tokenizer, a media"
            " file or a manifest."
        )
    if (path / "poet.json").exists():
        return _dataset(name)
    if (path / "config.json").exists():
        return _tokenizer(path)
    if any((path / folder).is_dir() for folder in ("checkpoints", "train/checkpoints")):
        return _checkpoint(name if (path / "checkpoints").is_dir() else str(path / "train"))
    if path.is_dir() or path.suffix.lower() in (".tsv", ".csv", ".jsonl"):
        return _manifest(path)
    return _media(path)


def _dataset(name: str) -> tuple[str, Table]:
    from poet.data import writer
    from poet.data.records import open_dataset

    dataset = open_dataset(name)
    heading = ("split", "records", *(f"with {what}" for what in writer.CAPABILITIES), "shapes")
    rows: Table = [heading]
    for split, count in dataset.splits.items():
        having = (len(dataset.capability(split, what)) for what in writer.CAPABILITIES)
        shapes = dataset.summary["splits"][split]["visual_shapes"]
        rows.append((split, f"{count:,}", *(f"{n:,}" for n in having), ", ".join(shapes)))
    prints = ", ".join(f"{k} {str(v)[:12]}" for k, v in dataset.fingerprints.items())
    words = (
        f"{name} is a dataset of token records ({dataset.summary['file_format']}),"
        f" fingerprint {dataset.fingerprint[:12]}.\nTokenizers: {prints}."
        f"\nCodes: {dataset.metadata.get('num_codes')}."
        f"\nMade with: {dataset.metadata.get('preprocessing')}.\n"
    )
    return words, rows


def _checkpoint(name: str) -> tuple[str, Table]:
    from poet.train import checkpoint, state

    meta = checkpoint.read_meta(name)
    count = state.count_parameters(checkpoint.load_params(name))
    words = (
        f"{name} holds checkpoints of a {str(meta.get('kind')).replace('_', ' ')}; the newest is"
        f" step {meta['step']:,} with {count:,} parameters.\n"
    )
    rows: Table = [("what", "value")]
    for key, value in meta.items():
        if key in ("operative_config", "task_values"):
            continue
        if isinstance(value, dict):
            rows += [(f"{key}.{part}", _short(item)) for part, item in value.items()]
        else:
            rows.append((key, _short(value)))
    return words, rows


def _tokenizer(path: Path) -> tuple[str, Table]:
    from poet.tokenizers import protocol

    tokenizer = protocol.load(path)
    facts = json.loads((path / "config.json").read_text())
    words = (
        f"{path} is a tokenizer ({type(tokenizer).__name__}), fingerprint"
        f" {tokenizer.fingerprint[:12]}.\n"
    )
    rows: Table = [("what", "value"), *protocol.describe(tokenizer).items()]
    rows += [(k, _short(v)) for k, v in _flat(facts) if k != "fingerprint"]
    return words, rows


def _media(path: Path) -> tuple[str, Table]:
    from poet.media import video

    facts = dataclasses.asdict(video.probe(path))
    what = "a video" if facts.get("height_px") else "a sound"
    rows = [("what", "value"), *((key, _short(v)) for key, v in facts.items() if v is not None)]
    return f"{path} is {what}.\n", rows


def _manifest(path: Path) -> tuple[str, Table]:
    from poet.media import manifest

    rows = manifest.read_manifest(path)
    counts = collections.Counter(row.split or "(none)" for row in rows)
    captioned = collections.Counter(row.split or "(none)" for row in rows if row.caption)
    missing = collections.Counter(row.split or "(none)" for row in rows if not row.path.exists())
    table: Table = [("split", "rows", "with caption", "files missing", "first file")]
    for split, count in counts.items():
        first = next(row.path.name for row in rows if (row.split or "(none)") == split)
        table.append((split, count, captioned[split], missing[split], first))
    return f"{path} is a manifest of {len(rows):,} clips.\n", table


def _plan(task_name: str, path: str | None) -> tuple[str, Table]:
    from poet.data.groups import SequenceSizes
    from poet.data.records import open_dataset
    from poet.tokenizers.text import ByteTokenizer
    from poet.tokens import tasks
    from poet.tokens.clip import ClipShape, SoundShape
    from poet.tokens.vocabulary import Vocabulary
    from poet.train import lm

    task = tasks.get(task_name.removeprefix("poet_"))
    if path:
        sizes, where = lm.sizes_of(open_dataset(path), ByteTokenizer()), f"at the sizes of {path}"
    else:
        clip = ClipShape(num_frames=17, height_px=128, width_px=128)
        table = Vocabulary()
        sound = SoundShape.for_clip(clip, len(table.audio_levels))
        sizes = SequenceSizes(clip=clip, sound=sound, text_slots=64, vocabulary=table)
        where = "at the paper's sizes (17 frames of 128 x 128, 4 audio levels)"
    plan = sizes.plan(task)
    words = (
        f"The plan of {task.name} {where}: {plan.length:,} tokens, of which"
        f" {plan.prefix_length:,} are prefix and {int(plan.loss_weights.sum()):,} carry loss.\n"
    )
    heading = ("positions", "what", "ids", "side", "tokens with loss")
    rows = [
        (f"{r.start}-{r.stop - 1}", r.what, r.ids, r.side, r.loss_tokens) for r in plan.describe()
    ]
    return words, [heading, *rows]


def _flat(facts: dict[str, Any], name: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in facts.items():
        whole = f"{name}.{key}" if name else key
        found += _flat(value, whole) if isinstance(value, dict) else [(whole, value)]
    return found


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


if __name__ == "__main__":
    sys.exit(main())
