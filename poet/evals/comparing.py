"""Which differences between two results matter, by resampling their clips.

Where both results are of clips of the same names, a name is drawn for both: what one prompt has in
common with itself cancels. Else each result draws its own. Real clips are drawn alike in any case.
A difference matters if the middle 95 % of resampled differences leave out 0. One in twenty will
where there is none: who compares many metrics should ask for more than one of them.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from poet.evals import resampling, results
from poet.evals.results import Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """What lies between two results in one metric.

    Attributes:
      name: Of the metric.
      protocol: Of both.
      better: Which values are better.
      first, second: The values.
      low, high: 95 % interval of second - first.
      is_paired: Whether clips of the same names were drawn together.
    """

    name: str
    protocol: str
    better: str
    first: float
    second: float
    low: float
    high: float
    is_paired: bool

    @property
    def change(self) -> float:
        """second - first."""
        return self.second - self.first

    @property
    def matters(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    @property
    def verdict(self) -> str:
        """ "second is better", "first is better" or "no difference shown"."""
        if not self.matters:
            return "no difference shown"
        is_second = (self.change > 0) == (self.better == "higher")
        return f"{'second' if is_second else 'first'} is better"


def compare(
    first: Result, second: Result, *, names: Sequence[str] | None = None, seed: int = 0
) -> list[Difference]:
    """Differences in all metrics that both results have a value of.

    Args:
      first: What to compare with.
      second: What changed.
      names: Metrics to compare; None for all they share.
      seed: Of the resampling.

    Raises:
      ValueError: No metric in common, or different protocols in one.
    """
    shared = [name for name in first.facts["metrics"] if name in second.facts["metrics"]]
    if names is not None:
        lacking = [name for name in names if name not in shared]
        if lacking:
            raise ValueError(
                f"Expected {', '.join(lacking)} in both results, which share"
                f" {', '.join(shared) or 'no metric'}; measure them in both."
            )
        shared = [name for name in shared if name in names]
    if not shared:
        raise ValueError(
            "The two results share no metric: one has"
            f" {', '.join(first.facts['metrics'])}, the other {', '.join(second.facts['metrics'])}."
        )
    for name in shared:
        results.check_protocols({"the first": first.facts, "the second": second.facts}, name)
    return [
        _difference(first, second, name, seed)
        for name in shared
        if None not in (first.facts["metrics"][name]["mean"], second.facts["metrics"][name]["mean"])
    ]


def _difference(first: Result, second: Result, name: str, seed: int) -> Difference:
    entry = first.facts["metrics"][name]
    is_paired = _draw_alike(first, second)
    values = []
    for number, result in enumerate((first, second)):
        draws = resampling.resamples(
            result.groups,
            seed,
            is_paired=result.facts["is_paired"],
            stream=0 if is_paired else number,
        )
        count = resampling.num_resamples(entry["summary"])
        values.append(
            [
                np.mean(resampling.values_of(entry["summary"], *result.rows(name), drawn))
                for drawn in itertools.islice(draws, count)
            ]
        )
    one, two = first.facts["metrics"][name]["mean"], second.facts["metrics"][name]["mean"]
    low, high = resampling.interval_around(
        two - one, np.subtract(values[1], values[0]), entry["summary"]
    )
    return Difference(
        name=name,
        protocol=entry["protocol"],
        better=entry["better"],
        first=one,
        second=two,
        low=low,
        high=high,
        is_paired=is_paired,
    )


def _draw_alike(first: Result, second: Result) -> bool:
    """Whether a drawn place is the same name, in the same group, in both."""
    facts = ("is_paired", "repeats", "seed")
    return first.measured.names["generated"] == second.measured.names["generated"] and all(
        first.facts[name] == second.facts[name] for name in facts
    )


def table(differences: Sequence[Difference]) -> str:
    """Markdown: a row a metric."""
    lines = [
        "| metric | first | second | change | 95 % | matters? | protocol |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in differences:
        low, high = results.shown(each.low), results.shown(each.high)
        numbers = [results.shown(value) for value in (each.first, each.second, each.change)]
        cells = [each.name, *numbers, f"{low} to {high}", each.verdict, each.protocol]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
