"""How many passes an engine's programs take, and how many seconds."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from poet.sample import outputs
from poet.tokens import schedule

# What makes two calls the same program.
_PROGRAM = ("task", "batch")


@contextlib.contextmanager
def watch(engine: Any) -> Iterator[list[dict[str, Any]]]:
    """Gives the list that every call of ``engine.generate`` adds a row to.

    A row: "task", "batch" (requests), "passes", "tokens" (of one request) and "seconds".
    """
    facts, plain, calls = engine.facts["decoding"], engine.generate, []
    order = schedule.Schedule(facts["schedule"], facts["slope"])

    def timed(task_name: str, given: Any, request_ids: Any, *args: Any, **more: Any) -> Any:
        start_s = time.perf_counter()
        made = plain(task_name, given, request_ids, *args, **more)
        seconds = time.perf_counter() - start_s
        task = engine.task(task_name)
        said = schedule.describe(engine.plan(task), order)
        row = {"task": task.name, "batch": len(request_ids)}
        row |= {"passes": said["passes"], "tokens": said["tokens"], "seconds": seconds}
        calls.append(row)
        return made

    engine.generate = timed  # on this one engine; deleted below, which shows its method again
    try:
        yield calls
    finally:
        del engine.generate


def fastest(calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fastest call of each program, in order of their first.

    The first call of a program compiles it, so that one that is called once counts that too.
    """
    found: dict[Any, dict[str, Any]] = {}
    for call in calls:
        program = tuple(call[name] for name in _PROGRAM)
        if program not in found or call["seconds"] < found[program]["seconds"]:
            found[program] = call
    return list(found.values())


def remembered(path: Path, engine: Any, calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fastest calls, those of an earlier start with the same decoding included.

    They are kept in ``path``: a run that goes on answers only what is missing.
    """
    earlier = json.loads(path.read_text()) if path.exists() else {}
    if earlier.get("decoding") == engine.facts["decoding"]:
        calls = [*earlier["calls"], *calls]
    calls = fastest(calls)
    outputs.write_text(path, json.dumps({"decoding": engine.facts["decoding"], "calls": calls}))
    return calls
