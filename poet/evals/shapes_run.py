"""Measures files of the shapes world: the checker itself, the tokenizers, and generated clips.

Everything is read back from the files that a person would play, never from arrays.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from poet.evals import shapes_scores
from poet.media import sound as sound_files
from poet.media import video as video_files
from poet.shapes_world import checker, files, world

_BATCH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapesEvaluation:
    """What to measure.

    Attributes:
      clips: Folder of `poet render`; its held-out split measures checker and tokenizers.
      tokenizers: Folder with visual/ and audio/.
      samples: Folder with one folder a task of `poet generate`; None leaves them out.
      size_px: Height and width that the visual tokenizer sees.
      num_clips: At most so many held-out clips, in file order.
    """

    clips: Path
    tokenizers: Path
    samples: Path | None
    size_px: int
    num_clips: int = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Results.

    Attributes:
      scores: name -> {"value", "clips", "low", "high"}.
      chance: Prompt scores of a guess that does not know the prompt.
      shuffled: Prompt scores of the files against each other's prompts.
      findings: One row a generated file: what the checker saw and heard.
    """

    scores: dict[str, dict]
    chance: dict[str, float]
    shuffled: dict[str, float]
    findings: list[dict]


def measure(
    evaluation: ShapesEvaluation, say: Callable[[str], None] = lambda line: None
) -> Measured:
    """Reads the files, asks the checker, and returns all scores.

    Raises:
      ValueError: No held-out clips, no tokenizers, or samples of clips that `clips` does not hold.
    """
    specs = _held_out(evaluation.clips)[: evaluation.num_clips]
    say(f"checking {len(specs)} held-out clips as rendered")
    found = [_check_file(evaluation.clips / file) for file, _ in specs]
    scores = shapes_scores.score_checker([spec for _, spec in specs], found, "rendered")
    say(f"checking {len(specs)} held-out clips as the tokenizers give them back")
    scores |= _score_reconstructions(evaluation, specs)
    shuffled, rows = {}, []
    if evaluation.samples is not None:
        generated, shuffled, rows = _score_samples(evaluation.clips, evaluation.samples, say)
        scores |= generated
    return Measured(
        scores=scores, chance=shapes_scores.chance_levels(), shuffled=shuffled, findings=rows
    )


def _held_out(clips: Path) -> list[tuple[str, world.ClipSpec]]:
    specs = files.read_specs(clips / files.MANIFEST_NAME)
    held_out = [(file, spec) for file, spec in specs.items() if spec.split == "held_out"]
    if not held_out:
        raise ValueError(
            f"Expected held-out clips in {clips}, found none; render some with"
            " `poet render --num_held_out 100`."
        )
    return held_out


def _check_file(path: Path) -> checker.Finding:
    frames = video_files.read_video(path, world.FRAMES_PER_SECOND)
    heard = None
    if sound_files.has_sound(path):
        heard = sound_files.read_sound(path, world.SAMPLE_RATE_HZ)
    return checker.check(frames, heard)


def _score_reconstructions(
    evaluation: ShapesEvaluation, specs: Sequence[tuple[str, world.ClipSpec]]
) -> dict[str, dict]:
    """Held-out clips through both tokenizers and back."""
    from poet.tokenizers import protocol

    visual = protocol.load(evaluation.tokenizers / "visual")
    audio = protocol.load(evaluation.tokenizers / "audio")
    originals, rebuilt, findings, used = [], [], [], set()
    for batch in _batches(specs):
        paths = [evaluation.clips / file for file, _ in batch]
        frames = np.stack([_frames(path, evaluation.size_px) for path in paths])
        sounds = np.stack([_sound(path) for path in paths])
        codes = visual.encode(frames)
        pictures = np.asarray(visual.decode(codes))
        heard = _to_length(np.asarray(audio.decode(audio.encode(sounds))), world.NUM_SAMPLES)
        used |= set(np.unique(codes).tolist())
        originals += list(frames)
        rebuilt += list(pictures)
        findings += [
            checker.check(_bytes(picture), sound)
            for picture, sound in zip(pictures, heard, strict=True)
        ]
    words = [spec for _, spec in specs]
    scores = shapes_scores.score_reconstructions(words, originals, rebuilt)
    scores |= shapes_scores.score_checker(words, findings, "reconstructed")
    share = len(used) / visual.num_codes
    scores["codes_used"] = {"value": share, "clips": len(words), "low": share, "high": share}
    return scores


