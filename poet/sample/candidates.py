"""Several tries at one step, of which the likeliest is kept, or the one that a person picks."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from poet.sample.asks import Ask
from poet.sample.engine import Engine
from poet.sample.requests import SamplingRequest

# Tries of a request draw under ids of their own; samples of a prompt differ in bits 32 to 47.
_TRY_SHIFT = 48

# (place of the step, codes of one request's tries by field) -> number of the try to keep
PickFn = Callable[[int, dict[str, np.ndarray]], int]


@dataclasses.dataclass(frozen=True)
class Choice:
    """How many tries each step has, and who chooses.

    Attributes:
      tries: Number of candidates; the first is what there would be without the others.
      pick: Chooses among them; None takes the most likely under the model (after guidance, at
        temperature 1).
    """

    tries: int = 1
    pick: PickFn | None = None


def generate(
    engine: Engine,
    task_name: str,
    given: Mapping[str, Any],
    asks: Sequence[Ask],
    samplings: Sequence[SamplingRequest],
    place: int,
    choice: Choice,
    **more: Any,
) -> dict[str, np.ndarray]:
    """What `Engine.generate` makes, the best try for each request.

    Args:
      engine: The model.
      task_name: See `Engine.generate`, as for ``given`` and ``place``.
      given: One row a request.
      asks: Requests; their numbers fix the draws.
      samplings: One a request.
      place: Of the step.
      choice: Among how many tries.
      **more: Passed on.
    """
    numbers, tries = [ask.number for ask in asks], choice.tries
    if tries == 1:
        return engine.generate(task_name, given, numbers, samplings, place, **more)
    repeated = {name: _repeat(values, tries) for name, values in given.items()}
    ids = [number + (attempt << _TRY_SHIFT) for number in numbers for attempt in range(tries)]
    made = engine.generate(
        task_name, repeated, ids, _repeat(samplings, tries), place, with_likelihood=True, **more
    )
    likelihood = made.pop("log_likelihood").reshape(len(asks), tries)
    shape = (len(asks), tries)
    grouped = {name: codes.reshape(*shape, *codes.shape[1:]) for name, codes in made.items()}
    best = likelihood.argmax(axis=1)
    if choice.pick is not None:
        best = np.array(
            [
                choice.pick(place, {name: codes[row] for name, codes in grouped.items()})
                for row in range(len(asks))
            ]
        )
    return {name: codes[np.arange(len(asks)), best] for name, codes in grouped.items()}


def _repeat(values: Any, tries: int) -> Any:
    if isinstance(values, np.ndarray):
        return np.repeat(values, tries, axis=0)
    return [value for value in values for _ in range(tries)]
