"""Metrics whose networks a person brings: FVD, KVD, Inception Score, FAD, CLIPSIM, consistency.

Weights are files of `poet.evals.metric_weights` (CLIP: also Hugging Face's folder). Which file it
was belongs to the protocol: other weights give other numbers.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from poet.evals import distance_metrics, metric, metric_weights, sound_metrics
from poet.evals.metric import Case, Metric, Needs, Source

_SHA_DIGITS = 12
# End of a metric's name -> how clips become I3D's pictures (`i3d.I3DFeatures`). Papers differ.
_RESIZES = {
    "": "squash_tf1",
    "_via_64": "squash_64_tf1",
    "_half_pixel": "squash_half_pixel",
    "_crop": "crop_half_pixel",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkMetrics:
    """Metrics that one network gives.

    Attributes:
      kind: Of the weights, as `--weights` names them.
      names: Of the metrics.
      build: (file, names of those that are wanted, clips seen at once) -> metrics.
    """

    kind: metric_weights.Kind
    names: tuple[str, ...]
    build: Callable[[Path, Collection[str], int], list[Metric]]


def metrics(weights: Mapping[str, Path], wanted: Collection[str], batch_size: int) -> list[Metric]:
    """Those of the wanted metrics that need a network.

    Args:
      weights: Kind -> file.
      wanted: Names of metrics; others than ours are left alone.
      batch_size: Clips that a network sees at once.

    Raises:
      ValueError: No weights for one that is wanted (says which file to get), or wrong ones.
    """
    kinds = [network.kind for network in NETWORKS]
    for kind in weights:
        if kind not in kinds:
            raise ValueError(
                f"--weights {kind}=... is none of {', '.join(kinds)}, and no plug-in asks for it."
            )
    found = []
    for network in NETWORKS:
        mine = [name for name in network.names if name in wanted]
        if mine and network.kind not in weights:
            files = "; ".join(map(str, metric_weights.PUBLIC_FILES[network.kind]))
            raise ValueError(
                f"{mine[0]} needs the weights of {network.kind}, and none were given: get one of"
                f" {files}, convert it with tools/convert_metric_weights.py, and pass"
                f" --weights {network.kind}=FILE (in gin, WEIGHTS={{'{network.kind}': 'FILE'}})."
            )
        if mine:
            found += network.build(weights[network.kind], mine, batch_size)
    return [each for each in found if each.name in wanted]


def _identity(about: Mapping[str, str], kind: str) -> str:
    return f"{kind}-{about['weights_sha256'][:_SHA_DIGITS]}"


def _i3d(path: Path, wanted: Collection[str], batch_size: int) -> list[Metric]:
    from poet.evals import extractors, i3d

    found = []
    for ending, resize in _RESIZES.items():
        if not {f"fvd{ending}", f"kvd{ending}"} & {*wanted}:
            continue
        extractor, about = extractors.i3d_features(path, resize=resize)
        needs = Needs(num_frames=(i3d.MIN_FRAMES, float("inf")))
        source = distance_metrics.feature_source(
            f"i3d_{resize}", extractor, batch_size, needs, about
        )
        seen = f"{_identity(about, 'i3d')}-logits/{resize}"
        found += [
            distance_metrics.frechet_metric(f"fvd{ending}", seen, source),
            distance_metrics.kernel_metric(f"kvd{ending}", seen, source),
        ]
    return found


def _c3d(path: Path, wanted: Collection[str], batch_size: int) -> list[Metric]:
    from poet.evals import c3d, extractors

    del wanted
    extractor, about = extractors.c3d_logits(path)
    source = distance_metrics.feature_source(
        "c3d",
        extractor,
        batch_size,
        Needs(num_frames=(c3d.NUM_FRAMES, c3d.NUM_FRAMES)),
        about,
        sides=("generated",),
    )
    seen = f"{_identity(about, 'c3d')}/squash112-corners"
    return [
        Metric(name="is", protocol=f"is/{seen}/1-split", source=source, summary="inception"),
        Metric(
            name="is_10_splits",
            protocol=f"is/{seen}/10-splits",
            source=source,
            summary="inception_10_splits",
        ),
    ]


def _vggish(path: Path, wanted: Collection[str], batch_size: int) -> list[Metric]:
    from poet.evals import extractors

    del wanted, batch_size
    extractor, about = extractors.vggish_features(path)
    source = sound_metrics.fad_source("vggish", extractor, about)
    seen = f"{_identity(about, 'vggish')}-no-pca-no-relu/{sound_metrics.FAD_PROTOCOL}"
    return [distance_metrics.frechet_metric("fad", seen, source)]


def _clip(path: Path, wanted: Collection[str], batch_size: int) -> list[Metric]:
    from poet.evals import clip_scorer, embedding_scores

    del wanted, batch_size
    scorer, about = clip_scorer.load(path)
    seen = _identity(about, "clip")

    def similar(case: Case) -> tuple[float, float]:
        words = scorer.caption_features([case.clip.caption])
        frames = scorer.frame_features(case.clip.frames[None])
        return float(embedding_scores.text_similarity(frames, words)[0]), 1.0

    def consistent(pairs) -> Callable[[Case], tuple[float, float]]:
        def score(case: Case) -> tuple[float, float]:
            frames = scorer.frame_features(case.clip.frames[None])
            return float(embedding_scores.frame_consistency(frames, pairs=pairs)[0]), 1.0

        return score

    several = Needs(num_frames=(2, float("inf")))
    table = (
        ("clipsim", "cosine-of-each-frame-and-caption", similar, Needs(has_captions=True)),
        ("clip_consistency", "consecutive-frames", consistent("consecutive"), several),
        ("clip_consistency_all", "all-pairs-of-frames", consistent("all"), several),
    )
    return [
        Metric(
            name=name,
            protocol=f"{name}/{seen}/{what}",
            source=Source(name=name, rows=metric.score_rows(score), needs=needs, about=about),
        )
        for name, what, score, needs in table
    ]


NETWORKS: Sequence[NetworkMetrics] = (
    NetworkMetrics(
        kind="i3d",
        names=tuple(f"{name}{ending}" for ending in _RESIZES for name in ("fvd", "kvd")),
        build=_i3d,
    ),
    NetworkMetrics(kind="c3d", names=("is", "is_10_splits"), build=_c3d),
    NetworkMetrics(
        kind="clip", names=("clipsim", "clip_consistency", "clip_consistency_all"), build=_clip
    ),
    NetworkMetrics(kind="vggish", names=("fad",), build=_vggish),
)
