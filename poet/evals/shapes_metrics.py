"""The exact checker of the shapes world as metrics: words, sound, laws, drift, and a distance.

The words of a prompt are those of the real clip of the same name; only the metrics of continuation
compare places with it, since a shape that was asked for in words may start anywhere.
docs/shapes_world.md states the checker's criteria.
"""

from collections.abc import Callable, Sequence

import numpy as np

from poet.evals import metric, shapes_scores
from poet.evals.metric import Case, Metric, Needs, Source
from poet.shapes_world import checker, picture, world
from poet.typing import Float

# A continuation is given 9 of 17 frames.
FROM_FRAME = 9
_NUM_PLACES = 5
_LAWS = Needs(has_laws=True, num_frames=(5, float("inf")))
_LAWS_AND_SOUND = Needs(
    has_laws=True,
    sample_rates_hz=(world.SAMPLE_RATE_HZ,),
    num_frames=(5, float("inf")),
)
_CONTINUATIONS = Needs(has_laws=True, num_frames=(FROM_FRAME + 1, float("inf")))

# (is it right, does it count) of the words asked for and what the checker found.
_Answer = Callable[[world.ClipSpec, checker.Finding], tuple[bool, bool]]
_SEEN: dict[str, _Answer] = {
    "shape": lambda asked, found: (found.shape == asked.shape, True),
    "colour": lambda asked, found: (found.colour == asked.colour, True),
    "motion": lambda asked, found: (found.motion == asked.motion, True),
    "speed": lambda asked, found: (found.speed == asked.speed, asked.motion in world.DIRECTIONS),
    "all_words": lambda asked, found: (checker.picture_agrees(found, asked), True),
    "law": lambda asked, found: (found.motion != world.NONE, True),
}
_HEARD: dict[str, _Answer] = {
    "pitch": lambda asked, found: (found.colour_heard == asked.colour, True),
    "sound_picture": lambda asked, found: (
        found.colour != world.NONE and found.colour_heard == found.colour,
        True,
    ),
}


def metrics() -> list[Metric]:
    """All metrics of the family; their names begin with shapes_."""
    found = [_share(name, _answered(answer), _LAWS) for name, answer in _SEEN.items()]
    found += [_share(name, _answered(answer), _LAWS_AND_SOUND) for name, answer in _HEARD.items()]
    found += [
        _share("kept", _kept, _LAWS),
        _share("continuation", _continues, _CONTINUATIONS, f"/from-frame-{FROM_FRAME}"),
    ]
    found += [
        Metric(
            name="shapes_clicks",
            protocol="shapes_clicks/F1-pooled/60ms",
            source=_source("shapes_clicks", _clicks, _LAWS_AND_SOUND),
        ),
        Metric(
            name="shapes_drift",
            protocol="shapes_drift/last-quarter-less-first/W",
            source=_source("shapes_drift", _drift, _CONTINUATIONS),
            better="lower",
        ),
        Metric(
            name="frechet_shapes",
            protocol=f"frechet/shapes-factors{_num_factors()}",
            source=Source(
                name="shapes_factors", rows=_all_factors, sides=("real", "generated"), needs=_LAWS
            ),
            summary="frechet",
            better="lower",
        ),
    ]
    return found


def _share(name: str, score, needs: Needs, more: str = "") -> Metric:
    name = f"shapes_{name}"
    return Metric(
        name=name,
        protocol=f"{name}/checker{more}",
        source=_source(name, score, needs),
        is_share=True,
    )


def _source(name, score, needs) -> Source:
    return Source(name=name, rows=metric.score_rows(score), needs=needs)


def _answered(answer: _Answer) -> Callable[[Case], tuple[float, float]]:
    def score(case: Case) -> tuple[float, float]:
        is_right, counts = answer(case.clip.law, case.clip.finding)
        return float(is_right and counts), float(counts)

    return score


def _kept(case: Case) -> tuple[float, float]:
    """Whether the last half shows one shape of one colour, the same as the first half."""
    half = (len(case.clip.frames) + 1) // 2
    first, last = (picture.track(part) for part in _halves(case.clip.frames, half))
    is_kept = first.shape == last.shape != world.NONE and first.colour == last.colour != world.NONE
    return float(is_kept), 1.0


def _halves(frames, half: int):
    return frames[:half], frames[-half:]


def _continues(case: Case) -> tuple[float, float]:
    found = checker.continuation_in_bounds(case.clip.finding, case.clip.law, FROM_FRAME)
    return float(found), 1.0


def _clicks(case: Case) -> tuple[float, float]:
    matched, wrong, missed = shapes_scores.click_counts(case.clip.finding)
    return 2.0 * matched, 2.0 * matched + wrong + missed


def _drift(case: Case) -> tuple[float, float]:
    """How much further from the real clip's law the centre is at the end than at the beginning.

    A clip counts if its first and its last quarter show one shape in some frame.
    """
    centres = case.clip.finding.centres
    law = np.stack(world.centre_at(case.clip.law, world.frame_times_s(len(centres))), axis=1)
    distance = np.linalg.norm(centres - law, axis=1)
    quarter = max(1, len(centres) // 4)
    parts = [part[np.isfinite(part)] for part in (distance[:quarter], distance[-quarter:])]
    if not all(map(len, parts)):
        return 0.0, 0.0
    return float(parts[1].mean() - parts[0].mean()), 1.0


def _all_factors(cases: Sequence[Case]) -> list[np.ndarray]:
    return [factors(case.clip.finding)[None] for case in cases]


def factors(found: checker.Finding) -> Float[np.ndarray, "D"]:
    """A clip as numbers: what the world is made of instead of features of a network.

    In this order: x and y of the centre in W in 5 frames from the first to the last, half extent
    there, whether each of them shows one shape, the three bits of the colour, x and y of the
    velocity in the first frame in W a second. What a clip does not show is 0.
    """
    places = np.linspace(0, len(found.centres) - 1, _NUM_PLACES).round().astype(int)
    track = np.column_stack([found.centres, found.half_extents])[places]
    direction = world.DIRECTIONS.get(found.motion, (0, 0))
    return np.concatenate(
        [
            np.nan_to_num(track).ravel(),
            np.isfinite(track[:, 0]).astype(float),
            world.COLOUR_BITS.get(found.colour, (0, 0, 0)),
            np.multiply(direction, found.speed_w_per_s),
        ]
    ).astype(np.float64)


def _num_factors() -> int:
    return 4 * _NUM_PLACES + 3 + 2
