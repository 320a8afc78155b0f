"""Requests in, files out: clips, pictures and sounds beside the ids and settings that made them.

A job writes OUT/NAME.mp4 (or .png) and OUT/NAME.json for every request, both whole or not at all,
and at the end OUT/samples.jsonl with one row a request in their order. A job that was killed goes
on where it stopped; the ids do not depend on where that was, because every draw is keyed by the
seed, the request's number and the position.

Media and tokenizers are imported where they are used: the rest of `poet.sample` runs without them.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poet.sample.engine import Engine
from poet.sample.requests import SamplingRequest
from poet.tokens import tasks

# Files smaller than this are enlarged by whole pixels, so that a player shows more than a stamp.
_SHOWN_PX = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """One request.

    Attributes:
      name: Stem of the files it makes.
      prompt: Text, for tasks that read text.
      media: A picture or clip, for tasks that are given one.
      start_s: Where in `media` to begin.
      number: With the job's seed it fixes the draws; differs between requests.
    """

    name: str
    prompt: str = ""
    media: str = ""
    start_s: float = 0.0
    number: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What to do with all requests of a job.

    Attributes:
      task: Name of the task.
      then: Tasks that follow on what was made, such as ("video_to_audio",).
      sampling: Temperature, top-k, top-p, guidance and seed.
      then_temperature: Temperature of the tasks that follow; None is that of `sampling`. What is
        rare and could come at one of several moments, such as a click, is never the likeliest
        token: a low temperature leaves it out.
      out: Folder for the files.
      batch_size: At most so many requests are decoded together; batches are of one size, the last
        one padded to it.
    """

    task: str
    then: tuple[str, ...] = ()
    sampling: SamplingRequest
    then_temperature: float | None = None
    out: Path
    batch_size: int = 32

    def sampling_of(self, place: int) -> SamplingRequest:
        """How the task at this place of the chain is sampled, 0 for the first."""
        if place == 0:
            return self.sampling
        temperature = self.then_temperature
        if temperature is None:
            temperature = self.sampling.temperature
        return dataclasses.replace(self.sampling, guidance=1.0, temperature=temperature)


def run(
    engine: Engine, job: Job, asks: Sequence[Ask], say: Callable[[int], None] = lambda done: None
) -> list[dict[str, Any]]:
    """Answers every request that has no files yet; returns the rows of samples.jsonl.

    Args:
      engine: The model and its tokenizers.
      job: What to do.
      asks: Requests; names differ.
      say: Called with the number of requests answered so far.

    Raises:
      ValueError: A request lacks what the task needs, names a file that cannot be read, or the
        model was not trained for a task.
    """
    check(engine, job, asks)
    job.out.mkdir(parents=True, exist_ok=True)
    # The same number of calls with the fewest rows to fill up: 48 requests are 2 x 24, not 32 + 16.
    size = -(-len(asks) // -(-len(asks) // job.batch_size))
    for first in range(0, len(asks), size):
        batch = list(asks[first : first + size])
        if not all(_is_answered(engine, job, ask) for ask in batch):
            _answer(engine, job, batch, size)
        say(first + len(batch))
    rows = [json.loads(_row_path(job, ask).read_text()) for ask in asks]
    shown = [{k: v for k, v in row.items() if k != "ids"} for row in rows]
    _write_text(job.out / "samples.jsonl", "".join(json.dumps(row) + "\n" for row in shown))
    return rows


def check(engine: Engine, job: Job, asks: Sequence[Ask]) -> None:
    """Refuses what cannot be answered, before anything is decoded."""
    if not asks:
        raise ValueError(
            "Expected at least one request, got none; give --prompt, --image, --video or --requests"
            " with at least one row."
        )
    task = engine.task(job.task)
    for name in (job.task, *job.then):
        _check_inputs(engine.task(name))
    job.sampling.check_task(task)
    job.sampling_of(1)  # refuses an unfit temperature
    names = [ask.name for ask in asks]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"Names of requests must differ, but {twice[:3]} come more than once.")
    for ask in asks:
        if task.needs_text or ask.prompt:
            engine.check_prompt(ask.prompt)
        if _given(task) and not ask.media:
            raise ValueError(
                f"Task {task.name!r} needs a picture or clip to start from, but request"
                f" {ask.name!r} names none; give --image or --video."
            )


def _check_inputs(task: tasks.Task) -> None:
    """ValueError for tasks that are given what requests cannot name yet."""
    strange = [p.field for p in task.inputs if p.field not in ("visual", "text_ids")]
    if strange:
        raise ValueError(
            f"Task {task.name!r} is given {' and '.join(strange)}, which requests cannot name yet:"
            " they have words, pictures and clips. Choose another task."
        )


