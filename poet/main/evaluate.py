"""Measures a checkpoint, two folders of clips, or a demo's clips by the exact checker.

poet evaluate --real clips --generated made --metrics psnr,ssim,av_align --out out/scores
poet evaluate --real clips --generated made --metrics fvd,kvd --weights i3d=i3d.safetensors
poet evaluate --real clips --generated made --plugin my_lpips.py --weights lpips=lpips_alex.pt
poet evaluate --real clips --generated made --shard 0/4     (and 1/4, 2/4, 3/4, beside it)
poet evaluate --compare out/before/result.json out/after/result.json
poet evaluate --gin_file gin/runs/evaluate.gin --gin.CHECKPOINT=out/model
poet evaluate --gin_file gin/protocols/shapes_world.gin --gin.CHECKPOINT=out/model ...
poet evaluate --clips out/demo/clips --tokenizers out/demo/tokenizers --samples out/demo/samples

docs/evaluation.md says what the metrics are and need. With --gin_file only --shard and --merge go
besides. Without it and --real, --generated and --compare the checker measures the demo's clips,
tokenizers and samples.
"""

import argparse
import json
import sys
from pathlib import Path

from poet.main import commands, evaluate_checkpoint, evaluate_folders

_DEMO = Path("out/demo")
_NUM_DEMO_CLIPS = 256


def main(argv: list[str] | None = None) -> int:
    """Runs `poet evaluate` and returns its exit code."""
    return commands.run_command(_run, argv)


def _flags(argv: list[str]):
    parser = commands.parser(__doc__, "evaluate")
    add = parser.add_argument
    add("--out", default=str(_DEMO / "evaluation"), help="folder for the results")
    add("--num_clips", type=int, help="at most so many clips of each folder, the first by name")
    folders = parser.add_argument_group("two folders").add_argument
    folders("--real", help="folder of clips, a manifest, or folders of pictures")
    folders("--generated", help="the same; files pair by name")
    folders("--metrics", help="names by commas; all that need no network by default")
    folders("--plugin", action="append", default=[], help="module or file with metrics of your own")
    folders("--weights", nargs="*", default=[], help="of networks, such as i3d=i3d.safetensors")
    folders("--size", default="", help="128, or HEIGHTxWIDTH; that of the first generated file")
    folders("--num_frames", type=int, default=17, help="of every clip")
    folders("--fps", default="8", help="frames a second, or native")
    folders("--real_fps", help="of the real clips, if it is another")
    folders("--real_central", action="store_true", help="frames from the middle of real files")
    folders("--split", help="rows of the manifests to take; all by default")
    folders("--only_common", action="store_true", help="leave out names of one folder only")
    folders("--repeats", type=int, default=1, help="groups of clips, for a mean and its spread")
    folders("--seed", type=int, default=0, help="of the groups and of the intervals")
    folders("--batch_size", type=int, default=8, help="clips in memory at once")
    folders("--shard", default="0/1", help="I/N measures a part; the last one sums up")
    folders("--merge", action="store_true", help="only sum up what the shards have measured")
    folders("--compare", nargs=2, metavar="JSON", help="two results: which differences matter?")
    demo = parser.add_argument_group("the demo").add_argument
    demo("--clips", default=str(_DEMO / "clips"), help="folder of `poet render`")
    demo("--tokenizers", default=str(_DEMO / "tokenizers"), help="folder of both")
    demo("--samples", help="folder with a folder of files for each task")
    demo("--size_px", type=int, default=32, help="what the tokenizer sees")
    return parser.parse_args(argv)


def _run(argv: list[str]) -> int:
    files, bindings, rest = commands.split_gin(argv)
    if files:
        return evaluate_checkpoint.run(files, bindings, rest)
    if bindings:
        raise commands.UserError(
            "Bindings need a --gin_file, such as gin/runs/evaluate.gin or one of gin/protocols."
        )
    flags = _flags(rest)
    if flags.compare:
        return evaluate_folders.compare(flags)
    if flags.num_clips is not None and flags.num_clips < 1:
        raise commands.UserError(f"--num_clips expects 1 or more, got {flags.num_clips}.")
    if flags.real or flags.generated:
        return evaluate_folders.run(flags)
    return _demo(flags)


def _demo(flags: argparse.Namespace) -> int:
    if not (Path(flags.clips) / "manifest.tsv").exists():
        raise commands.UserError(
            f"Expected rendered clips with their manifest.tsv in {flags.clips}, found none; make"
            f" them with `poet render --out={flags.clips}`, or pass another --clips."
        )
    if flags.samples and not Path(flags.samples).is_dir():
        raise commands.UserError(
            f"Expected a folder with a folder of files for each task, found no {flags.samples};"
            " make files with `poet generate`, or leave --samples out."
        )
    commands.check_writable(flags.out)

    from poet.demo import scores
    from poet.demo.runner import write_json
    from poet.evals import shapes_run
    from poet.shapes_world import world
    from poet.tokens.clip import ClipShape

    # Refuses sizes that no tokenizer takes before the long work.
    ClipShape(world.NUM_FRAMES, flags.size_px, flags.size_px)
    found = shapes_run.measure(
        shapes_run.ShapesEvaluation(
            clips=Path(flags.clips),
            tokenizers=Path(flags.tokenizers),
            samples=Path(flags.samples) if flags.samples else None,
            size_px=flags.size_px,
            num_clips=flags.num_clips or _NUM_DEMO_CLIPS,
        ),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    out = Path(flags.out)
    write_json(out / "findings.json", found.findings)
    write_json(out / "chance.json", {"chance": found.chance, "shuffled": found.shuffled})
    write_json(out / "scores.json", found.scores)
    print(scores.table(found.scores))
    for name, chance in found.chance.items():
        if name in found.shuffled:
            print(f"{name}: chance {chance:.3f}, shuffled prompts {found.shuffled[name]:.3f}")
    print(json.dumps({"scores": str(out / "scores.json")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
