"""The rows that sources keep of clips: one after another in an array, and as a file.

Axes: N clips, M rows of them, D numbers of a row, K clips that were chosen.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from poet.evals.metric import Side
from poet.typing import Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """What a source kept of one side, clip after clip.

    Attributes:
      values: All rows.
      counts: Rows of each clip.
    """

    values: Float[np.ndarray, "M D"]
    counts: Int[np.ndarray, "N"]

    def take(self, clips: Int[np.ndarray, "K"]) -> Float[np.ndarray, "_ D"]:
        """The rows of these clips, in their order; a clip may come twice."""
        if (self.counts == 1).all():
            return self.values[clips]
        ends = np.cumsum(self.counts)
        starts = ends - self.counts
        chosen = [np.arange(int(starts[clip]), int(ends[clip])) for clip in clips]
        return self.values[np.concatenate(chosen).astype(int)]


def join_rows(clips: Sequence[np.ndarray]) -> Rows:
    """Rows from an array [rows, D] for each clip; D is that of those that have rows."""
    counts = np.array([len(rows) for rows in clips], np.int64)
    filled = [np.asarray(rows, np.float64) for rows in clips if len(rows)]
    return Rows(values=np.concatenate(filled) if filled else np.zeros((0, 0)), counts=counts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Rows of all clips.

    Attributes:
      names: Of each side's clips, rising.
      rows: (source, side) -> rows in the order of the names.
    """

    names: Mapping[Side, tuple[str, ...]]
    rows: Mapping[tuple[str, Side], Rows]


def arrays_of(rows: Mapping[tuple[str, Side], Rows]) -> dict[str, np.ndarray]:
    """Rows as named arrays for a file."""
    arrays = {}
    for (source, side), each in rows.items():
        arrays[f"{source}.{side}.values"] = each.values
        arrays[f"{source}.{side}.counts"] = each.counts
    return arrays


def rows_of(arrays: Mapping[str, np.ndarray]) -> dict[tuple[str, Side], Rows]:
    """What `arrays_of` was given; arrays of other names are left alone."""
    found = {}
    for name in arrays:
        if name.endswith(".values"):
            source, side, _ = name.split(".")
            counts = arrays[f"{source}.{side}.counts"]
            found[source, side] = Rows(values=arrays[name], counts=counts)
    return found
