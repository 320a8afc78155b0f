"""Runs the whole loop on the shapes world: render, tokenize, train, generate, measure, report.

poet demo --out out/demo              minutes on two cores, scores as they come
poet demo --out out/demo-full --full  the size whose scores are promised (docs/LOG.md)

Start it again after any interruption: finished stages are kept, the others continue.
"""

import sys
from pathlib import Path

from poet.main import commands


def main(argv: list[str] | None = None) -> int:
    """Runs `poet demo` and returns its exit code."""
    return commands.run_command(_run, argv)


def _run(argv: list[str]) -> int:
    parser = commands.parser(__doc__, "demo")
    parser.add_argument("--out", default="out/demo", help="folder for everything it makes")
    parser.add_argument("--full", action="store_true", help="the larger size")
    parser.add_argument("--tiny", action="store_true", help="seconds a stage, for tests")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice")
    parser.add_argument("--report_only", action="store_true", help="write the report again")
    flags = parser.parse_args(argv)

    from poet.demo import picture, report, runner, scores, sizes, stages

    if flags.full and flags.tiny:
        raise commands.UserError("--full and --tiny exclude each other; give one of them.")
    size = sizes.FULL if flags.full else sizes.TINY if flags.tiny else sizes.QUICK
    commands.check_writable(flags.out)
    out = Path(flags.out)
    todo = stages.stages(size, out, flags.seed)
    with runner.only_one(out):
        scores.claim_folder(out, size, flags.seed)
        if flags.report_only:
            records = runner.read_records(todo, out)
        else:
            try:
                records = runner.run_all(todo, out, say)
            except runner.StageFailed as failure:
                print(f"error: {failure}", file=sys.stderr)
                return failure.exit_code if 0 < failure.exit_code < 126 else 1
        found = scores.write_scores(out, records)
        page = report.write_report(out, todo, records)
        picture.write_picture(out / "samples", out / "demo.png")
    say(f"\n{scores.table(found)}\n")
    say(f"Scores: {out / 'scores.json'}\nReport: {page} (open it in a browser)")
    return 0


def say(line: str) -> None:
    """Prints at once, so that the lines of the stages fall in between."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
