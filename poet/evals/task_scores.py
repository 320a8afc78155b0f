"""Every task that can be asked of a checkpoint, scored by the exact checker of the shapes world.

Each task answers the first clips of a split in file order; what the answer must show follows from
the clip's law. docs/shapes_world.md states the checker's criteria.

Axes: T frames, Y rows, X columns, S samples.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poet.data import masking
from poet.evals import decode_times, shapes_scores
from poet.media import sound as sound_files
from poet.media import video as video_files
from poet.shapes_world import captions, checker, world
from poet.shapes_world.files import read_specs

# Three pixels of a picture of 64.
_NEAR_W = 3 / 64
_LONG_S = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """One file that was made.

    Attributes:
      spec: The clip it was asked after.
      prompt: The words it was asked with.
      frames: uint8 [T, Y, X, 3] at 8 frames a second, of the model's size.
      found: What the checker sees and hears.
      wanted: Words that the answer should show, where they are not the clip's.
      original: uint8 [T, Y, X, 3], the clip as it was given, at the answer's size.
    """

    spec: world.ClipSpec
    prompt: str
    frames: np.ndarray
    found: checker.Finding
    wanted: Mapping[str, str]
    original: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """How one task is asked for and scored.

    Attributes:
      task: Word or name.
      fields: What a request takes from the clip: any of "prompt", "image", "video", "audio".
      scores: Name -> (answer -> True, False, or None where the clip does not count).
      settings: Further fields of the request and of the job.
      recolours: Whether the words ask for another colour than the clip's.
    """

    task: str
    fields: tuple[str, ...]
    scores: Mapping[str, Callable[[Answer], bool | None]]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recolours: bool = False


def _same(*names: str) -> Callable[[Answer], bool]:
    def is_same(answer: Answer) -> bool:
        return all(
            getattr(answer.found, name) == answer.wanted.get(name, getattr(answer.spec, name))
            for name in names
        )

    return is_same


def _speed(answer: Answer) -> bool | None:
    return _same("speed")(answer) if answer.spec.motion in world.DIRECTIONS else None


def _law(answer: Answer) -> bool:
    return answer.found.motion != world.NONE


def _heard(answer: Answer) -> bool:
    found = answer.found
    return found.colour != world.NONE and found.colour_heard == found.colour


def _distances(answer: Answer) -> np.ndarray:
    """Of every frame's shape from its place by the clip's law, in widths; infinite for no shape."""
    times_s = world.frame_times_s(len(answer.frames))
    distance = np.linalg.norm(answer.found.centres - _places(answer.spec, times_s), axis=1)
    return np.where(np.isnan(distance), np.inf, distance)


def _places(spec: world.ClipSpec, times_s: np.ndarray) -> np.ndarray:
    """Centres [T, 2] by the clip's law."""
    x, y = world.centre_at(spec, times_s)
    return np.stack([np.broadcast_to(x, times_s.shape), np.broadcast_to(y, times_s.shape)], axis=-1)


def _law_from(frame: int) -> Callable[[Answer], bool]:
    def in_bounds(answer: Answer) -> bool:
        return bool((_distances(answer)[frame:] <= checker.CONTINUATION_BOUND_W).all())

    return in_bounds


def _near(is_counted: Callable[[np.ndarray], np.ndarray]) -> Callable[[Answer], bool | None]:
    """Mean distance within three of 64 px, over the frames whose true centre counts."""

    def near(answer: Answer) -> bool | None:
        times_s = world.frame_times_s(len(answer.frames))
        places = _places(answer.spec, times_s)
        counted = is_counted(places)
        return bool(_distances(answer)[counted].mean() <= _NEAR_W) if counted.any() else None

    return near


def _in_middle(centres: np.ndarray) -> np.ndarray:
    return np.all((centres >= 0.25) & (centres < 0.75), axis=-1)


def _in_middle_for_a_while(centres: np.ndarray) -> np.ndarray:
    """Nothing of shapes hidden in all but three frames or fewer: who could know?"""
    inside = _in_middle(centres)
    return inside & (np.sum(~inside) > 3)


def _keeps_given(answer: Answer) -> bool:
    """20 dB or more between answer and clip in what was not hidden."""
    seen = masking.visible("outpaint_central", answer.original.shape[:3])
    error = (answer.frames.astype(np.float64) - answer.original)[seen] / 255
    return -10 * np.log10(max((error**2).mean(), 1e-10)) >= 20.0


