"""Asks a checkpoint of the shapes world for every task and writes a table of the checker's scores.

    python -m tools.score_tasks --checkpoint out/all/model --tokenizers out/demo/tokenizers \
        --clips out/demo/clips --out out/all/scores

Writes OUT/scores.json, OUT/scores.md and the files of every task. Start it again to go on. With
--beside OTHER, the --out of an earlier run, also OUT/beside.md: the scores of both, what changed,
and the passes and seconds that each took.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def main(argv: list[str] | None = None) -> int:
    """Runs the program."""
    from poet.evals import scores_beside, task_scores
    from poet.sample import decode, loading, outputs
    from poet.sample.requests import SamplingRequest
    from poet.tokens import schedule

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("checkpoint", "tokenizers", "clips", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--tasks", nargs="*", default=[], help="these only; all if left out")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--count", type=int, default=64, help="first so many clips in file order")
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--guidance", type=float, default=1.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schedule", default="raster", choices=("raster", "diagonal"))
    parser.add_argument("--slope", type=float, default=0.0)
    parser.add_argument("--beside", nargs="*", default=[], help="--out of earlier runs, first base")
    args = parser.parse_args(argv)
    runs = {folder: read_scores(Path(folder)) for folder in args.beside}
    order = schedule.Schedule(args.schedule, args.slope)
    engine = loading.load_engine(args.checkpoint, args.tokenizers, decode.Decoding(schedule=order))
    sampling = SamplingRequest(temperature=args.temperature, guidance=args.guidance, seed=args.seed)
    out = Path(args.out)
    found = task_scores.run(
        engine,
        Path(args.clips),
        out,
        sampling,
        tasks=args.tasks,
        split=args.split,
        count=args.count,
    )
    runs[args.out] = {"settings": vars(args), "model": engine.facts, **found}
    outputs.write_text(out / "scores.json", json.dumps(runs[args.out]))
    outputs.write_text(out / "scores.md", task_scores.table(found["rows"]))
    print(task_scores.table(found["rows"]))
    if args.beside:
        outputs.write_text(out / "beside.md", scores_beside.table(runs))
        print(scores_beside.table(runs))
    return 0


def read_scores(folder: Path) -> dict[str, Any]:
    """What an earlier run wrote to its --out."""
    path = folder / "scores.json"
    if not path.exists():
        raise ValueError(
            f"Expected {path} of an earlier run, found none; let that run end first, or leave"
            f" {folder} out of --beside."
        )
    return json.loads(path.read_text())


if __name__ == "__main__":
    sys.exit(main())
