"""Scores of generated shapes-world clips from what the exact checker found in them.

Every score is {"value", "clips", "low", "high"} with a 95 % interval: Wilson's for proportions, the
normal one for means, the bootstrap over clips for F1. A prompt is the ClipSpec behind a caption;
only its words count, since a generated shape may start anywhere.

Axes: T frames, Y rows, X columns, C channels.
"""

from collections.abc import Callable, Sequence

import numpy as np

from poet.shapes_world import checker, render, world
from poet.typing import Float

CLICK_WINDOW_S = 0.06
MAX_PSNR_DB = 100.0

_Z95 = 1.959964
_NUM_RESAMPLES = 1_000

Score = dict[str, float | int]
Prompts = Sequence[world.ClipSpec]
Findings = Sequence[checker.Finding]

# name -> (is it right?, value of a blind guess). "none" never equals a prompt's word.
_PROMPT_SCORES: dict[str, tuple[Callable[[world.ClipSpec, checker.Finding], bool], float]] = {
    "shape_accuracy": (lambda prompt, found: found.shape == prompt.shape, 1 / len(world.SHAPES)),
    "colour_accuracy": (
        lambda prompt, found: found.colour == prompt.colour,
        1 / len(world.COLOURS),
    ),
    "direction_accuracy": (
        lambda prompt, found: found.motion == prompt.motion,
        1 / len(world.MOTIONS),
    ),
    "all_three_accuracy": (
        lambda prompt, found: (
            (found.shape, found.colour, found.motion)
            == (prompt.shape, prompt.colour, prompt.motion)
        ),
        1 / (len(world.SHAPES) * len(world.COLOURS) * len(world.MOTIONS)),
    ),
    "pitch_accuracy": (
        lambda prompt, found: found.colour_heard == prompt.colour,
        1 / len(world.COLOURS),
    ),
}


def score_generated(prompts: Prompts, findings: Findings) -> dict[str, Score]:
    """All scores of text-to-video clips with sound, prompt by prompt.

    shape, colour, direction (the six motions), all_three, pitch (against the prompt's colour),
    speed_accuracy (moving prompts only), sound_picture_agreement (the colour heard is the colour
    seen) and click_f1.
    """
    _check_lengths(prompts, findings)
    pairs = list(zip(prompts, findings, strict=True))
    scores = {
        name: proportion([is_right(*pair) for pair in pairs])
        for name, (is_right, _) in _PROMPT_SCORES.items()
    }
    moving = [pair for pair in pairs if pair[0].motion in world.DIRECTIONS]
    if moving:
        scores["speed_accuracy"] = proportion([found.speed == p.speed for p, found in moving])
    scores["sound_picture_agreement"] = proportion(
        [found.colour != world.NONE and found.colour_heard == found.colour for found in findings]
    )
    scores["click_f1"] = click_f1(findings)
    return scores


def score_continuations(
    specs: Prompts, findings: Findings, from_frame: int = 9
) -> dict[str, Score]:
    """continuation_in_bounds: clips whose every new centre is within 5 % of W of the true law."""
    _check_lengths(specs, findings)
    return {
        "continuation_in_bounds": proportion(
            [
                checker.continuation_in_bounds(found, spec, from_frame)
                for spec, found in zip(specs, findings, strict=True)
            ]
        )
    }


def score_reconstructions(
    specs: Prompts,
    originals: Sequence[Float[np.ndarray, "T Y X C"]],
    reconstructions: Sequence[Float[np.ndarray, "T Y X C"]],
) -> dict[str, Score]:
    """Mean PSNR of whole clips, and inside the box around the shape; pixels in [0, 1]."""
    _check_lengths(specs, originals)
    _check_lengths(specs, reconstructions)
    triples = list(zip(specs, originals, reconstructions, strict=True))
    return {
        "reconstruction_psnr_db": mean([psnr_db(a, b) for _, a, b in triples]),
        "reconstruction_psnr_in_box_db": mean([psnr_in_box_db(s, a, b) for s, a, b in triples]),
    }


def score_checker(specs: Prompts, findings: Findings, kind: str) -> dict[str, Score]:
    """How often the checker is right about clips whose law is known.

    checker_accuracy_KIND counts a clip if shape, colour, motion and speed are all right;
    checker_sound_accuracy_KIND, present if any clip had sound, if pitch and clicks are.
    """
    _check_lengths(specs, findings)
    pairs = list(zip(specs, findings, strict=True))
    scores = {
        f"checker_accuracy_{kind}": proportion(
            [checker.picture_agrees(found, spec) for spec, found in pairs]
        )
    }
    if any(found.pitch_hz is not None or found.click_times_s for found in findings):
        scores[f"checker_sound_accuracy_{kind}"] = proportion(
            [checker.sound_agrees(found, spec) for spec, found in pairs]
        )
    return scores


def chance_levels() -> dict[str, float]:
    """Score of a guess that is blind to the prompt, all words being equally likely."""
    return {name: chance for name, (_, chance) in _PROMPT_SCORES.items()}


