"""Says what a dataset, checkpoint, tokenizer, media file or task plan is, in words and a table.

poet inspect out/demo/dataset
poet inspect out/demo/model
poet inspect out/demo/clips/manifest.tsv
poet inspect out/demo/dataset --task text_to_video      the sequence plan at the dataset's sizes
poet inspect --task video_to_audio                      the same at the paper's sizes
poet inspect --task inpainting --dataset out/all/dataset --tokenizers out/demo/tokenizers \
    --html out/inpainting.html                          real examples, token by token, decoded
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
    add = parser.add_argument
    add("--task", help="show the sequence plan of this task, or with --dataset its examples")
    add("--dataset", help="show real examples of --task from this prepared dataset")
    add("--tokenizers", help="folder with visual/ and audio/, to decode the examples")
    add("--checkpoint", help="MODEL_DIR whose text tokenizer reads the captions; bytes otherwise")
    add("--split", help="of the dataset; its first by default")
    add("--num_examples", type=int, default=3)
    add("--html", help="write the examples as a page that opens from disk")
    add("--task_modules", nargs="*", default=["tasks.paper", "tasks.mixtures"])
    flags = parser.parse_args(argv)
    if flags.dataset:
        return _examples(flags)
    if flags.path is None and flags.task is None:
        raise commands.UserError("Nothing to inspect; give a path, or --task NAME.")
    words, table = _plan(flags.task, flags.path) if flags.task else _look(flags.path)
    print(words)
    print(render(table))
    return 0


def _examples(flags) -> int:
    """Prints examples of a task, and writes them as a page."""
    from poet.data import groups, registry
    from poet.data.records import open_dataset
    from poet.evals import task_view
    from poet.tokenizers.text import ByteTokenizer
    from poet.train import checkpoint, lm

    if not flags.task:
        raise commands.UserError("--dataset shows examples of a task; give --task NAME too.")
    registry.load_task_modules(flags.task_modules)
    known = registry.names()
    entry = registry.get(flags.task if flags.task in known else f"poet_{flags.task}")
    if isinstance(entry, registry.MixtureEntry):
        raise commands.UserError(f"{entry.name} is a mixture; give one of its tasks.")
    dataset = open_dataset(flags.dataset)
    text_tokenizer = ByteTokenizer()
    if flags.checkpoint:
        text_tokenizer = lm.text_tokenizer_from_meta(checkpoint.read_meta(flags.checkpoint))
    split = flags.split or next(iter(dataset.splits))
    sizes = lm.sizes_of(dataset, text_tokenizer)
    sized = [
        task for task in groups.size_task(entry, dataset, sizes) if len(task.records.get(split, ()))
    ]
    if not sized:
        wants = " and ".join(sorted(entry.needs)) or "anything"
        raise commands.UserError(
            f"No record of split {split!r} of {flags.dataset} has {wants}; choose another --split"
            " or task, or prepare clips that have it."
        )
    visual = audio = None
    if flags.tokenizers:
        visual, audio = _tokenizers_of(dataset, flags.tokenizers)
    for task in sized:
        shown = task_view.examples(dataset, task, text_tokenizer, split, flags.num_examples)
        title = f"{task.name}, split {split} of {flags.dataset}"
        print(title)
        for example in shown:
            print("\n".join(task_view.terminal(task.plan, example, sys.stdout.isatty())))
        if flags.html:
            suffix = task.name.partition("@")[2]
            path = Path(flags.html)
            path = path.with_stem(f"{path.stem}-{suffix}") if suffix else path
            page = task_view.page(task.plan, shown, title=title, visual=visual, audio=audio)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page)
            print(f"wrote {path}")
    return 0


def _tokenizers_of(dataset, folder: str):
    """(visual, audio) of a folder, if they made the dataset's ids."""
    from poet.sample import loading

    found = dict(zip(("visual", "audio"), loading.load_tokenizers(folder), strict=True))
    for kind, tokenizer in found.items():
        made = dataset.fingerprints.get(kind)
        if made not in (None, tokenizer.fingerprint):
            raise commands.UserError(
                f"The {kind} ids were made by the tokenizer {made[:12]}, {folder} holds"
                f" {tokenizer.fingerprint[:12]}; give the --tokenizers of `poet prepare`."
            )
    return found["visual"], found["audio"]


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
    if "," in name:
        return _dataset(name)
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
