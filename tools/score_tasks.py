"""Asks a checkpoint of the shapes world for every task and writes a table of the checker's scores.

    python -m tools.score_tasks --checkpoint out/all/model --tokenizers out/demo/tokenizers \
        --clips out/demo/clips --out out/all/scores

Writes OUT/scores.json, OUT/scores.md and the files of every task. Start it again to go on.
"""

import argparse
import json
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Runs the program."""
    from poet.evals import task_scores
    from poet.main import loading
    from poet.sample import decode, outputs, schedule
    from poet.sample.requests import SamplingRequest

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("checkpoint", "tokenizers", "clips", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--count", type=int, default=64, help="first so many clips in file order")
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--guidance", type=float, default=1.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schedule", default="raster", choices=("raster", "diagonal"))
    parser.add_argument("--slope", type=float, default=0.0)
    args = parser.parse_args(argv)
    order = schedule.Schedule(args.schedule, args.slope)
    engine = loading.load_engine(args.checkpoint, args.tokenizers, decode.Decoding(schedule=order))
    sampling = SamplingRequest(temperature=args.temperature, guidance=args.guidance, seed=args.seed)
    out = Path(args.out)
    rows = task_scores.run(
        engine, Path(args.clips), out, sampling, split=args.split, count=args.count
    )
    outputs.write_text(out / "scores.json", json.dumps({"settings": vars(args), "rows": rows}))
    outputs.write_text(out / "scores.md", task_scores.table(rows))
    print(task_scores.table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
