"""What a step needs on each topology: compile, predict, propose, search."""

import dataclasses
from collections.abc import Callable, Sequence

from poet.data.groups import SequenceSizes
from poet.plan import devices, measure, memory, nearby, train_step
from poet.plan.chips import Topology
from poet.plan.measure import Compiler, DoesNotFitError, Needs, Result, Row
from poet.plan.memory import Memory, Setting
from poet.plan.roofline import CALIBRATED, Factors
from poet.plan.train_step import TrainPlan
from poet.train import partitioning
from poet.train.chips import GIB
from poet.train.lm import LMRun

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is compiled.

    Attributes:
      num_groups: The most frequent groups, and the one with the longest sequences, are compiled;
        the others are scaled by their FLOPs. 0 compiles all.
      proposals: Whether settings are looked for where a step does not fit.
      factors: Of the predictions.
    """

    num_groups: int = 0
    proposals: bool = True
    factors: Factors = CALIBRATED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """A topology's result, or the sentence that says why there is none.

    Attributes:
      topology: Where.
      result: None where nothing was compiled to the end.
      refusal: "" where the step fits.
      is_wrong: Whether the settings cannot be planned there at all, however large the chip.
    """

    topology: Topology
    result: Result | None
    refusal: str = ""
    is_wrong: bool = False

    @property
    def fits(self) -> bool:
        """Whether the step fits."""
        return self.result is not None and self.result.fits


def attempt(topology: Topology, make: Callable[[], Outcome]) -> Outcome:
    """The outcome that `make` gives; its ValueError is the refusal of this topology alone."""
    try:
        return make()
    except ValueError as error:
        said = " ".join(str(error).split())
        words = f"{topology.name} was not planned: {said}"
        return Outcome(topology=topology, result=None, refusal=words, is_wrong=True)


def plan_train(
    run: LMRun, sizes: SequenceSizes, topology: Topology, effort: Effort, say: Say
) -> Outcome:
    """The training step on a topology; where it does not fit, what does, found by compiling it."""
    try:
        plan, result = _train(run, sizes, topology, effort, say)
        if result.fits:
            return Outcome(topology=topology, result=result)
        needed, known = result.memory.total, result.memory
    except _Refused as refused:
        plan, needed, known = refused.plan, refused.needed, None
        result = None
    words = None
    if effort.proposals:
        known = known or _guess(plan, needed, topology)
        words = [each.words(plan.setting) for each in propose(run, sizes, plan, known, say)]
    said = memory.refusal(topology, needed, words)
    _, notes = devices.over_slices(run.mesh, topology)
    # A result says so itself.
    said = " ".join([said, *(() if result else notes)])
    return Outcome(topology=topology, result=result, refusal=said)


def or_refusal(
    topology: Topology,
    make: Callable[[], Result],
    near: Callable[[Needs], Sequence[nearby.Change]] | None = None,
    say: Say = lambda text: None,
) -> Outcome:
    """The result that `make` gives, or the sentences for one that does not fit.

    Args:
      topology: Where.
      make: Compiles it.
      near: What could be changed, by what it needs; None looks for nothing.
      say: Is told what is tried.
    """
    result = None
    try:
        result = make()
        if result.fits:
            return Outcome(topology=topology, result=result)
        needs = Needs(total=result.memory.total, held=result.memory.resident)
    except DoesNotFitError as error:
        needs = Needs(total=error.needed, held=error.held)
    words = None if near is None else nearby.first_that_fits(near(needs), say)
    refusal = memory.refusal(topology, needs.total, words)
    return Outcome(topology=topology, result=result, refusal=refusal)


class _Refused(Exception):
    def __init__(self, plan: TrainPlan, needed: float | None):
        super().__init__("does not fit")
        self.plan, self.needed = plan, needed


def _train(
    run: LMRun, sizes: SequenceSizes, topology: Topology, effort: Effort, say: Say
) -> tuple[TrainPlan, Result]:
    layout, notes = devices.over_slices(run.mesh, topology)
    run = dataclasses.replace(run, mesh=layout)
    mesh = partitioning.make_mesh(run.mesh, devices.devices_of(topology))
    plan = train_step.plan_training(run, sizes, topology, mesh)
    compiler = Compiler(topology, say)
    chosen = _chosen(plan, effort.num_groups)
    rows: dict[str, Row] = {}
    for name in chosen:
        part = next(part for part in plan.parts if part.name == name)
        try:
            rows[name] = compiler.measure(part, effort.factors)
        except DoesNotFitError as error:
            say(f"{name}: {memory.refusal(topology, error.needed, None)}")
            raise _Refused(plan, error.needed) from error
    measured = list(rows.values())
    result = Result(
        topology=topology,
        facts=plan.facts,
        rows=tuple(
            rows[part.name] if part.name in rows else measure.scaled(part, measured)
            for part in plan.parts
        ),
        replicated=plan.replicated,
        notes=notes,
    )
    return plan, result


def _chosen(plan: TrainPlan, num_groups: int) -> list[str]:
    """Names of the groups to compile, the longest sequences first: they decide what fits."""
    longest = max(plan.parts, key=lambda part: part.tokens / part.batch_size)
    frequent = list(plan.parts) if not num_groups else list(plan.parts[:num_groups])
    return list(dict.fromkeys([longest.name, *(part.name for part in frequent)]))


def _guess(plan: TrainPlan, needed: float | None, topology: Topology) -> Memory:
    """Memory of a step that the compiler refused: state and gradients are known, the rest is what
    it says is needed, or half of the chip more than there is."""
    state = plan.facts["state_bytes_per_chip"]
    gradients = plan.facts["gradient_bytes_per_chip"]
    needed = needed or 1.5 * topology.chip.hbm_bytes
    # The compiler's number has the program's own arguments in it, of the state the parameters:
    # about as many bytes as their gradients.
    return Memory(
        resident=state,
        arguments=0.0,
        outputs=gradients,
        temporaries=max(needed - gradients, 0.25 * topology.chip.hbm_bytes),
    )


def propose(
    run: LMRun, sizes: SequenceSizes, plan: TrainPlan, known: Memory, say: Say
) -> list[Setting]:
    """Settings near the run's that fit: the first ones by estimate that compile and do."""
    tried, found = 0, []
    for setting in memory.proposals(plan.setting, known, plan.num_heads, plan.smallest):
        if tried == nearby.MAX_TRIED or found:
            break
        tried += 1
        say(f"trying {setting.words(plan.setting)} ...")
        effort = Effort(num_groups=1, proposals=False)
        try:
            other = train_step.with_setting(run, setting)
            _, result = _train(other, sizes, setting.topology, effort, say)
        except (_Refused, ValueError) as error:
            say(f"  no: {str(error).splitlines()[0][:120]}")
            continue
        if result.fits:
            found.append(setting)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tried:
    """A setting of a search.

    Attributes:
      setting: It.
      result: None where it was not compiled to the end.
      needed: Bytes of a chip, None where they are not known.
      is_estimate: Whether they are estimated: it was not compiled.
    """

    setting: Setting
    result: Result | None = None
    needed: float | None = None
    is_estimate: bool = False