_PICTURE = {"shape and colour": _same("shape", "colour")}
_WORDS = _PICTURE | {"motion": _same("motion"), "speed": _speed}

TRIALS = (
    Trial(task="text_to_image", fields=("prompt",), scores=_PICTURE),
    Trial(task="text_to_video", fields=("prompt",), scores=_WORDS),
    Trial(
        task="image_to_video",
        fields=("prompt", "image"),
        scores=_PICTURE | {"motion": _same("motion")},
    ),
    Trial(
        task="continue",
        fields=("video",),
        scores={"law over 2 s": _law_from(9)},
        settings={"start_s": 0.0},
    ),
    Trial(
        task="continue",
        fields=("video",),
        scores={"law over 5 s": _law_from(9)},
        settings={"start_s": 0.0, "seconds": _LONG_S},
    ),
    Trial(
        task="inpaint",
        fields=("video",),
        scores={"hidden place within 3 of 64 px": _near(_in_middle_for_a_while)},
    ),
    Trial(
        task="outpaint",
        fields=("video",),
        scores={
            "given part kept (20 dB)": _keeps_given,
            "seen place within 3 of 64 px": _near(_in_middle),
        },
    ),
    Trial(
        task="stylize",
        fields=("prompt", "video"),
        scores={
            "new colour": _same("colour"),
            "motion kept": _same("motion"),
            "both": _same("colour", "motion"),
        },
        recolours=True,
    ),
    Trial(
        task="audio_to_video",
        fields=("audio",),
        scores={"colour of the pitch": _same("colour"), "a law": _law},
    ),
    Trial(
        task="video_to_audio",
        fields=("video",),
        scores={"pitch of the colour": _heard},
        settings={"temperature": 0.7},
    ),
    Trial(
        task="continue_with_sound",
        fields=("video", "audio"),
        scores={"law over 2 s": _law_from(9), "pitch of the colour": _heard},
        settings={"start_s": 0.0},
    ),
    Trial(
        task="text_to_video_with_sound",
        fields=("prompt",),
        scores=_WORDS | {"pitch of the colour": _heard},
    ),
    Trial(task="unconditional", fields=(), scores={"a law": _law}),
)
# Of these the sound is made or given, and clicks are compared with the picture's wall hits.
_WITH_CLICKS = (
    "audio_to_video",
    "video_to_audio",
    "continue_with_sound",
    "text_to_video_with_sound",
)


def run(
    engine: Any,
    clips: Path,
    out: Path,
    sampling: Any,
    *,
    tasks: Sequence[str] = (),
    split: str = "validation",
    count: int = 64,
    say: Callable[[str], None] = print,
) -> dict[str, list[dict[str, Any]]]:
    """Asks for everything and scores it.

    Args:
      engine: A `poet.sample.engine.Engine`.
      clips: Folder of `poet render`.
      out: Folder for the files; a run that was stopped goes on.
      sampling: A `SamplingRequest`; guidance is left out where there are no words.
      tasks: Words of `TRIALS`; all if empty.
      split: Of the clips.
      count: First so many clips in file order.
      say: Told what is being done.

    Returns:
      "rows", one a score, and "decoding", the fastest batch of each program with its passes and
      seconds (see `decode_times`).
    """
    known = list(dict.fromkeys(trial.task for trial in TRIALS))
    if unknown := sorted(set(tasks) - set(known)):
        raise ValueError(f"Expected tasks among {', '.join(known)}, got {', '.join(unknown)}.")
    specs = [
        (clips / file, spec)
        for file, spec in read_specs(clips / "manifest.tsv").items()
        if spec.split == split
    ][:count]
    if not specs:
        raise ValueError(f"Expected clips of split {split!r} in {clips}, found none.")
    rows, decoding = [], []
    for trial in TRIALS:
        if tasks and trial.task not in tasks:
            continue
        say(f"{trial.task} {' '.join(f'{k}={v}' for k, v in trial.settings.items())}")
        with decode_times.watch(engine) as calls:
            answers = _answers(engine, trial, specs, out, sampling)
        times = decode_times.remembered(_folder(trial, out) / "decoding.json", engine, calls)
        decoding += [{"asked": _asked(trial), **row} for row in times]
        rows += _scores(trial, answers)
    return {"rows": rows, "decoding": decoding}


def _folder(trial: Trial, out: Path) -> Path:
    seconds = trial.settings.get("seconds")
    return out / (trial.task + (f"_{seconds:g}s" if seconds else ""))


