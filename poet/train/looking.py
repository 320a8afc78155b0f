"""Looks at a model between two steps, at its held-out losses or its samples."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from poet.train.progress import Progress
from poet.train.state import TrainState

# What `look` calls the numbers that it says.
_WORDS = {"eval": "held out", "sample": "sampled"}


def look(
    kind: str, measure: Any, state: TrainState, step: int, writer: Any, progress: Progress
) -> dict[str, float]:
    """Writes what a look at the model finds, says some of the numbers, and returns all.

    Said are losses by task and whatever is over all parts: a log is no table.
    """
    measures = {} if measure is None else measure(state, step) or {}
    numbers = {name: float(value) for name, value in measures.items() if np.ndim(value) == 0}
    if not measures:
        return numbers
    writer.write(step, kind, numbers)
    pictures = {name: value for name, value in measures.items() if name not in numbers}
    writer.write_pictures(step, pictures, kind)
    said = (
        name
        for name in numbers
        if name.count("/") < 2 or (name.startswith("loss_nats/") and "/by_part/" not in name)
    )
    words = ", ".join(f"{name} {numbers[name]:.4g}" for name in said)
    progress.say(f"  step {step:,} {_WORDS[kind]}: {words}")
    return numbers


def loss_of(name: str, found: Mapping[str, float]) -> float:
    """The loss that chooses the best checkpoint; infinite without one, or if it is not finite.

    Raises:
      ValueError: An evaluation was made and has no such number.
    """
    if not name:
        return math.inf
    if name not in found:
        losses = ", ".join(other for other in found if other.startswith("loss"))
        raise ValueError(
            f"best_of={name!r} is nothing that the evaluation gives; choose one of its losses:"
            f" {losses or 'there are none'}."
        )
    return found[name] if math.isfinite(found[name]) else math.inf
