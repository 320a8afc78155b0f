"""Trains a visual or audio tokenizer on media files, or goes on where a run was stopped.

poet train-tokenizer --gin_file gin/tokenizers/visual_demo.gin --media out/demo/clips \\
    --out out/demo/tokenizers/visual

  --gin_file FILE     says which tokenizer, its sizes and steps; may be repeated
  --gin.NAME=value    one binding, for example --gin.TRAIN_STEPS=100
"""

import sys
from pathlib import Path

from poet.main import commands, devices


def main(argv: list[str] | None = None) -> int:
    """Runs `poet train-tokenizer` and returns its exit code."""
    return commands.run_command(_run, argv)


def _run(argv: list[str]) -> int:
    files, bindings, rest = commands.split_gin(argv)
    parser = commands.parser(__doc__, "train-tokenizer")
    parser.add_argument("--media", required=True, help="folder of files, a manifest, or tfds:NAME")
    parser.add_argument("--out", required=True, help="folder of the tokenizer")
    flags = parser.parse_args(rest)
    if not files:
        raise commands.UserError(
            "No --gin_file was given; expected one such as gin/tokenizers/visual_demo.gin."
        )
    commands.check_writable(flags.out)
    devices.check_accelerator()

    import gin

    from poet.evals import pictures
    from poet.train import tokenizer_run

    commands.read_gin(files, bindings)
    run = commands.call_configured(tokenizer_run.TokenizerRun)
    fingerprint = tokenizer_run.train(
        run, flags.media, Path(flags.out), gin.operative_config_str, pictures.compare
    )
    print(f"Tokenizer {fingerprint[:12]} after {run.num_steps:,} steps: {flags.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
