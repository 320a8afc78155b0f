"""What a task takes from a record: plain numpy, one record at a time.

An objective is a function (record, task, text tokenizer) -> fields, where fields are the local
codes that `poet.tokens.sequence.assemble` lays out: "visual" [t, h, w], "audio" [levels, frames],
"text_ids" [slots]. A task file may bring its own; `take_parts` serves every task of the paper.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from poet.data import features
from poet.tokens.tasks import Part, Task

Fields = dict[str, np.ndarray]
Objective = Callable[[Mapping[str, Any], Task, Any], Fields]


def take_parts(record: Mapping[str, Any], task: Task, text_tokenizer) -> Fields:
    """The fields of a task, each cut behind the last frame that the task looks at.

    The cut lets image and video records share a batch: an image task takes frame 0 of either.

    Args:
      record: from `Dataset.read`.
      task: which parts are given and asked for.
      text_tokenizer: `.encode(caption) -> int32 [slots]`; None for a task without text.

    Raises ValueError if the record lacks what the task needs.
    """
    fields = {}
    for field in task.fields:
        parts = [part for part in task.inputs + task.outputs if part.field == field]
        if parts[0].kind == "text":
            fields[field] = _text_ids(record, task, text_tokenizer)
        else:
            fields[field] = _cut(record, task, field, parts)
    return fields


def needs(task: Task) -> frozenset[str]:
    """Capabilities (`writer.CAPABILITIES`) that a record must have to serve the task."""
    parts = task.inputs + task.outputs
    found = {"caption"} if task.has_text else set()
    if task.uses_audio:
        found.add("audio")
    if any(part.kind == "visual" and part.stop != 1 for part in parts):
        found.add("video")
    found |= {part.field for part in parts if part.field in features.CONDITIONS}
    return frozenset(found)


def is_image_task(task: Task) -> bool:
    """Whether the task writes one still image and nothing else."""
    return all(part.kind == "visual" and (part.start, part.stop) == (0, 1) for part in task.outputs)


def _text_ids(record, task, text_tokenizer):
    if not record["caption"].strip():
        raise _unfit(record, task, "it has no caption")
    return np.asarray(text_tokenizer.encode(record["caption"]), np.int32)


def _cut(record, task, field, parts: list[Part]):
    if field not in record:
        raise _unfit(record, task, f"it has no field {field!r}")
    codes = record[field]
    if not codes.size:
        raise _unfit(record, task, f"its {field} ids are empty")
    axis = 0 if parts[0].kind == "visual" else -1
    # A part without an end takes the whole clip; one frame is an image, not a clip.
    stops = [2 if part.stop is None and axis == 0 else part.stop or 1 for part in parts]
    num_frames = codes.shape[axis]
    if num_frames < max(stops):
        raise _unfit(record, task, f"{field} has {num_frames} frames of at least {max(stops)}")
    if any(part.stop is None or part.follows_picture for part in parts):
        return codes
    return codes[: max(stops)] if axis == 0 else codes[..., : max(stops)]


def _unfit(record, task, reason):
    return ValueError(
        f"Record {record.get('clip_id')!r} does not fit task {task.name!r}: {reason}."
        " Draw records by `needs(task)`, which lists what the task has to find in them."
    )
