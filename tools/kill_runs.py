"""Kills training runs at random moments, starts them again, and compares what they end with.

    python tools/kill_runs.py --out out/kills --num_runs 20 --seed 0 \
        train --gin_file gin/runs/tiny.gin --gin.DATA_DIR=out/demo/dataset --gin.SAVE_PERIOD=2

On a GPU, where equal bits have to be asked for:

    python tools/kill_runs.py --out out/kills_gpu --num_runs 3 --seed 0 \
        train --deterministic --gin_file gin/runs/tiny.gin --gin.DATA_DIR=out/demo/dataset

The words after the flags are those of `poet train`, without MODEL_DIR. One run is left alone; each
of the others gets SIGKILL at up to --num_kills moments drawn between its start and the time that
the first one took, at least once, and then ends undisturbed. Prints one JSON line; exit code 1
unless every run ends with the parameters of the first, bit for bit. Runs that are finished in --out
are not made again. With --deterministic the others begin with what the first one kept of its
kernels: each would choose its own otherwise, and runs that were never killed differ by that.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from poet.main import deterministic
from poet.train import checkpoint
from poet.train.progress import Progress

_DONE = "done.json"


def main(argv: list[str] | None = None) -> int:
    """Runs everything and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", required=True, help="folder for the runs")
    add("--num_runs", type=int, default=20, help="that are killed")
    add("--num_kills", type=int, default=2, help="at most, of each run")
    add("--seed", type=int, default=0, help="of the moments")
    add("command", nargs=argparse.REMAINDER, help="train --gin_file ..., without MODEL_DIR")
    args = parser.parse_args(argv)
    if args.num_runs < 1 or args.num_kills < 1 or not args.command:
        parser.error("expected --num_runs and --num_kills of 1 or more, and a command after them")
    # The accelerator is for the runs: one that this process held would be full for them.
    jax.config.update("jax_platforms", "cpu")
    out = Path(args.out)
    took_s = run_to_end(args.command, out / "undisturbed")["seconds"]
    rows = []
    with Progress("kill", args.num_runs, unit="runs", period_s=0.0) as progress:
        for number in range(args.num_runs):
            moments = random.Random(f"{args.seed}/{number}")
            pauses = [moments.uniform(0.0, took_s) for _ in range(args.num_kills)]
            folder = out / f"killed_{number:02}"
            take_kernels(out / "undisturbed", folder)
            row = run_to_end(args.command, folder, pauses)
            while not row["kills"]:  # it ended before its moment: once more, with an earlier one
                shutil.rmtree(folder)
                take_kernels(out / "undisturbed", folder)
                pauses = [pause / 2 for pause in pauses]
                row = run_to_end(args.command, folder, pauses)
            row["is_equal"] = equal_params(out / "undisturbed", folder)
            rows.append(row)
            progress.update(number + 1, f"{row['kills']} kills")
    num_equal = sum(row["is_equal"] for row in rows)
    kills = sum(row["kills"] for row in rows)
    print(json.dumps({"runs": len(rows), "equal": num_equal, "kills": kills, "seconds": took_s}))
    return 0 if num_equal == len(rows) else 1


def run_to_end(
    command: Sequence[str],
    folder: Path,
    pauses: Sequence[float] = (),
    program: Sequence[str] = (sys.executable, "-m", "poet.main.cli"),
) -> dict:
    """Runs a command into MODEL_DIR ``folder``, killed after each pause that it outlives.

    Returns "seconds" of the last process, the whole run where nothing was killed, and "kills".

    Raises:
      SystemExit: The command failed by itself.
    """
    if (folder / _DONE).exists():
        return json.loads((folder / _DONE).read_text())
    words = [*program, *command, f"--gin.MODEL_DIR={folder}"]
    kills = 0
    folder.mkdir(parents=True, exist_ok=True)
    for pause in (*pauses, None):
        start = time.monotonic()
        with open(folder / "log.txt", "ab") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
            try:
                code = process.wait(pause)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                continue
        if code:
            raise SystemExit(f"{' '.join(words)} ended with code {code}; see {folder}/log.txt.")
        break
    row = {"seconds": time.monotonic() - start, "kills": kills}
    partial = folder / f"{_DONE}.partial"
    partial.write_text(json.dumps(row))
    partial.rename(folder / _DONE)
    return row


def take_kernels(other: Path, folder: Path) -> None:
    """Copies what a run kept of its kernels' choice, if anything, into one that has not begun."""
    kept = other / deterministic.FOLDER
    if kept.is_dir() and not folder.exists():
        shutil.copytree(kept, folder / deterministic.FOLDER)


def equal_params(left: Path, right: Path) -> bool:
    """Whether the newest checkpoints of two runs hold the same bits."""
    if checkpoint.newest_step(left) != checkpoint.newest_step(right):
        return False
    trees = [checkpoint.load_params(folder) for folder in (left, right)]
    if jax.tree.structure(trees[0]) != jax.tree.structure(trees[1]):
        return False
    pairs = zip(*map(jax.tree.leaves, trees), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


if __name__ == "__main__":
    sys.exit(main())
