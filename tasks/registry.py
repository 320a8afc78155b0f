"""What a task file needs, in one place: `register`, `register_mixture`, `get`, `register_seqio`.

The registry itself is `poet.data.registry`; task files may import either.
"""

from poet.data.registry import (
    MixtureEntry,
    TaskEntry,
    get,
    load_task_modules,
    names,
    register,
    register_mixture,
    resolve,
)
from poet.data.seqio_tasks import register_seqio

__all__ = [
    "MixtureEntry",
    "TaskEntry",
    "get",
    "load_task_modules",
    "names",
    "register",
    "register_mixture",
    "register_seqio",
    "resolve",
]