def _asked(trial: Trial) -> str:
    seconds = trial.settings.get("seconds")
    return trial.task + (f", {seconds:g} s" if seconds else "")


def _answers(engine: Any, trial: Trial, specs: Any, out: Path, sampling: Any) -> list[Answer]:
    from poet.data.structure import ExactStructure
    from poet.sample import jobs

    settings = dict(trial.settings)
    sampling = dataclasses.replace(
        sampling,
        guidance=sampling.guidance if "prompt" in trial.fields else 1.0,
        temperature=settings.pop("temperature", sampling.temperature),
    )
    seconds = settings.pop("seconds", 0.0)
    folder = _folder(trial, out)
    job = jobs.Job(task=trial.task, sampling=sampling, out=folder, seconds=seconds, overwrite=True)
    asks, wanted = [], []
    for number, (path, spec) in enumerate(specs):
        prompt, words = spec.caption, {}
        if trial.recolours:
            prompt, words = _recoloured(spec, number)
        facts = {name: getattr(spec, name) for name in _LAW_FIELDS}
        given = {name: str(path) for name in trial.fields if name != "prompt"}
        given |= {"prompt": prompt} if "prompt" in trial.fields else {}
        if "image" in given:
            given["video"] = given.pop("image")  # its first frame
        fields = {"name": spec.clip_id.replace("/", "_"), "number": number, "facts": facts}
        asks.append(jobs.Ask(**fields, **given, **settings))
        wanted.append(words)
    made = jobs.run(engine, job, asks, estimator=ExactStructure())
    return [
        _answer(folder / row["file"], row["scale"], path, spec, ask, words)
        for row, (path, spec), ask, words in zip(made, specs, asks, wanted, strict=True)
    ]


_LAW_FIELDS = ("shape", "colour", "motion", "speed", "start_x", "start_y")


def _recoloured(spec: world.ClipSpec, number: int) -> tuple[str, dict[str, str]]:
    colours = list(world.PITCH_HZ)
    colour = colours[(colours.index(spec.colour) + 1 + number % (len(colours) - 1)) % len(colours)]
    words = captions.caption(
        spec.shape, colour, spec.motion, spec.speed, np.random.default_rng(number)
    )
    return words, {"colour": colour}


def _answer(
    made: Path, scale: int, path: Path, spec: Any, ask: Any, words: Mapping[str, str]
) -> Answer:
    from poet.media import images

    if made.suffix == ".png":
        frames = np.repeat(images.read_image(made)[None], 2, axis=0)
        heard = None
    else:
        frames = video_files.read_video(made, world.FRAMES_PER_SECOND)
        heard = None
        if sound_files.has_sound(made):
            heard = sound_files.read_sound(made, world.SAMPLE_RATE_HZ)
    # Checked as it is shown, compared with the clip at the model's own size.
    found, frames = checker.check(frames, heard), frames[:, ::scale, ::scale]
    height, width = frames.shape[1:3]
    original = video_files.read_video(path, world.FRAMES_PER_SECOND, height, width)
    return Answer(
        spec=spec,
        prompt=ask.prompt,
        frames=frames,
        found=found,
        wanted=words,
        original=original,
    )


def _scores(trial: Trial, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    rows = []
    seconds = trial.settings.get("seconds")
    task = _asked(trial)
    for name, is_right in trial.scores.items():
        counted = [value for value in map(is_right, answers) if value is not None]
        if counted:
            rows.append({"task": task, "score": name, **shapes_scores.proportion(counted)})
    if trial.task in _WITH_CLICKS:
        found = shapes_scores.click_f1([answer.found for answer in answers])
        rows.append({"task": task, "score": "clicks and wall hits (F1)", **found})
    if seconds:
        distances = np.stack([_distances(answer) for answer in answers])
        for second in range(1, int(seconds)):
            part = distances[:, 8 * second : 8 * (second + 1)]
            rows.append(
                {
                    "task": task,
                    "score": f"median distance from the law at {second} to {second + 1} s, widths",
                    **shapes_scores.mean([float(np.median(part))]),
                }
            )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| task | score | value | 95 % | clips |", "|---|---|---|---|---|"]
    for row in rows:
        spread = f"{row['low']:.3f} to {row['high']:.3f}" if row["clips"] > 1 else ""
        lines.append(
            f"| {row['task']} | {row['score']} | {row['value']:.3f} | {spread} | {row['clips']} |"
        )
    return "\n".join(lines) + "\n"
