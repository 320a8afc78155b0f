"""What would fit near a decoding or a tokenizer's step that does not: one change, or two at a time.

Estimates order the changes and rule out what cannot fit; compiling one decides.
"""

import dataclasses
from collections.abc import Callable, Iterable

from poet.data.groups import SequenceSizes
from poet.plan import decode_step, tokenizer_step
from poet.plan.chips import Topology
from poet.plan.measure import DoesNotFitError, Needs, Result
from poet.train.chips import GIB
from poet.train.lm import LMRun
from poet.train.partitioning import MeshConfig
from poet.train.tokenizer_run import TokenizerRun, VisualRecipe

MAX_TRIED = 3
# Share of a tokenizer's temporaries that stays where its blocks are computed again (docs/scale.md:
# 7.5 GiB instead of 11.8).
_KEPT_BY_REMAT = 0.6
# (ways of `tensor`, parts of the requests) times as many, the nearest first.
_NEAREST = (
    (1, 2), (2, 1), (1, 4), (2, 2), (4, 1), (1, 8), (2, 4), (4, 2), (8, 1), (1, 16), (4, 4),
    (1, 64), (8, 8),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """Other settings.

    Attributes:
      words: What is different.
      topology: Where.
      needed: Bytes of a chip by estimate; None where nothing is known.
      make: Compiles them.
    """

    words: str
    topology: Topology
    needed: float | None
    make: Callable[[], Result]


def first_that_fits(changes: Iterable[Change], say: Callable[[str], None]) -> list[str]:
    """Words of the first change that compiles and fits, or none after ``MAX_TRIED``.

    A change that needs more than was estimated raises the estimates of those after it: the program
    that was refused first need not be the one that needs most.
    """
    num_tried, more = 0, 1.0
    for change in changes:
        room = change.topology.chip.hbm_bytes
        if num_tried == MAX_TRIED or (change.needed or 0.0) * more > room:
            continue
        num_tried += 1
        say(f"trying {change.words} ...")
        try:
            result = change.make()
            if result.fits:
                return [change.words]
            needed = result.memory.total
            say(f"  no: it needs {needed / GIB:.1f} GiB a chip")
        except DoesNotFitError as error:
            needed = error.needed
            say(f"  no: {str(error).splitlines()[0][:120]}")
        except ValueError as error:
            needed = None
            say(f"  no: {str(error).splitlines()[0][:120]}")
        if needed and change.needed:
            more = max(more, needed / change.needed)
    return []


def of_decoding(
    asked: tuple[LMRun, SequenceSizes, Topology, str, int], needs: Needs, say: Callable[[str], None]
) -> list[Change]:
    """Fewer requests and more ways of `tensor`, the nearest first.

    A chip's part of the caches depends on the requests alone, that of the parameters on `tensor`.

    Args:
      asked: What `decode_step.plan_decoding` was asked.
      needs: Of it.
      say: Is told what is compiled.
    """
    run, sizes, topology, task_name, size = asked
    size = size or max(1, topology.num_chips // run.mesh.tensor)
    found = []
    for ways, part in _NEAREST:
        tensor, requests = run.mesh.tensor * ways, size // part
        where = _that_holds(topology, tensor)
        if where is None or run.model.block.num_kv_heads % tensor:
            continue
        if requests < 1 or requests % (where.num_chips // tensor):
            continue
        words = [f"--batch {requests} (was {size})"] if part > 1 else []
        words += [f"mesh tensor = {tensor} (was {run.mesh.tensor})"] if ways > 1 else []
        words += [f"{where.name} ({where.num_chips} chips)"] if where != topology else []
        mesh = dataclasses.replace(run.mesh, tensor=tensor)
        other = (dataclasses.replace(run, mesh=mesh), sizes, where, task_name, requests)
        share = part * where.num_chips / topology.num_chips
        found.append(
            Change(
                words=", ".join(words),
                topology=where,
                needed=needs.scaled(1.0 / ways, 1.0 / share),
                make=lambda other=other: decode_step.plan_decoding(*other, say),
            )
        )
    return found


def _that_holds(topology: Topology, tensor: int) -> Topology | None:
    """The slice, or the smallest larger one, over whose chips `tensor` divides."""
    found: Topology | None = topology
    while found is not None and found.num_chips % tensor:
        found = None if found.is_here else found.larger()
    return found


def of_tokenizer(
    run: TokenizerRun, topology: Topology, needs: Needs, say: Callable[[str], None]
) -> list[Change]:
    """Blocks computed again, smaller batches, and larger slices, the nearest first."""
    larger = (
        None if topology.is_here or (run.mesh or MeshConfig()).fsdp != -1 else topology.larger()
    )
    remats = [False]
    if isinstance(run.recipe, VisualRecipe) and not run.recipe.losses.remat_blocks:
        remats = [False, True]
    found = []
    for where, part in ((topology, 1), (topology, 2), (topology, 4), (larger, 1), (larger, 2)):
        for remat in remats:
            if where is None or (where, part, remat) == (topology, 1, False):
                continue
            other, words = _smaller(run, part, remat)
            words += [f"{where.name} ({where.num_chips} chips)"] if where != topology else []
            chips = where.num_chips / topology.num_chips
            kept = _KEPT_BY_REMAT if remat else 1.0
            found.append(
                Change(
                    words=", ".join(words),
                    topology=where,
                    needed=needs.scaled(1.0 / chips, kept / part / chips),
                    make=lambda other=other, at=where: tokenizer_step.plan_tokenizer(
                        other, at, say
                    ),
                )
            )
    return found


def _smaller(run: TokenizerRun, part: int, remat: bool) -> tuple[TokenizerRun, list[str]]:
    """(the run with a part of its batches and perhaps blocks computed again, words for that)."""
    recipe, words = run.recipe, []
    names = ("batch_size",)
    if isinstance(recipe, VisualRecipe):
        names = ("frames_per_batch", *(("images_per_batch",) if recipe.image_steps else ()))
    if part > 1:
        sizes = {name: getattr(recipe, name) for name in names}
        fewer = {name: max(1, size // part) for name, size in sizes.items()}
        words += [f"{name} = {fewer[name]} (was {size})" for name, size in sizes.items()]
        recipe = dataclasses.replace(recipe, **fewer)
    if remat:
        words.append("VisualLossConfig.remat_blocks = True")
        losses = dataclasses.replace(recipe.losses, remat_blocks=True)
        recipe = dataclasses.replace(recipe, losses=losses)
    return dataclasses.replace(run, recipe=recipe), words
