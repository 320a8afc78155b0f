"""Says what a step needs on a TPU slice, or here: memory, time, what limits it. Needs no TPU.

poet plan --gin_file gin/runs/pretrain.gin --gin_file gin/models/8b.gin \\
    --topology v5p:8x8x4 --topology v6e:16x16@2 --out out/plan

  --gin_file FILE      a run file, as `poet train` takes it (a tokenizer's for --step tokenizer)
  --gin.NAME=value     one binding; sizes.TokenSizes.num_frames and the like set clips and codes
  --topology NAME      CHIP:SIDExSIDE[xSIDE][@SLICES], or "here" for this machine's devices

Exits 1 if the step does not fit a chip's memory, and says what would; 2 if a topology could not be
planned, with the others' plans written. Several slices hold a copy of the state each, unless
partitioning.MeshConfig.replica says how many copies there are. docs/scale.md explains the numbers.
Compiling takes minutes a group; --groups 1 compiles the most frequent and the longest.
"""

import functools
import os
import re
import sys
from pathlib import Path

from poet.main import commands

_SIZES = "gin/plan/paper.gin"
# Macros that training needs and a plan does not.
_PLACES = ("MODEL_DIR", "DATA_DIR", "INIT_FROM")


def main(argv: list[str] | None = None) -> int:
    """Runs `poet plan` and returns its exit code."""
    return commands.run_command(_run, argv)


def _flags(rest: list[str]):
    parser = commands.parser(__doc__, "plan")
    add = parser.add_argument
    add("--topology", action="append", required=True, metavar="NAME")
    add("--step", choices=("train", "decode", "tokenizer"), default="train")
    add("--dataset", default="", help="a prepared dataset, for sizes of clips and codes")
    add(
        "--groups", type=int, default=0, help="compile so many groups only, and the longest; 0: all"
    )
    add("--batch", type=int, default=0, help="requests of --step decode (default: one a chip)")
    add("--task", default="text_to_video", help="task of --step decode")
    add("--effort", choices=("fast", "full"), default="fast", help="how hard XLA tries")
    add("--search", action="store_true", help="find the best of a small grid of settings")
    add("--no_proposals", action="store_true", help="do not look for settings that fit")
    add("--out", default="", help="folder for plan.json and plan.md")
    return parser.parse_args(rest)


def _run(argv: list[str]) -> int:
    files, bindings, rest = commands.split_gin(argv)
    flags = _flags(rest)
    if not files:
        raise commands.UserError(
            "No --gin_file was given; expected a run such as --gin_file gin/runs/pretrain.gin."
        )
    if flags.out:
        commands.check_writable(flags.out)
    # A TPU's compiler is asked for by name; programs of our own run on the CPU beside it.
    if "here" not in flags.topology:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # All of it now: what fails to import must not fail after an hour of compiling.
    from poet.plan import devices, planning, report  # noqa: F401

    topologies = [devices.find(name) for name in flags.topology]
    commands.read_gin([_SIZES, *files], [*bindings, *_placeholders(files, bindings)])
    # Programs for the devices here are compiled as they would run.
    is_here = any(topology.is_here for topology in topologies)
    with devices.compile_with("full" if is_here else flags.effort):
        plan = _planner(flags)
        outcomes = []
        for topology in topologies:
            outcomes.append(planning.attempt(topology, functools.partial(plan, topology)))
            _show(outcomes[-1])
            _write(flags, outcomes)
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    if len(results) > 1:
        print(report.summary(results))
    return planning.exit_code(outcomes)


def _planner(flags):
    """Reads what gin configured; returns what plans it on a topology."""
    if flags.step == "tokenizer":
        return _tokenizer(flags)
    run, sizes = _read(flags)
    return lambda topology: _plan(flags, run, sizes, topology)


