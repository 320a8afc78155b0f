"""Trains the language model on a prepared dataset, or goes on where a run was stopped.

poet train --gin_file gin/runs/demo.gin --gin.MODEL_DIR=out/model --gin.DATA_DIR=out/dataset

  --gin_file FILE     a run file; may be repeated, later files win
  --gin.NAME=value    one binding, for example --gin.TRAIN_STEPS=100
  --on_bad_record=skip  trains without damaged records, and counts them
  --deterministic     on a GPU: the same bits each time, also after a restart (docs/training.md)
  --multihost         on every host of a TPU pod or Slurm job; the cluster says who is who
  --debug             shows the traceback of an error
"""

import dataclasses
import sys

from poet.main import commands, deterministic, devices, hosts


def main(argv: list[str] | None = None) -> int:
    """Runs `poet train` and returns its exit code."""
    return commands.run_command(_run, argv)


def _run(argv: list[str]) -> int:
    files, bindings, rest = commands.split_gin(argv)
    parser = commands.parser(__doc__, "train")
    parser.add_argument("--on_bad_record", choices=("raise", "skip"))
    deterministic.add_arguments(parser)
    hosts.add_arguments(parser)
    flags = parser.parse_args(rest)
    if not files:
        raise commands.UserError(
            "No --gin_file was given; expected a run such as --gin_file gin/runs/demo.gin."
        )

    hosts.join(flags)

    import gin
    import jax

    from poet.train import lm, loop

    commands.read_gin(files, bindings)
    run = commands.call_configured(lm.LMRun)
    if flags.on_bad_record:
        run = dataclasses.replace(run, on_bad_record=flags.on_bad_record)
    commands.check_writable(run.loop.model_dir, may_be_remote=True)
    # The first look at the devices comes last: XLA's flags hold from then on.
    said = deterministic.prepare(flags.deterministic, run.loop.model_dir)
    devices.check_accelerator()
    is_first = jax.process_index() == 0
    if said and is_first:
        print(said)
    try:
        state = lm.train(run, gin.operative_config_str)
    except loop.Stopped:
        return flags.exit_code_when_stopped
    if is_first:
        print(f"Trained {int(state.step):,} steps; checkpoints and metrics: {run.loop.model_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
