"""One request from Python: words, pictures, clips or sound in, a file out."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from poet.sample import jobs, outputs
from poet.sample.asks import Ask, Job, Link
from poet.sample.engine import Engine
from poet.sample.requests import SamplingRequest

_OF_JOB = ("seconds", "tries", "then_temperature", "format", "overwrite")


def make(
    engine: Engine,
    task: str,
    out: str | os.PathLike,
    then: Sequence[Link | str] = (),
    **request: Any,
) -> dict[str, Any]:
    """Answers one request with a file, as `poet generate` does.

    Args:
      engine: From `load_engine`.
      task: Such as "text_to_video"; `poet.sample.names` has them all.
      out: A file (.mp4, .webm, .gif, .png, .wav) or a folder for one.
      then: Tasks that follow on what was made.
      **request: Fields of `Ask` (prompt, image, video, audio, mask ...), of `SamplingRequest`
        (seed, temperature, guidance ...), and seconds, tries, then_temperature, format and
        overwrite of `Job`.

    Returns:
      The row that lies beside the file as JSON: "file", all that the file follows from, and "ids".

    Raises:
      ValueError: The request cannot be answered, saying why and what to do.
    """
    folder, file_name = outputs.target(out)
    settings = _taken(request, [field.name for field in dataclasses.fields(SamplingRequest)])
    of_job = _taken(request, _OF_JOB)
    known = [field.name for field in dataclasses.fields(Ask)]
    if unknown := sorted(set(request) - set(known)):
        raise ValueError(
            f"A request has no {', '.join(unknown)}; it has {', '.join([*known, *_OF_JOB])} and the"
            " fields of SamplingRequest."
        )
    ask = Ask(**{"name": "made"} | request)
    job = Job(
        task=task,
        then=tuple(then),
        sampling=SamplingRequest(**settings),
        out=folder,
        file_name=file_name,
        batch_size=1,
        **of_job,
    )
    return jobs.run(engine, job, [ask])[0]


def _taken(request: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: request.pop(name) for name in names if name in request}
