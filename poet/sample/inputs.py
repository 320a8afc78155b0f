"""Files and earlier answers to the codes that a task is given, saying what was done to them.

Axes: T frames, Y rows, X columns, C channels, S samples, Q audio levels.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poet.sample.asks import Ask
from poet.tokens.clip import ClipShape
from poet.tokens.tasks import Task
from poet.typing import Bool, Float, UInt8

_DEFAULT_REGIONS = {"inpainting": "inpaint_central", "outpainting": "outpaint_central"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """What one request is given, in pixels and samples.

    Attributes:
      frames: {field: uint8 [T, Y, X, 3]} of "visual", "masked" and "structure", as many as needed.
      sound: float32 [S] from the first frame on, or None.
      notes: What was done to the files, for people.
      codes: {field: local codes} that are given as they are.
    """

    frames: Mapping[str, np.ndarray]
    sound: np.ndarray | None
    notes: tuple[str, ...]
    codes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def needs(task: Task) -> tuple[bool, bool, bool]:
    """Whether a task is given (a first frame alone, a clip, sound)."""
    visual = [part for part in task.inputs if part.kind == "visual"]
    is_picture = [part.field == "visual" and part.stop == 1 for part in visual]
    has_sound = any(part.kind == "audio" for part in task.inputs)
    return any(is_picture), not all(is_picture), has_sound


def check(task: Task, ask: Ask) -> None:
    """ValueError where a request lacks what the task is given, or has what it is not."""
    if ask.codes:
        return
    picture, clip, sound = needs(task)
    if clip and not ask.video:
        raise ValueError(
            f"Task {task.name!r} needs a clip to start from, but request {ask.name!r} names none;"
            " give --video."
        )
    if picture and not (ask.image or ask.video):
        raise ValueError(
            f"Task {task.name!r} needs a picture or clip to start from, but request"
            f" {ask.name!r} names none; give --image or --video."
        )
    if sound and not (ask.audio or ask.video):
        raise ValueError(
            f"Task {task.name!r} needs sound, but request {ask.name!r} names none; give --audio, or"
            " --video with a clip that has sound."
        )
    is_painted = any(part.field == "masked" for part in task.inputs)
    if ask.mask and not is_painted:
        raise ValueError(f"Task {task.name!r} hides nothing; leave --mask out, or ask to inpaint.")
    if is_painted:
        _check_region(ask)


def read(
    ask: Ask,
    task: Task,
    clip: ClipShape,
    sample_rate_hz: int,
    num_samples: int,
    from_end: bool = False,
    estimator: Any = None,
) -> Given:
    """Everything that a task is given of a request's files.

    Args:
      ask: The request.
      task: What is asked for.
      clip: Size of the model's clips.
      sample_rate_hz: Of the sound that the tokenizer takes.
      num_samples: Of a whole clip.
      from_end: Whether the clip is the end of the file, unless the request says where it starts.
      estimator: Of flow and depth, `poet.data.structure.StructureEstimator`; None takes OpenCV's
        flow.

    Raises:
      ValueError: A file cannot be read or holds too little, naming it.
    """
    notes: list[str] = []
    picture, needs_clip, needs_sound = needs(task)
    frames: dict[str, np.ndarray] = {}
    start_s = ask.start_s or 0.0
    if needs_clip:
        counted = [part for part in task.inputs if part.kind == "visual" and part.stop != 1]
        count = clip.frames_of(max(part.stop or clip.latent_frames for part in counted))
        whole, start_s = _clip_frames(ask, clip, count, from_end, notes)
        frames["visual"] = whole
        frames |= _conditions(ask, task, clip, whole, start_s, estimator)
    if picture and (ask.image or not needs_clip):
        frames["visual"] = _first_frame(ask, clip, start_s, notes)
    used = {part.field for part in task.inputs}
    frames = {field: pixels for field, pixels in frames.items() if field in used}
    sound = None
    if needs_sound:
        sound = _sound(ask, start_s, sample_rate_hz, num_samples, notes)
    return Given(frames=frames, sound=sound, notes=tuple(notes))


def derived(
    ask: Ask, task: Task, clip: ClipShape, frames: UInt8[np.ndarray, "T Y X 3"], estimator: Any
) -> dict[str, np.ndarray]:
    """The masked clip or the structure of frames that were made before, for the next task."""
    return _conditions(ask, task, clip, frames, 0.0, estimator)


def _conditions(
    ask: Ask, task: Task, clip: ClipShape, frames: np.ndarray, start_s: float, estimator: Any
) -> dict[str, np.ndarray]:
    found = {}
    fields = {part.field for part in task.inputs}
    if "masked" in fields:
        found["masked"] = _hidden(ask, task, clip, frames)
    if "structure" in fields:
        from poet.data import structure

        estimator = estimator or structure.EstimatedStructure()
        found["structure"] = structure.pack(*estimator(frames, ask.facts, start_s))
    return found


def _first_frame(ask: Ask, clip: ClipShape, start_s: float, notes: list[str]) -> np.ndarray:
    from poet.media import images, video

    path = ask.image or ask.video
    if Path(path).suffix.lower() in images.IMAGE_SUFFIXES:
        notes.append(_fitted(path, images.image_size(path), clip))
        return images.read_image(path, clip.height_px, clip.width_px)[None]
    frames = video.read_video(
        path, clip.frames_per_second, clip.height_px, clip.width_px, start_s=start_s, num_frames=1
    )
    notes.append(f"{_size_note(path, clip)}; the frame at {start_s:g} s")
    return frames


def _clip_frames(
    ask: Ask, clip: ClipShape, count: int, from_end: bool, notes: list[str]
) -> tuple[np.ndarray, float]:
    """(frames, where they begin): exactly ``count``, the last one held where the file is short."""
    from poet.media import images, video

    path, rate = ask.video, clip.frames_per_second
    if Path(path).suffix.lower() in images.IMAGE_SUFFIXES:
        raise ValueError(f"{path} is a picture, but the task is given a clip of {count} frames.")
    start_s = ask.start_s or 0.0
    if from_end and ask.start_s is None:
        stream = video.stream_frames(path, rate, clip.height_px, clip.width_px)
        kept: collections.deque = collections.deque(maxlen=count)
        total = 0
        for frame in stream:
            kept.append(frame)
            total += 1
        start_s = max(0, total - count) / rate
        frames = np.stack(kept)
    else:
        frames = video.read_video(
            path, rate, clip.height_px, clip.width_px, start_s=start_s, num_frames=count
        )
    note = f"{_size_note(path, clip)}; {rate:g} frames a second from {start_s:g} s"
    if len(frames) < count:
        if len(frames) < 2:
            raise ValueError(
                f"{path} gives {len(frames)} frame at {rate:g} frames a second from {start_s:g} s,"
                f" but the task is given {count}; take a longer clip or an earlier start."
            )
        note += f"; its {len(frames)} frames are {count - len(frames)} short, the last one is held"
        frames = np.concatenate([frames, np.repeat(frames[-1:], count - len(frames), axis=0)])
    notes.append(note)
    return frames, start_s


def _sound(
    ask: Ask, start_s: float, sample_rate_hz: int, num_samples: int, notes: list[str]
) -> Float[np.ndarray, "S"]:
    """Exactly the clip's length; silence where the file is short."""
    from poet.media import images, sound

    path = ask.audio or ask.video
    if Path(path).suffix.lower() in images.IMAGE_SUFFIXES:
        raise ValueError(f"{path} is a picture and has no sound; give --audio.")
    heard = sound.read_sound(
        path, sample_rate_hz, start_s=start_s, duration_s=num_samples / sample_rate_hz
    )[:num_samples]
    if not len(heard):
        raise ValueError(f"{path} has no sound from {start_s:g} s on; take an earlier start.")
    note = f"{path}: sound from {start_s:g} s, mono at {sample_rate_hz} Hz"
    if len(heard) < num_samples:
        missing = (num_samples - len(heard)) / sample_rate_hz
        note += f", {missing:.2f} s of silence at its end"
        heard = np.pad(heard, (0, num_samples - len(heard)))
    notes.append(note)
    return heard