def _read(flags):
    """(run, sizes of its sequences) from gin, or from a dataset where one is named."""
    import gin

    from poet.plan.sizes import TokenSizes
    from poet.train import lm

    # First, because the next call refuses bindings that nothing has read.
    tokens = gin.get_configurable(TokenSizes)()
    run = commands.call_configured(lm.LMRun)
    text = run.text_tokenizer
    if not flags.dataset:
        return run, tokens.sequence_sizes(text.num_slots, text.num_ids)
    from poet.data.records import open_dataset

    return run, lm.sizes_of(open_dataset(flags.dataset), text)


def _plan(flags, run, sizes, topology):
    from poet.plan import decode_step, nearby, planning

    if flags.step == "decode":
        asked = (run, sizes, topology, flags.task, flags.batch)
        near = None if flags.no_proposals else lambda needs: nearby.of_decoding(asked, needs, _say)
        plan = functools.partial(decode_step.plan_decoding, *asked, _say)
        return planning.or_refusal(topology, plan, near, _say)
    if flags.search:
        outcome, tried = planning.search(run, sizes, topology, _say)
        _print_grid(tried)
        return outcome
    effort = planning.Effort(num_groups=flags.groups, proposals=not flags.no_proposals)
    return planning.plan_train(run, sizes, topology, effort, _say)


def _tokenizer(flags):
    import gin

    from poet.plan import nearby, planning, tokenizer_step
    from poet.plan.sizes import TokenSizes
    from poet.train.tokenizer_run import TokenizerRun

    gin.get_configurable(TokenSizes)()  # a tokenizer's run has sizes of its own
    run = commands.call_configured(TokenizerRun)

    def plan(topology):
        make = functools.partial(tokenizer_step.plan_tokenizer, run, topology, _say)
        look = functools.partial(nearby.of_tokenizer, run, topology, say=_say)
        return planning.or_refusal(topology, make, None if flags.no_proposals else look, _say)

    return plan


def _print_grid(tried) -> None:
    from poet.plan import report
    from poet.train.chips import GIB

    results = [one.result for one in tried if one.result is not None]
    if results:
        print(report.summary(results))
    for one in tried:
        if one.result is None:
            needs = f" needs {one.needed / GIB:.1f} GiB a chip" if one.needed else ""
            print(f"does not fit: {one.setting.all_words()}{needs}")


def _show(outcome) -> None:
    from poet.plan import report

    if outcome.result is not None:
        print(report.to_markdown([outcome.result]), flush=True)
    if outcome.is_wrong:
        _say(f"error: {outcome.refusal}")
    elif outcome.refusal:
        print(outcome.refusal, flush=True)


def _write(flags, outcomes) -> None:
    """What is known so far: a later topology that fails loses nothing."""
    from poet.media.write import temporary_sibling
    from poet.plan import report

    if not flags.out or all(outcome.is_wrong for outcome in outcomes):
        return
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    refusals = [outcome.refusal for outcome in outcomes if outcome.refusal]
    folder = Path(flags.out)
    folder.mkdir(parents=True, exist_ok=True)
    text = report.to_markdown(results) + "".join(f"\n{words}\n" for words in refusals)
    for name, content in (("plan.json", report.dumps(results)), ("plan.md", text)):
        with temporary_sibling(folder / name) as temporary:
            temporary.write_text(content)
    _say(f"Written: {folder / 'plan.json'}, {folder / 'plan.md'}")


def _placeholders(files: list[str], bindings: list[str]) -> list[str]:
    """Bindings for places that a run file asks for and a plan does not need."""
    given = {binding.partition("=")[0].strip() for binding in bindings}
    asked = set().union(*(_required(name) for name in files))
    return [f"{name} = 'not_used_by_a_plan'" for name in _PLACES if name in asked - given]


def _required(name: str) -> set[str]:
    """Macros without a value in a gin file and in those that it includes."""
    from poet.main import gin_files

    text = gin_files.find(name).read_text()
    found = set(re.findall(r"^(\w+)\s*=\s*%gin\.REQUIRED", text, re.MULTILINE))
    for other in re.findall(r"^\s*include\s+['\"]([^'\"]+)['\"]", text, re.MULTILINE):
        found |= _required(other)
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