def _given(task: tasks.Task) -> bool:
    return any(part.kind != "text" for part in task.inputs)


def _answer(engine: Engine, job: Job, batch: list[Ask], size: int) -> None:
    padded = batch + [batch[-1]] * (size - len(batch))
    fields: dict[str, np.ndarray] = {}
    clips = _read_given(engine, job, padded)
    if clips is not None:
        fields["visual"] = engine.encode_video(clips)
    numbers = [ask.number for ask in padded]
    chain = (job.task, *job.then)
    for place, name in enumerate(chain):
        sampling = job.sampling_of(place)
        prompts = [ask.prompt for ask in padded]
        made = engine.generate(name, fields | {"prompts": prompts}, numbers, sampling, place)
        fields = fields | made
    # Decoded together: tokenizers work in batches of one compiled size, and pad a lone clip.
    frames = engine.decode_video(fields["visual"][: len(batch)])
    sounds = engine.decode_sound(fields["audio"][: len(batch)]) if "audio" in fields else None
    for i, ask in enumerate(batch):
        codes = {field: values[i] for field, values in fields.items()}
        _write_answer(engine, job, ask, codes, frames[i], None if sounds is None else sounds[i])


def _read_given(engine: Engine, job: Job, batch: list[Ask]) -> np.ndarray | None:
    """Frames float32 [B, T, Y, X, 3] of as much of the media as the task is given, or None."""
    task = engine.task(job.task)
    parts = [part for part in task.inputs if part.kind == "visual"]
    if not parts:
        return None
    clip = engine.clip
    latent_frames = max(part.stop or clip.latent_frames for part in parts)
    num_frames = 1 + (latent_frames - 1) * clip.frames_per_token
    return np.stack([_read_frames(ask, clip, num_frames) for ask in batch]) / np.float32(255)


def _read_frames(ask: Ask, clip: Any, num_frames: int) -> np.ndarray:
    from poet.media import images, video

    if Path(ask.media).suffix.lower() in images.IMAGE_SUFFIXES:
        frames = images.read_image(ask.media, clip.height_px, clip.width_px)[None]
    else:
        frames = video.read_video(
            ask.media,
            clip.frames_per_second,
            clip.height_px,
            clip.width_px,
            start_s=ask.start_s,
            num_frames=num_frames,
        )
    if len(frames) < num_frames:
        raise ValueError(
            f"{ask.media} gives {len(frames)} frames at {clip.frames_per_second:g} frames a second,"
            f" but the task is given {num_frames}; take a longer clip or an earlier start."
        )
    return frames


def _write_answer(
    engine: Engine,
    job: Job,
    ask: Ask,
    codes: Mapping[str, np.ndarray],
    frames: np.ndarray,
    sound: np.ndarray | None,
) -> None:
    """Writes the media file, then the row that marks the request as answered."""
    from poet.media import images, write

    scale = max(1, -(-_SHOWN_PX // min(frames.shape[1:3])))
    if len(frames) == 1 and sound is None:
        file = f"{ask.name}.png"
        images.write_image(job.out / file, frames[0].repeat(scale, 0).repeat(scale, 1))
    else:
        file = f"{ask.name}.mp4"
        rate = engine.clip.frames_per_second
        heard = {} if sound is None else {"sound": sound, "sample_rate_hz": engine.sample_rate_hz}
        write.write_video(job.out / file, frames, rate, scale=scale, **heard)
    row = {
        "file": file,
        "name": ask.name,
        **_request(engine, job, ask),
        "has_sound": sound is not None,
        "scale": scale,
        "ids": {field: np.asarray(value).tolist() for field, value in codes.items()},
    }
    _write_text(_row_path(job, ask), json.dumps(row))


def _request(engine: Engine, job: Job, ask: Ask) -> dict[str, Any]:
    """All that an answer follows from, as JSON."""
    source = os.stat(ask.media) if ask.media and os.path.exists(ask.media) else None
    return {
        "task": job.task,
        "then": list(job.then),
        "then_temperature": job.then_temperature,
        "prompt": ask.prompt,
        "source": ask.media,
        "source_bytes_and_ns": [source.st_size, source.st_mtime_ns] if source else None,
        "start_s": ask.start_s,
        "sampling": dataclasses.asdict(job.sampling) | {"number": ask.number},
        "checkpoint": engine.facts,
    }


def _is_answered(engine: Engine, job: Job, ask: Ask) -> bool:
    """Whether the folder holds the answer to this very request, not to another of its name."""
    path = _row_path(job, ask)
    if not path.exists():
        return False
    row = json.loads(path.read_text())
    return all(row.get(name) == value for name, value in _request(engine, job, ask).items())


def _row_path(job: Job, ask: Ask) -> Path:
    return job.out / f"{ask.name}.json"


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
