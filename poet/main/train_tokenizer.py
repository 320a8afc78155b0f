"""Trains a visual or audio tokenizer on media files, or goes on where a run was stopped.

poet train-tokenizer --gin_file gin/tokenizers/visual_demo.gin --media out/demo/clips \\
    --out out/demo/tokenizers/visual

  --gin_file FILE     says which tokenizer, its sizes and steps; may be repeated
  --gin.NAME=value    one binding, for example --gin.TRAIN_STEPS=100
  --deterministic     on a GPU: the same bits each time, also after a restart (docs/training.md)
  --multihost         on every host of a TPU pod or Slurm job, with one --out that all of them see
"""

import sys
from pathlib import Path

from poet.main import commands, deterministic, devices, hosts


def main(argv: list[str] | None = None) -> int:
    """Runs `poet train-tokenizer` and returns its exit code."""
    return commands.run_command(_run, argv)


def _run(argv: list[str]) -> int:
    files, bindings, rest = commands.split_gin(argv)
    parser = commands.parser(__doc__, "train-tokenizer")
    parser.add_argument("--media", required=True, help="folder of files, a manifest, or tfds:NAME")
    parser.add_argument("--out", required=True, help="folder of the tokenizer")
    deterministic.add_arguments(parser)
    hosts.add_arguments(parser)
    flags = parser.parse_args(rest)
    if not files:
        raise commands.UserError(
            "No --gin_file was given; expected one such as gin/tokenizers/visual_demo.gin."
        )
    commands.check_writable(flags.out)
    out = Path(flags.out)
    hosts.join(flags)

    import gin
    import jax

    from poet.evals import pictures
    from poet.train import loop, tokenizer_run

    commands.read_gin(files, bindings)
    run = commands.call_configured(tokenizer_run.TokenizerRun)
    # The first look at the devices comes last: XLA's flags hold from then on.
    said = deterministic.prepare(flags.deterministic, out / "train")
    devices.check_accelerator()
    is_first = jax.process_index() == 0
    if said and is_first:
        print(said)
    try:
        fingerprint = tokenizer_run.train(
            run, flags.media, out, gin.operative_config_str, pictures.compare
        )
    except loop.Stopped:
        return flags.exit_code_when_stopped
    if is_first:
        print(f"Tokenizer {fingerprint[:12]} after {run.num_steps:,} steps: {flags.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
