"""Tasks and mixtures by name, filled by task files such as `tasks/paper.py`.

A task of your own is a Python file and one gin line, nothing under poet/ changes:

    # my_tasks.py
    from poet.data import registry
    from poet.tokens import tasks, vocabulary

    registry.register(
        "my_next_frames",
        tasks.Task("my_next_frames", vocabulary.VIDEO,
                   inputs=(tasks.Part("visual", "visual", 0, 2),),
                   outputs=(tasks.Part("visual", "visual", 2),)),
    )

    # gin:  TASK_MODULES = ['my_tasks']        and  MIXTURE_OR_TASK_NAME = 'my_next_frames'
"""

import dataclasses
import hashlib
import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Mapping, Sequence

from poet.data import objectives
from poet.tokens.tasks import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskEntry:
    """A registered task.

    Attributes:
      name: the SeqIO name, for example poet_text_to_video.
      task: what is given and asked for.
      objective: record -> fields, see `poet.data.objectives`.
      needs: capabilities that a record must have.
    """

    name: str
    task: Task
    objective: objectives.Objective = objectives.take_parts
    needs: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureEntry:
    """A registered mixture: names of tasks or mixtures with their relative weights."""

    name: str
    weights: tuple[tuple[str, float], ...]


_ENTRIES: dict[str, TaskEntry | MixtureEntry] = {}
_LOADED_FILES: set[str] = set()


def register(
    name: str,
    task: Task,
    objective: objectives.Objective = objectives.take_parts,
    needs: frozenset[str] | None = None,
) -> TaskEntry:
    """Adds a task under a name; `poet_` in front keeps SeqIO's global names apart.

    Args:
      name: what MIXTURE_OR_TASK_NAME says.
      task: the value that plans are made of.
      objective: (record, task, text tokenizer) -> fields.
      needs: capabilities a record must have; by default what the task's parts say.

    Raises ValueError if another task or mixture has the name.
    """
    needs = objectives.needs(task) if needs is None else frozenset(needs)
    return _add(TaskEntry(name=name, task=task, objective=objective, needs=needs))


def register_mixture(name: str, weights: Mapping[str, float]) -> MixtureEntry:
    """Adds a mixture of registered tasks or mixtures; weights are relative steps."""
    if not weights:
        raise ValueError(f"Mixture {name!r} needs at least one task with a weight, got none.")
    _check_weights(name, weights)
    for part in weights:
        get(part)
    return _add(MixtureEntry(name=name, weights=tuple(weights.items())))


def get(name: str) -> TaskEntry | MixtureEntry:
    """The task or mixture of that name; ValueError lists the known ones.

    A mixture made with SeqIO itself is found too, if its tasks are Poet's. SeqIO is only asked
    where somebody has imported it.
    """
    if name in _ENTRIES:
        return _ENTRIES[name]
    if "seqio" in sys.modules:
        mixtures = sys.modules["seqio"].MixtureRegistry
        if name in mixtures.names():
            mixture = mixtures.get(name)
            rates = [(task.name, float(mixture.get_rate(task))) for task in mixture.tasks]
            return MixtureEntry(name=name, weights=tuple(rates))
    known = ", ".join(sorted(_ENTRIES)) or "none (no task file is loaded)"
    raise ValueError(
        f"Unknown task or mixture {name!r}; known are: {known}. Add the file that registers it"
        " (poet.data.registry.register) to TASK_MODULES."
    )


def names() -> list[str]:
    """All registered names, sorted."""
    return sorted(_ENTRIES)


def resolve(name: str, weights: Mapping[str, float] | None = None) -> list[tuple[TaskEntry, float]]:
    """The tasks behind a name with their shares, which sum to 1; mixtures may nest.

    Args:
      name: a task or mixture.
      weights: relative weights that replace the registered ones of the tasks they name; a task
        with weight 0 is left out.
    """
    shares = _shares(name)
    if weights:
        _check_weights(name, weights)
        unknown = sorted(set(weights) - set(shares))
        if unknown:
            raise ValueError(
                f"Weights are given for {unknown}, but {name!r} has only the tasks"
                f" {sorted(shares)}. Correct the names, or choose a mixture that has them."
            )
        shares.update(weights)
    shares = {task: share for task, share in shares.items() if share}
    total = sum(shares.values())
    if not total:
        raise ValueError(f"All tasks of {name!r} have the weight 0; give one a positive weight.")
    return [(get(task), share / total) for task, share in shares.items()]


def _shares(name) -> dict[str, float]:
    entry = get(name)
    if isinstance(entry, TaskEntry):
        return {name: 1.0}
    shares: dict[str, float] = {}
    total = sum(weight for _, weight in entry.weights)
    for part, weight in entry.weights:
        for task, share in _shares(part).items():
            shares[task] = shares.get(task, 0.0) + share * (weight / total if total else 0.0)
    return shares


def load_task_modules(modules: Sequence[str]) -> None:
    """Imports task files, each a dotted name ("tasks.paper", "my_tasks") or a path to a .py file.

    A dotted name that is not installed is looked for in the working directory. Loading a file
    twice does nothing. Raises ValueError, naming the file, if there is none.
    """
    for module in [modules] if isinstance(modules, str) else modules:
        if module.endswith(".py"):
            _load_file(module, module)
            continue
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            # Something that the file itself imports is missing: that error says it best.
            if error.name is None or not (module + ".").startswith(error.name + "."):
                raise
            _load_file(module.replace(".", os.sep) + ".py", module)


def _load_file(path, named):
    path = os.path.abspath(path)
    if path in _LOADED_FILES:
        return
    if not os.path.isfile(path):
        raise ValueError(
            f"Task file {named!r} was not found: neither an installed module nor the file {path}."
            " Give a dotted module name or the path of a .py file in TASK_MODULES."
        )
    stem = os.path.splitext(os.path.basename(path))[0]
    name = f"{stem}_{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _LOADED_FILES.add(path)


def _add(entry):
    old = _ENTRIES.setdefault(entry.name, entry)
    if old != entry:
        raise ValueError(
            f"The name {entry.name!r} is taken by another task or mixture ({old})."
            " Choose another name."
        )
    return entry


def _check_weights(name, weights):
    for part, weight in weights.items():
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(
                f"Weight {weight} of {part!r} in {name!r} must be a finite number from 0 on."
                " 0 leaves the task out."
            )
