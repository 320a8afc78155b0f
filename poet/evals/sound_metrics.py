"""Metrics of sound that need no network: AV-Align, onset agreement, and FAD on toy features."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from poet.evals import av_align, frechet_audio, metric, onsets
from poet.evals.metric import Case, Metric, Needs, Source
from poet.evals.toy_features import SoundProjection

TOLERANCE_S = 0.05
_MOVING_SOUND = Needs(sample_rates_hz=(onsets.SAMPLE_RATE_HZ,), num_frames=(2, float("inf")))
_HEARD_PAIRS = Needs(has_pairs=True, sample_rates_hz=(onsets.SAMPLE_RATE_HZ,), is_seen=False)
_FAD_NEEDS = Needs(sample_rates_hz=(frechet_audio.SAMPLE_RATE_HZ,), is_seen=False)
# What Google's code does before its network; other tools differ.
FAD_PROTOCOL = "16kHz/peak-raised/1s-every-0.5s/log-mel64"


def metrics() -> list[Metric]:
    """AV-Align in both forms, onset agreement, FAD on toy features."""
    return [
        Metric(
            name="av_align",
            protocol="av_align/farneback/onsets-22050Hz/bounded",
            source=Source(
                name="av_align", rows=metric.score_rows(_align("bounded")), needs=_MOVING_SOUND
            ),
        ),
        Metric(
            name="av_align_published",
            protocol="av_align/farneback/onsets-22050Hz/published-unbounded",
            source=Source(
                name="av_align_published",
                rows=metric.score_rows(_align("published")),
                needs=_MOVING_SOUND,
            ),
        ),
        Metric(
            name="onset_agreement",
            protocol=f"onset_agreement/onsets-22050Hz/F1-pooled/{1000 * TOLERANCE_S:g}ms",
            source=Source(
                name="onset_agreement", rows=metric.score_rows(_onset_counts), needs=_HEARD_PAIRS
            ),
        ),
        Metric(
            name="fad_toy",
            protocol=f"frechet/toy-sound16-seed0/{FAD_PROTOCOL}",
            source=fad_source("toy_sound", SoundProjection()),
            summary="frechet",
            better="lower",
        ),
    ]


def fad_source(
    name: str, extractor: frechet_audio.SoundExtractor, about: Mapping[str, str] | None = None
) -> Source:
    """Features of each second of sound, every half second; clips under a second have no row."""

    def rows(cases: Sequence[Case]) -> list[np.ndarray]:
        found = []
        for case in cases:
            samples = case.clip.sounds[frechet_audio.SAMPLE_RATE_HZ]
            examples = frechet_audio.fad_examples(samples)
            # Networks cannot be asked about no example at all.
            empty = np.zeros((0, 0))
            found.append(np.asarray(extractor.features(examples)) if len(examples) else empty)
        return found

    sides = ("real", "generated")
    return Source(name=name, rows=rows, sides=sides, needs=_FAD_NEEDS, about=about or {})


def _align(form) -> Callable[[Case], tuple[float, float]]:
    def score(case: Case) -> tuple[float, float]:
        clip = case.clip
        peaks_s = av_align.motion_peaks_s(clip.flow_forth, clip.frames_per_second)
        found = av_align.alignment(clip.onsets_s, peaks_s, clip.frames_per_second, form=form)
        return found.score, 1.0

    return score


def _onset_counts(case: Case) -> tuple[float, float]:
    heard, real = case.clip.onsets_s, case.truth.onsets_s
    found = onsets.onset_agreement(heard, real, tolerance_s=TOLERANCE_S)
    return 2.0 * found.num_matched, float(found.num_found + found.num_expected)
