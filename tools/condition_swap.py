"""Prints what every task of a language model pays for another example's condition.

    python -m tools.condition_swap --checkpoint out/all/model --dataset out/all/dataset

See `poet.evals.condition_swap`. Exit code 1 if a task with a condition does not listen to it (its
loss rises by less than 0.1 nats a token and less than a tenth), or knows no more than how often
each code occurs.
"""

import argparse
import sys

from poet.data import registry
from poet.data.records import open_dataset
from poet.evals import condition_swap
from poet.train import checkpoint, lm


def main(argv: list[str] | None = None) -> int:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="MODEL_DIR of `poet train`")
    parser.add_argument("--dataset", required=True, help="what `poet prepare` wrote")
    parser.add_argument("--split", default="validation", help="one that was not trained on")
    parser.add_argument("--num_examples", type=int, default=96, help="a task")
    parser.add_argument("--task_modules", nargs="*", default=["tasks.paper", "tasks.mixtures"])
    flags = parser.parse_args(argv)
    registry.load_task_modules(flags.task_modules)
    meta = checkpoint.read_meta(flags.checkpoint)
    rows = condition_swap.measure(
        checkpoint.load_params(flags.checkpoint),
        lm.model_from_meta(meta),
        open_dataset(flags.dataset),
        [(registry.get(name), share) for name, share in meta["tasks"].items()],
        lm.text_tokenizer_from_meta(meta),
        split=flags.split,
        num_examples=flags.num_examples,
    )
    print("\n".join(condition_swap.lines(rows)))
    whole = {row.task: row for row in reversed(rows) if row.part}
    deaf = [name for name, row in whole.items() if not row.listens or row.nats >= row.entropy]
    if deaf:
        print(f"no use of the condition: {', '.join(sorted(deaf))}", file=sys.stderr)
    return 1 if deaf else 0


if __name__ == "__main__":
    sys.exit(main())