def _check_region(ask: Ask) -> None:
    from poet.data import masking
    from poet.media import images

    if not ask.mask or Path(ask.mask).suffix.lower() in images.IMAGE_SUFFIXES:
        return
    if ask.mask not in masking.REGIONS:
        raise ValueError(
            f"--mask {ask.mask!r} is neither a picture nor a region; regions are"
            f" {', '.join(masking.REGIONS)}."
        )


def _hidden(ask: Ask, task: Task, clip: ClipShape, frames: np.ndarray) -> np.ndarray:
    from poet.data import masking

    kind = task.name.removesuffix("_with_text")
    mask = ask.mask or _DEFAULT_REGIONS[kind]
    if mask in masking.REGIONS:
        return masking.hide(frames, mask, clip.frames_per_token)
    hidden = _mask_picture(ask, clip)
    # As the region that hides a box: black.
    return np.where(hidden[None, :, :, None], np.uint8(0), frames)


def _mask_picture(ask: Ask, clip: ClipShape) -> Bool[np.ndarray, "Y X"]:
    """True where the mask is white; cut and resized as its clip."""
    from poet.media import images, video

    size = images.image_size(ask.mask)
    sizes = {(clip.height_px, clip.width_px)}
    if ask.video:
        facts = video.probe(ask.video)
        sizes.add((facts.height_px, facts.width_px))
    if size not in sizes:
        known = " or ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise ValueError(
            f"The mask {ask.mask} is {size[1]} x {size[0]} px, but its clip is {known}; draw it"
            " over a frame of the clip, white where something is hidden."
        )
    pixels = images.read_image(ask.mask, clip.height_px, clip.width_px)
    hidden = pixels.mean(axis=-1) > 127
    if not hidden.any() or hidden.all():
        share = "everything" if hidden.all() else "nothing"
        raise ValueError(f"The mask {ask.mask} hides {share}; white is hidden, black is kept.")
    return hidden


def _fitted(path: str, size: tuple[int, int], clip: ClipShape) -> str:
    """What cutting and resizing does to a picture of this (height, width)."""
    height, width = size
    scale = min(height / clip.height_px, width / clip.width_px)
    cut = (round(clip.width_px * scale), round(clip.height_px * scale))
    words = f"{path}: {width} x {height}"
    if cut != (width, height):
        words += f", cut to {cut[0]} x {cut[1]} around its middle"
    if cut != (clip.width_px, clip.height_px):
        words += f", resized to {clip.width_px} x {clip.height_px}"
    return words


def _size_note(path: str, clip: ClipShape) -> str:
    from poet.media import video

    facts = video.probe(path)
    return _fitted(path, (facts.height_px or 1, facts.width_px or 1), clip)


def encode(engine: Any, givens: Sequence[Given]) -> dict[str, np.ndarray]:
    """Codes of a batch of what was given; all have the same fields."""
    fields = {name: np.stack([g.codes[name] for g in givens]) for name in givens[0].codes}
    fields |= {
        field: engine.encode_video(np.stack([g.frames[field] for g in givens]) / np.float32(255))
        for field in givens[0].frames
    }
    if givens[0].sound is not None:
        fields["audio"] = engine.encode_sound(np.stack([g.sound for g in givens]))
    return fields
