"""The paper's tasks under their SeqIO names: `poet_` and the name of the task value.

(Paper, section on pretraining tasks; spec/videopoet.md section 4.1.) A prepared dataset serves
those whose inputs its records have; `docs/tasks.md` lists what each is given and asked for.
"""

from poet.data import objectives
from poet.tokens import tasks
from tasks import registry


def name_of(task_name: str) -> str:
    """The registered name of a task value."""
    return f"poet_{task_name}"


NAMES = tuple(name_of(name) for name in tasks.TASKS)


def _needs(task: tasks.Task) -> frozenset[str]:
    """What the parts say, and for painting the kind of region that is hidden."""
    region = {"inpainting", "outpainting"} & {task.name.removesuffix("_with_text")}
    return objectives.needs(task) | region


for _task in tasks.TASKS.values():
    registry.register(name_of(_task.name), _task, needs=_needs(_task))
