"""Measures clips of the shapes world with the exact checker and writes their scores.

poet evaluate --clips out/demo/clips --tokenizers out/demo/tokenizers --samples out/demo/samples
"""

import json
import sys
from pathlib import Path

from poet.main import commands

_DEMO = Path("out/demo")


def main(argv: list[str] | None = None) -> int:
    """Runs `poet evaluate` and returns its exit code."""
    return commands.run_command(_run, argv)


def _run(argv: list[str]) -> int:
    parser = commands.parser(__doc__, "evaluate")
    parser.add_argument("--clips", default=str(_DEMO / "clips"), help="folder of `poet render`")
    parser.add_argument("--tokenizers", default=str(_DEMO / "tokenizers"), help="folder of both")
    parser.add_argument("--samples", help="folder with a folder of files for each task")
    parser.add_argument("--size_px", type=int, default=32, help="what the tokenizer sees")
    parser.add_argument("--num_clips", type=int, default=256, help="held-out clips, at most")
    parser.add_argument("--out", default=str(_DEMO / "evaluation"), help="folder for the results")
    flags = parser.parse_args(argv)
    if flags.num_clips < 1:
        raise commands.UserError(f"--num_clips expects 1 or more, got {flags.num_clips}.")
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
            num_clips=flags.num_clips,
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
