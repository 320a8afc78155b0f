"""Joins the processes of a job that runs on several hosts, before anything touches a device."""

import argparse

from poet.main import commands


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of commands that may run on several hosts; T5X's names where it has them."""
    group = parser.add_argument_group("several hosts, the same command on each").add_argument
    group("--multihost", action="store_true", help="ask the cluster: TPU pods, GKE, Slurm, MPI")
    group("--coordinator_address", help="HOST:PORT of process 0, where no cluster can be asked")
    group("--process_count", type=int, help="with --coordinator_address: processes in all")
    group("--process_index", type=int, help="with --coordinator_address: this one, from 0 on")
    group(
        "--exit_code_when_stopped",
        type=int,
        default=0,
        metavar="CODE",
        help="after SIGTERM and a saved state; a scheduler that starts the job again needs one"
        " that differs from 0, which it takes for the end of the training",
    )


def join(flags: argparse.Namespace) -> None:
    """Connects this process to the others if the flags say so.

    Raises:
      commands.UserError: flags that do not belong together, or a cluster that jax does not know.
      SystemExit: with one sentence and so exit code 1, if the others do not answer: another start
        may find them, so that schedulers tell it from a mistake by the code.
    """
    given = [flags.coordinator_address, flags.process_count, flags.process_index]
    if not flags.multihost and given == [None, None, None]:
        return
    if flags.multihost and given != [None, None, None]:
        raise commands.UserError(
            "--multihost asks the cluster for everything; leave it out, or leave out"
            " --coordinator_address, --process_count and --process_index."
        )
    if not flags.multihost and (None in given or not 0 <= given[2] < given[1]):
        raise commands.UserError(
            "Expected --coordinator_address HOST:PORT, --process_count N and --process_index of 0"
            f" to N - 1 together, got {given[0]}, {given[1]} and {given[2]}."
        )

    import jax

    try:
        if flags.multihost:
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(*given)
    except (ValueError, RuntimeError) as error:
        asked = "the cluster" if flags.multihost else flags.coordinator_address
        said = (
            f"The processes could not be joined through {asked}: {commands.sentence(error)} Start"
            " the same command on every host, within five minutes of each other."
        )
        if isinstance(error, ValueError):
            raise commands.UserError(said) from error
        raise SystemExit(f"error: {said}") from error
