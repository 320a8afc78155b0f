"""The metrics by name, families of them, and which of them two folders allow."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from poet.evals import (
    distance_metrics,
    network_metrics,
    picture_metrics,
    shapes_metrics,
    sound_metrics,
)
from poet.evals.metric import Metric
from poet.evals.plugins import Plugins

ALL = "all"
# Names that stand for all metrics which begin so.
FAMILIES = ("frechet_toy", "kvd_toy", "shapes")


def weight_free(batch_size: int = 8) -> dict[str, Metric]:
    """Name -> metric, of all that need no network; extractors see so many clips at once."""
    found = [
        *picture_metrics.metrics(),
        *sound_metrics.metrics(),
        *distance_metrics.metrics(batch_size),
        *shapes_metrics.metrics(),
    ]
    return {metric.name: metric for metric in found}


def known_names() -> list[str]:
    """All that `choose` takes, families included."""
    networks = [name for network in network_metrics.NETWORKS for name in network.names]
    return [ALL, *FAMILIES, *weight_free(), *networks]


def choose(
    names: Sequence[str],
    weights: Mapping[str, Path] | None = None,
    batch_size: int = 8,
    plugins: Plugins | None = None,
) -> list[Metric]:
    """Metrics of these names in the registry's order, each once; networks of ours come last.

    Args:
      names: Of metrics and families; "all" is every metric without a network of ours.
      weights: Kind of a network -> its file.
      batch_size: Clips that an extractor sees at once.
      plugins: What a person brings.

    Raises:
      ValueError: An unknown name, a network's metric without its weights, or a plug-in's metric of
        a name of ours.
    """
    plugins = plugins or Plugins()
    brought = {metric.name: metric for metric in plugins.metrics}
    known = known_names()
    if taken := [name for name in brought if name in known]:
        raise ValueError(f"A plug-in's metric is called {taken[0]} as one of ours; rename it.")
    unknown = [name for name in names if name not in (*known, *brought)]
    if unknown or not names:
        raise ValueError(
            f"Expected metrics among {', '.join([*known, *brought])}; got"
            f" {', '.join(unknown) or 'none'}."
        )
    if batch_size < 1:
        raise ValueError(f"Expected a batch of at least 1 clip, got batch_size={batch_size}.")
    free = weight_free(batch_size) | brought
    wanted = {
        metric
        for name in names
        for metric in (free if name == ALL else _members(name, free) or [name])
    }
    found = [metric for name, metric in free.items() if name in wanted]
    # A kind that only a plug-in knows is not an unknown one.
    theirs = plugins.kinds - {network.kind for network in network_metrics.NETWORKS}
    ours = {kind: path for kind, path in (weights or {}).items() if kind not in theirs}
    return found + network_metrics.metrics(ours, wanted, batch_size)


def _members(name: str, free: Mapping[str, Metric]) -> list[str]:
    if name not in FAMILIES:
        return []
    if name == "shapes":
        return [metric.name for metric in shapes_metrics.metrics()]
    return [metric for metric in free if metric.startswith(f"{name}_")]
