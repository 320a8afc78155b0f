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
    names: Sequence[str], weights: Mapping[str, Path] | None = None, batch_size: int = 8
) -> list[Metric]:
    """Metrics of these names in the registry's order, each once.

    Args:
      names: Of metrics and families; "all" is every metric without a network.
      weights: Kind of a network -> its file.
      batch_size: Clips that an extractor sees at once.

    Raises:
      ValueError: An unknown name, or a network's metric without its weights.
    """
    unknown = [name for name in names if name not in known_names()]
    if unknown or not names:
        raise ValueError(
            f"Expected metrics among {', '.join(known_names())}; got"
            f" {', '.join(unknown) or 'none'}."
        )
    if batch_size < 1:
        raise ValueError(f"Expected a batch of at least 1 clip, got batch_size={batch_size}.")
    free = weight_free(batch_size)
    wanted = {
        metric
        for name in names
        for metric in (free if name == ALL else _members(name, free) or [name])
    }
    found = [metric for name, metric in free.items() if name in wanted]
    return found + network_metrics.metrics(weights or {}, wanted, batch_size)


def _members(name: str, free: Mapping[str, Metric]) -> list[str]:
    if name not in FAMILIES:
        return []
    if name == "shapes":
        return [metric.name for metric in shapes_metrics.metrics()]
    return [metric for metric in free if metric.startswith(f"{name}_")]
