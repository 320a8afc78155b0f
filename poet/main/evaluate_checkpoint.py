"""What `poet evaluate --gin_file ...` does: a checkpoint's losses, and protocols."""

import sys
from collections.abc import Sequence
from pathlib import Path

from poet.main import commands, evaluate_folders


def run(files: Sequence[str], bindings: Sequence[str], rest: Sequence[str]) -> int:
    """Evaluates a checkpoint, or a host's share of that.

    Args:
      files: gin files.
      bindings: gin bindings.
      rest: --shard and --merge.
    """
    parser = commands.parser(__doc__, "evaluate --gin_file FILE")
    parser.add_argument("--shard", default="0/1", help="I/N does a part; the last one sums up")
    parser.add_argument("--merge", action="store_true", help="only sum up what the shards made")
    flags = parser.parse_args(list(rest))
    shard, num_shards = evaluate_folders.shard_of(flags.shard)

    from poet.evals import checkpoint_report, checkpoint_run, results
    from poet.evals.checkpoint_evaluation import CheckpointEvaluation

    commands.read_gin(files, bindings)
    evaluation = commands.call_configured(CheckpointEvaluation)
    commands.check_writable(evaluation.out)
    commands.keep_compiled_programs()
    work = checkpoint_run.CheckpointRun(evaluation)
    found = work.sum_up() if flags.merge else work.run(shard, num_shards)
    if found is None:
        missing = " and ".join(work.missing())
        print(f"This share is done; {missing} are missing, which the other shards make.")
        return 0
    print(checkpoint_report.page(found), end="")
    for protocol in found["protocols"].values():
        for measure in protocol["measures"].values():
            for note in evaluate_folders.notes(measure):
                print(note, file=sys.stderr)
    print(f"\n{Path(evaluation.out) / results.RESULT_NAME}")
    return 0
