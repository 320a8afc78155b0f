"""Renders captioned clips of the shapes world as mp4 files with sound, and their manifest.

poet render --out out/clips --num_train 1000 --num_held_out 100
"""

import sys

from poet.main import commands


def main(argv: list[str] | None = None) -> int:
    """Runs `poet render` and returns its exit code."""
    return commands.run_command(_run, argv)


def _run(argv: list[str]) -> int:
    parser = commands.parser(__doc__, "render")
    parser.add_argument("--out", required=True, help="folder for the clips and manifest.tsv")
    parser.add_argument("--num_train", type=int, default=1000, help="clips to train on")
    parser.add_argument("--num_validation", type=int, default=50, help="same kinds, other clips")
    parser.add_argument("--num_held_out", type=int, default=100, help="kinds never trained on")
    parser.add_argument("--size_px", type=int, default=64, help="height and width, even, 32 up")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice")
    flags = parser.parse_args(argv)
    counts = {
        "train": flags.num_train,
        "validation": flags.num_validation,
        "held_out": flags.num_held_out,
    }
    if sum(counts.values()) < 1 or min(counts.values()) < 0:
        raise commands.UserError(
            f"Expected at least one clip and no negative number, got {counts};"
            " set --num_train, --num_validation or --num_held_out."
        )
    commands.check_writable(flags.out)

    from poet.shapes_world import files
    from poet.train.progress import Progress

    total = sum(counts.values())
    with Progress("render", total, unit="clips") as progress:
        manifest = files.write_clips(
            flags.out,
            seed=flags.seed,
            counts=counts,
            size_px=flags.size_px,
            progress=lambda done, of: progress.update(done),
        )
    print(f"{total} clips and their captions: {manifest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
