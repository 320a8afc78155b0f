"""Long clips: the last second goes in, the next second comes out, again and again.

A round takes the last frames of what there is (9 frames, about one second at the paper's sizes),
tokenizes them anew, and writes the rest of a clip after them (8 frames). The whole clip is decoded;
where it overlaps what was there, one fades into the other. (Paper, section on long video; spec
sections 6 and 9, row 10.) With sound the same holds for the samples beside those frames: a round's
sound is placed by the sample at which its first frame starts, so that sound and picture cannot
drift apart.

Axes: B requests, T frames, Y rows, X columns, S samples, Q audio levels.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from poet.sample import candidates, names
from poet.sample.asks import Ask, Job
from poet.sample.engine import Engine
from poet.tokens.tasks import Task

# Sound fades from one round's to the next in so many seconds.
_FADE_S = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clips:
    """What a batch of requests made.

    Attributes:
      frames: uint8 [B, T, Y, X, 3] or None.
      sound: float32 [B, S] or None.
      rounds: Codes by field of the clip and of each round after it.
    """

    frames: np.ndarray | None
    sound: np.ndarray | None
    rounds: list[Mapping[str, np.ndarray]]


def check(engine: Engine, job: Job, ask: Ask, task: Task) -> None:
    """ValueError where the clip of this request cannot grow as it is told."""
    if job.then:
        raise ValueError(
            "--seconds and --then do not go together yet: make the long clip, then give it to the"
            " next task with --video."
        )
    if not any(part.kind == "visual" and part.stop is None for part in task.outputs):
        raise ValueError(f"Task {task.name!r} makes no whole clip, so --seconds cannot extend it.")
    has_sound = any(part.kind == "audio" for part in task.outputs + task.inputs)
    step = task_of_round(engine, has_sound, has_text=bool(ask.prompt or ask.later))
    if ask.later and not step.has_text:
        raise ValueError(
            f"The words of request {ask.name!r} change with time, but {step.name!r}, by which this"
            " checkpoint makes clips longer, reads none; give one prompt, or a checkpoint trained"
            " for future_prediction_with_text."
        )


def task_of_round(engine: Engine, has_sound: bool, has_text: bool) -> Task:
    """The task that writes the next second.

    Raises:
      ValueError: The checkpoint was trained for none that can.
    """
    word = "continue_with_sound" if has_sound else "continue"
    task = engine.task(names.resolve(word, engine.tasks, has_text=has_text))
    given = next(part for part in task.inputs if part.kind == "visual")
    if has_sound and engine.clip.frames_of(given.stop) < 2:
        raise ValueError(
            "Clips with sound grow by audio_video_continuation_9, which this checkpoint was not"
            " trained for; leave --seconds out, or choose another checkpoint."
        )
    return task


def num_rounds(seconds: float, frames_per_second: float, num_frames: int, new_frames: int) -> int:
    """Rounds after the first clip until there are ``seconds``."""
    return max(0, math.ceil((round(seconds * frames_per_second) - num_frames) / new_frames))


def extend(
    engine: Engine,
    job: Job,
    asks: list[Ask],
    fields: Mapping[str, np.ndarray],
    count: int,
    pick: candidates.PickFn | None = None,
) -> Clips:
    """Clips of ``job.seconds``, from the codes of their first two seconds.

    Args:
      engine: The model.
      job: What to do.
      asks: Requests of the batch, filled up to its size.
      fields: Codes of the first clips.
      count: Requests that are real; the others fill the batch.
      pick: Chooses among the tries of a round, if there are several.
    """
    clip, rate_hz = engine.clip, 0
    has_sound = "audio" in fields
    frames = engine.decode_video(fields["visual"])
    sound, rounds = None, [fields]
    if has_sound:
        # Whole audio frames only: a clip may end a little after the last one.
        rate_hz, num_samples = engine.sample_rate_hz, engine.sound.num_samples
        sound = engine.decode_sound(fields["audio"])[:, :num_samples]
    has_text = any(ask.prompt or ask.later for ask in asks)
    task = task_of_round(engine, has_sound, has_text)
    given = next(part for part in task.inputs if part.kind == "visual").stop
    overlap = clip.frames_of(given)
    new = clip.num_frames - overlap
    for number in range(num_rounds(job.seconds, clip.frames_per_second, clip.num_frames, new)):
        first = frames.shape[1] - overlap
        start_s = first / clip.frames_per_second
        codes = {"visual": engine.encode_video(frames[:, first:] / np.float32(255))}
        if has_sound:
            at = round(start_s * rate_hz)
            inputs = _tail(sound, at, num_samples)
            codes["audio"] = engine.encode_sound(inputs)
        end_s = frames.shape[1] / clip.frames_per_second
        made = candidates.generate(
            engine,
            task.name,
            codes
            | {
                "prompts": [ask.prompt_at(end_s) for ask in asks],
                "negative_prompts": [ask.negative_prompt for ask in asks],
            },
            asks,
            [_plain(job, ask, task) for ask in asks],
            1 + number,
            candidates.Choice(job.tries, pick),
        )
        rounds.append(made)
        frames = _join_frames(frames, engine.decode_video(made["visual"]), overlap)
        if has_sound:
            heard = engine.decode_sound(made["audio"])[:, :num_samples]
            sound = _join_sound(sound, heard, at, round(end_s * rate_hz), rate_hz)
    length = max(1, round(job.seconds * clip.frames_per_second))
    frames = frames[:count, :length]
    if has_sound:
        samples = round(frames.shape[1] / clip.frames_per_second * rate_hz)
        sound = np.pad(sound, ((0, 0), (0, max(0, samples - sound.shape[1]))))[:count, :samples]
    return Clips(frames=frames, sound=sound, rounds=rounds)


def _plain(job: Job, ask: Ask, task: Task) -> Any:
    """The request's sampling; without words there is nothing to guide by."""
    sampling = job.sampling_of(ask, 0)
    return sampling if task.has_text else dataclasses.replace(sampling, guidance=1.0)


def _tail(sound: np.ndarray, at: int, num_samples: int) -> np.ndarray:
    """Samples from ``at`` on, as many as a clip has; silence where nothing is made yet."""
    tail = sound[:, at : at + num_samples]
    return np.pad(tail, ((0, 0), (0, num_samples - tail.shape[1])))


def _join_frames(before: np.ndarray, after: np.ndarray, overlap: int) -> np.ndarray:
    """The old frames fade into the new ones where both are; then the new ones alone."""
    share = (np.arange(1, overlap + 1) / (overlap + 1)).astype(np.float32)[:, None, None, None]
    old, new = before[:, -overlap:].astype(np.float32), after[:, :overlap].astype(np.float32)
    mixed = np.round(old + share * (new - old)).astype(np.uint8)
    return np.concatenate([before[:, :-overlap], mixed, after[:, overlap:]], axis=1)


def _join_sound(
    before: np.ndarray, after: np.ndarray, at: int, boundary: int, rate_hz: int
) -> np.ndarray:
    """``after`` begins at sample ``at``; it takes over in a short fade before ``boundary``."""
    fade = round(_FADE_S * rate_hz)
    first = min(boundary, before.shape[1]) - fade
    share = (np.arange(fade) / fade).astype(np.float32)[None]
    old, new = before[:, first : first + fade], after[:, first - at : first - at + fade]
    mixed = old + share * (new - old)
    return np.concatenate([before[:, :first], mixed, after[:, first - at + fade :]], axis=1)
