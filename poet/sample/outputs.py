"""Answers as files: a clip, picture or sound, beside a JSON with all that it follows from."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from poet.sample.asks import Ask, Job

_ENDINGS = (".mp4", ".webm", ".gif", ".png", ".wav")

# Pictures smaller than this are enlarged by whole pixels, so that a player shows more than a stamp.
_SHOWN_PX = 128

# In the row of a request whose media file is being written.
_BEGUN = "begun"


def target(out: str | os.PathLike) -> tuple[Path, str]:
    """(folder, file name) that a path stands for; "" for a folder.

    Raises:
      ValueError: It is a file of another kind.
    """
    path = Path(out)
    if path.suffix.lower() in _ENDINGS:
        return path.parent, path.name
    if path.is_file():
        raise ValueError(
            f"{path} is a file; name a folder, or a file that ends in {', '.join(_ENDINGS)}."
        )
    return path, ""


def request_of(facts: Mapping[str, Any], job: Job, ask: Ask) -> dict[str, Any]:
    """All that an answer follows from, as JSON: two equal ones have equal answers."""
    sampling = job.sampling_of(ask, 0)
    return {
        "task": job.task,
        "then": [vars(link) for link in job.then],
        "then_temperature": job.then_temperature,
        "prompt": ask.prompt,
        "later": [list(change) for change in ask.later],
        "negative_prompt": ask.negative_prompt,
        "source": ask.record or ask.video or ask.image or ask.audio,
        "files": {path: _size_and_time(path) for path in ask.files},
        "image": ask.image,
        "video": ask.video,
        "audio": ask.audio,
        "mask": ask.mask,
        "start_s": ask.start_s,
        "seconds": job.seconds,
        "tries": job.tries,
        "format": job.format,
        "number": ask.number,
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "guidance": sampling.guidance,
        **facts,
    }


def _size_and_time(path: str) -> list[int] | None:
    if not os.path.exists(path):
        return None
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns]


def row_path(job: Job, ask: Ask) -> Path:
    """The JSON of an answer; it is written last, and marks the request as answered."""
    return job.out / f"{_stem(job, ask)}.json"


def _stem(job: Job, ask: Ask) -> str:
    return Path(job.file_name).stem if job.file_name else ask.name


def is_answered(facts: Mapping[str, Any], job: Job, ask: Ask) -> bool:
    """Whether this very request has its files already."""
    row = _row_there(row_path(job, ask))
    if not row or "error" in row or _BEGUN in row or not (job.out / row.get("file", "")).is_file():
        return False
    # The same clip as a .gif is another file.
    return row["file"] == (job.file_name or row["file"]) and _is_of(row, facts, job, ask)


def _is_of(row: Mapping[str, Any], facts: Mapping[str, Any], job: Job, ask: Ask) -> bool:
    return all(row.get(name) == value for name, value in request_of(facts, job, ask).items())


def check_free(facts: Mapping[str, Any], job: Job, ask: Ask) -> None:
    """ValueError where another request's files would be replaced."""
    if job.overwrite or is_answered(facts, job, ask):
        return
    stem = _stem(job, ask)
    row = _row_there(row_path(job, ask))
    if _BEGUN in row and _is_of(row, facts, job, ask):
        return  # what a killed run left of this very request
    for path in (job.out / f"{stem}{ending}" for ending in (".json", *_ENDINGS)):
        if not path.exists():
            continue
        if path.suffix == ".json" and "error" in row:
            continue  # a failure is tried again
        raise ValueError(
            f"{path} is there already and was made from something else; pass --overwrite, or"
            " another --out."
        )


def _row_there(path: Path) -> dict[str, Any]:
    """The row of a file; empty where there is none, or another thing."""
    try:
        row = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return row if isinstance(row, dict) else {}


def write_answer(
    engine: Any,
    facts: Mapping[str, Any],
    job: Job,
    ask: Ask,
    *,
    frames: np.ndarray | None,
    sound: np.ndarray | None,
    ids: Any,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes a row that says what is begun, the media file, then the whole row; returns that.

    A run that is killed in between leaves what the next one knows as its own.

    Args:
      engine: For the rates of its clips and sound.
      facts: Of the model, and of what drew masks or flow.
      job: What was done.
      ask: The request.
      frames: uint8 [T, Y, X, 3], or None for sound alone.
      sound: float32 [S] in [-1, 1], or None.
      ids: Codes by field, or a list of them for long clips.
      more: What else the row tells.
    """
    from poet.media import images, write

    scale = 1
    if Path(job.file_name).suffix == ".wav":
        frames = None
    if frames is not None and (job.file_name or f".{job.format}").endswith(".gif"):
        sound = None  # the format has none
    begun = {"name": ask.name, **request_of(facts, job, ask), _BEGUN: True}
    write_text(row_path(job, ask), json.dumps(begun))
    if frames is None:
        file = f"{_stem(job, ask)}.wav"
        write.write_wav(job.out / file, sound, engine.sample_rate_hz)
    else:
        scale = max(1, -(-_SHOWN_PX // min(frames.shape[1:3])))
        if len(frames) == 1 and sound is None:
            file = f"{_stem(job, ask)}.png"
            images.write_image(job.out / file, frames[0].repeat(scale, 0).repeat(scale, 1))
        else:
            file = job.file_name or f"{_stem(job, ask)}.{job.format}"
            rate, heard = engine.clip.frames_per_second, {}
            if sound is not None:
                heard = {"sound": sound, "sample_rate_hz": engine.sample_rate_hz}
            write.write_clip(job.out / file, frames, rate, scale=scale, **heard)
    row = {
        "file": file,
        "name": ask.name,
        **request_of(facts, job, ask),
        "has_sound": sound is not None,
        "scale": scale,
        **more,
        "ids": ids,
    }
    write_text(row_path(job, ask), json.dumps(row))
    return row


def write_failure(facts: Mapping[str, Any], job: Job, ask: Ask, error: Exception) -> None:
    """A row that says why a request has no files."""
    row = {"name": ask.name, **request_of(facts, job, ask), "error": str(error)}
    write_text(row_path(job, ask), json.dumps(row))


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