def _score_samples(
    clips: Path, made: Path, say: Callable[[str], None]
) -> tuple[dict[str, dict], dict[str, float], list[dict]]:
    """Scores of generated files against the clips they were asked after."""
    specs = {spec.clip_id: spec for spec in files.read_specs(clips / files.MANIFEST_NAME).values()}
    scores, shuffled, rows = {}, {}, []
    for task in ("text_to_video", "image_to_video", "future_prediction"):
        folder = made / task
        if not (folder / "samples.jsonl").exists():
            continue
        samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        say(f"checking {len(samples)} generated files of {task}")
        prompts = [_spec_of(specs, sample, folder) for sample in samples]
        findings = [_check_file(folder / sample["file"]) for sample in samples]
        rows += [_row(task, *both) for both in zip(samples, prompts, findings, strict=True)]
        if task == "text_to_video":
            scores |= shapes_scores.score_generated(prompts, findings)
            shuffled = shapes_scores.shuffled_scores(prompts, findings)
        elif task == "image_to_video":
            scores |= _score_moving_pictures(prompts, findings)
        else:
            scores |= shapes_scores.score_continuations(prompts, findings)
            hits = [any(hit_s > 1.0 for hit_s in world.hit_times_s(spec)) for spec in prompts]
            scores["continuation_has_hit"] = shapes_scores.proportion(hits)
    return scores, shuffled, rows


def _score_moving_pictures(
    prompts: Sequence[world.ClipSpec], findings: Sequence[checker.Finding]
) -> dict[str, dict]:
    """The picture's shape and colour are kept, and what they do is a law of the world."""
    return {
        "image_to_video_keeps_shape_and_colour": shapes_scores.proportion(
            [
                (f.shape, f.colour) == (p.shape, p.colour)
                for p, f in zip(prompts, findings, strict=True)
            ]
        ),
        "image_to_video_obeys_a_law": shapes_scores.proportion(
            [found.motion != world.NONE for found in findings]
        ),
    }


def _spec_of(specs: dict[str, world.ClipSpec], sample: dict, folder: Path) -> world.ClipSpec:
    if sample["name"] not in specs:
        raise ValueError(
            f"Expected {folder} to answer clips of the manifest, but {sample['name']!r} is not one;"
            " generate with --requests CLIPS/manifest.tsv and one sample a prompt."
        )
    return specs[sample["name"]]


def _row(task: str, sample: dict, spec: world.ClipSpec, found: checker.Finding) -> dict:
    return {
        "task": task,
        "file": sample["file"],
        "prompt": spec.caption,
        "asked": [spec.shape, spec.colour, spec.motion, spec.speed],
        "seen": [found.shape, found.colour, found.motion, found.speed],
        "heard": found.colour_heard,
        "clicks_s": [round(float(t), 4) for t in found.click_times_s],
        "hits_s": [round(float(t), 4) for t in found.hit_times_s],
        "reason": found.reason,
    }


def _frames(path: Path, size_px: int) -> np.ndarray:
    frames = video_files.read_video(
        path, world.FRAMES_PER_SECOND, size_px, size_px, num_frames=world.NUM_FRAMES
    )
    return frames.astype(np.float32) / np.float32(255)


def _sound(path: Path) -> np.ndarray:
    sound = sound_files.read_sound(path, world.SAMPLE_RATE_HZ)
    return _to_length(sound[None], world.NUM_SAMPLES)[0]


def _to_length(sounds: np.ndarray, num_samples: int) -> np.ndarray:
    """Sounds [B, S] cut or continued by silence to [B, num_samples]."""
    missing = max(0, num_samples - sounds.shape[1])
    return np.pad(sounds[:, :num_samples], ((0, 0), (0, missing)))


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.round(255 * np.clip(picture, 0.0, 1.0)).astype(np.uint8)


def _batches(items: Sequence) -> Iterable[Sequence]:
    return (items[i : i + _BATCH] for i in range(0, len(items), _BATCH))