def search(
    run: LMRun, sizes: SequenceSizes, topology: Topology, say: Say
) -> tuple[Outcome, list[Tried]]:
    """The best of a small grid: (its outcome, every setting with what was found).

    Half, equal and double batch, policies that keep more and less, copies of the state with which
    TPU's compiler scatters gradients (docs/scale.md), and tensor 1 and 4; of each the most
    frequent and the longest group are compiled. A setting that the estimate rules out after
    the first result is not compiled. Where none fits, the one that needs least is named.

    Raises:
      ValueError: when no setting can be planned at all, however large the chip.
    """
    effort = Effort(num_groups=1, proposals=False)
    tried: list[Tried] = []
    first: tuple[Setting, Memory] | None = None
    wrong: ValueError | None = None
    for setting in grid(run, topology):
        needed = memory.estimate(setting, *first) if first else 0.0
        if needed > 1.3 * topology.chip.hbm_bytes:
            tried.append(Tried(setting=setting, needed=needed, is_estimate=True))
            continue
        try:
            other = train_step.with_setting(run, setting)
            _, result = _train(other, sizes, topology, effort, say)
        except _Refused as refused:
            tried.append(Tried(setting=setting, needed=refused.needed))
            continue
        except ValueError as error:
            say(f"  no: {str(error).splitlines()[0][:120]}")
            wrong = wrong or error
            continue
        first = first or (setting, result.memory)
        tried.append(Tried(setting=setting, result=result, needed=result.memory.total))
    if not tried and wrong is not None:
        raise wrong
    # The grid begins with as many copies as slices.
    _, notes = devices.over_slices(run.mesh, topology)
    fitting = [one.result for one in tried if one.result is not None and one.result.fits]
    if not fitting:
        own = tried[0].needed if tried[0].setting == grid(run, topology)[0] else None
        words = " ".join([memory.refusal(topology, own, (), nearest(tried)), *notes])
        return Outcome(topology=topology, result=None, refusal=words), tried
    best = max(fitting, key=lambda result: result.average()["calibrated_mfu"])
    if best.facts["mesh"].get("replica") == topology.num_slices:
        best = dataclasses.replace(best, notes=notes)
    return Outcome(topology=topology, result=best), tried


def nearest(tried: Sequence[Tried]) -> str:
    """Words for the setting that needs least memory, "" where no need is known."""
    known = [one for one in tried if one.needed is not None]
    if not known:
        return ""
    best = min(known, key=lambda one: one.needed)
    by = " by estimate" if best.is_estimate else ""
    return (
        f"the nearest, {best.setting.all_words()}, needs {best.needed / GIB:.1f} GiB a chip{by}; "
    )


def grid(run: LMRun, topology: Topology) -> list[Setting]:
    """Settings that `search` tries, the run's own first."""
    mesh, _ = devices.over_slices(run.mesh, topology)
    own = Setting(
        batch_tokens=run.batch_tokens,
        remat_policy=run.model.remat_policy,
        tensor=run.mesh.tensor,
        topology=topology,
        replica=mesh.replica,
    )
    found = [own]
    # Where `fsdp` is a number, the mesh has no room for other copies than its own.
    copies = (
        topology.num_slices * topology.scattering_copies if run.mesh.fsdp == -1 else own.replica
    )
    for replica, tensor in ((own.replica, 1), (copies, 1), (own.replica, 4)):
        for policy in ("dots_no_batch", "full"):
            for factor in (0.5, 1, 2):
                tokens = int(run.batch_tokens * factor)
                found.append(
                    dataclasses.replace(
                        own,
                        batch_tokens=tokens,
                        remat_policy=policy,
                        tensor=tensor,
                        replica=replica,
                    )
                )
    return list(dict.fromkeys(found))


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """2 if some topology could not be planned, 1 if one does not hold the step."""
    if any(outcome.is_wrong for outcome in outcomes):
        return 2
    return 0 if all(outcome.fits for outcome in outcomes) else 1
