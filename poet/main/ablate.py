"""Trains models that differ in one thing, scores all by the same protocols, and writes the table.

poet ablate --gin_file gin/runs/ablation.gin --gin.DATA_DIR=out/all/dataset \\
    --gin.TOKENIZERS=out/all/tokenizers --gin.CLIPS=out/all/clips --gin.OUT=out/ablation

  --gin_file FILE     a comparison; may be repeated, later files win
  --gin.NAME=value    one binding, for example --gin.TRAIN_STEPS=100

The same command goes on where it was stopped.
"""

import sys
from pathlib import Path

from poet.main import commands, devices


def main(argv: list[str] | None = None) -> int:
    """Runs `poet ablate` and returns its exit code."""
    return commands.run_command(_run, argv)


def _run(argv: list[str]) -> int:
    files, bindings, rest = commands.split_gin(argv)
    commands.parser(__doc__, "ablate").parse_args(rest)
    if not files:
        raise commands.UserError(
            "No --gin_file was given; expected a comparison such as gin/runs/ablation.gin."
        )
    devices.check_accelerator()

    import gin

    from poet.evals import ablation

    commands.read_gin(files, bindings)
    asked = commands.call_configured(ablation.Ablation)
    commands.check_writable(asked.out)
    commands.keep_compiled_programs()
    found = ablation.run(
        asked, gin.operative_config_str, lambda line: print(line, file=sys.stderr, flush=True)
    )
    print(ablation.table(found), end="")
    print(f"\n{Path(asked.out) / ablation.JSON_NAME}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