def shuffled_scores(prompts: Prompts, findings: Findings) -> dict[str, float]:
    """Mean score of each clip against every other clip's prompt: what ignoring the prompt gets."""
    _check_lengths(prompts, findings)
    if len(prompts) < 2:
        raise ValueError("Shuffling needs at least 2 clips, got 1; generate more.")
    num_pairs = len(prompts) * (len(prompts) - 1)
    return {
        name: sum(
            is_right(prompt, found)
            for i, prompt in enumerate(prompts)
            for j, found in enumerate(findings)
            if i != j
        )
        / num_pairs
        for name, (is_right, _) in _PROMPT_SCORES.items()
    }


def click_f1(findings: Findings, window_s: float = CLICK_WINDOW_S) -> Score:
    """F1 of the clicks heard against the wall hits seen, pooled over clips.

    The expected times are those of the law fitted to the clip's own picture: the start of a
    generated shape is free, so the prompt does not tell them. A picture without a law has no
    hits, and each of its clicks is wrong. Without any hit and any click the value is 0.
    """
    if not findings:
        raise ValueError("click_f1 needs at least one clip, got none; generate some.")
    counts = np.array([click_counts(found, window_s) for found in findings], np.float64)
    rng = np.random.default_rng(0)
    resampled = counts[rng.integers(len(counts), size=(_NUM_RESAMPLES, len(counts)))].sum(axis=1)
    low, high = np.percentile(_f1(resampled), [2.5, 97.5])
    return _score(_f1(counts.sum(axis=0)), len(counts), low, high)


def click_counts(found: checker.Finding, window_s: float = CLICK_WINDOW_S) -> tuple[int, int, int]:
    """(hits with a click, clicks without a hit, hits without a click) of one clip."""
    hits, clicks = list(found.hit_times_s), list(found.click_times_s)
    near = sorted(
        (abs(hit_s - click_s), hit_s, click_s)
        for hit_s in hits
        for click_s in clicks
        if abs(hit_s - click_s) <= window_s
    )
    num_matched = 0
    for _, hit_s, click_s in near:
        if hit_s in hits and click_s in clicks:
            hits.remove(hit_s)
            clicks.remove(click_s)
            num_matched += 1
    # So near to the last frame the picture cannot tell on which side of its end a hit falls.
    end_s = world.LAST_FRAME_S - world.END_MARGIN_S
    missed = sum(hit_s < end_s for hit_s in hits)
    wrong = sum(not end_s <= click_s <= end_s + 2 * world.END_MARGIN_S for click_s in clicks)
    return num_matched, wrong, missed


def psnr_db(
    original: Float[np.ndarray, "T Y X C"], reconstruction: Float[np.ndarray, "T Y X C"]
) -> float:
    """Peak signal-to-noise ratio of one clip, pixels in [0, 1]; at most 100 dB."""
    return _psnr(((_float(original) - _float(reconstruction)) ** 2).mean())


def psnr_in_box_db(
    spec: world.ClipSpec,
    original: Float[np.ndarray, "T Y X C"],
    reconstruction: Float[np.ndarray, "T Y X C"],
) -> float:
    """As `psnr_db`, over the pixels of all frames that the box around the shape touches."""
    in_box = render.box_mask(spec, original.shape[1], len(original))
    return _psnr(((_float(original) - _float(reconstruction)) ** 2)[in_box].mean())


def proportion(is_right: Sequence[bool]) -> Score:
    """Share of true values with Wilson's 95 % interval."""
    num_clips = len(is_right)
    if not num_clips:
        raise ValueError("A score needs at least one clip, got none; generate some.")
    share = float(np.mean(is_right))
    shrink = 1 + _Z95**2 / num_clips
    middle = (share + _Z95**2 / (2 * num_clips)) / shrink
    spread = share * (1 - share) / num_clips + _Z95**2 / (4 * num_clips**2)
    half = _Z95 * np.sqrt(spread) / shrink
    low = middle - half if share > 0 else 0.0
    high = middle + half if share < 1 else 1.0
    return _score(share, num_clips, low, high)


def mean(values: Sequence[float]) -> Score:
    """Mean with the normal 95 % interval."""
    if not len(values):
        raise ValueError("A score needs at least one clip, got none; generate some.")
    value = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return _score(value, len(values), value - _Z95 * error, value + _Z95 * error)


def _f1(counts):
    matched, wrong, missed = counts[..., 0], counts[..., 1], counts[..., 2]
    return 2 * matched / np.maximum(1, 2 * matched + wrong + missed)


def _float(pixels) -> np.ndarray:
    if pixels.dtype.kind != "f":
        raise ValueError(f"PSNR expects float pixels in [0, 1], got {pixels.dtype}; divide by 255.")
    return np.asarray(pixels, np.float64)


def _psnr(mean_squared_error: float) -> float:
    return float(min(MAX_PSNR_DB, -10 * np.log10(max(mean_squared_error, 1e-12))))


def _score(value, clips: int, low, high) -> Score:
    return {"value": float(value), "clips": clips, "low": float(low), "high": float(high)}


def _check_lengths(prompts: Sequence, findings: Sequence) -> None:
    if len(prompts) != len(findings) or not len(prompts):
        raise ValueError(
            f"Scores need one clip for each prompt and at least one, got {len(prompts)} prompts "
            f"and {len(findings)} clips; check that every prompt was generated."
        )
