"""What the passes of a schedule feed and see, as the rows of one training pass.

Teacher-forced, all passes become one: every token is known, so each row that is ever fed is there
at once, and a mask hides what its own pass could not see.
"""

import dataclasses
import functools

import numpy as np

from poet.tokens.schedule import IDLE, Schedule, passes_of
from poet.tokens.sequence import SequencePlan


@dataclasses.dataclass(frozen=True, eq=False)
class FedRows:
    """The fed rows of a whole sequence. N = L - 1 + E rows; arrays are read-only.

    The first L - 1 rows are the plan's, each with its own token. E more follow, one for every start
    of a row of tokens that is fed a nearer token than its own: same place, another token.

    Attributes:
      places: int32 [N], position whose rotation and attributes a row has.
      sources: int32 [N], position of the token that is fed.
      since: int32 [N], pass that feeds a row, counted over the whole sequence; -1 in the prefix.
      predicting: int32 [L - 1 - P], row that predicts each target after the first output token,
        forced delimiters included, in order of the targets.
      prefix_length: P.
    """

    places: np.ndarray
    sources: np.ndarray
    since: np.ndarray
    predicting: np.ndarray
    prefix_length: int

    @property
    def num_extra(self) -> int:
        """E; with none, rows and mask are those of raster."""
        return int(np.sum(self.places != self.sources))

    @functools.cached_property
    def visible(self) -> np.ndarray:
        """bool [N, N]: which rows each row sees.

        Itself; in the prefix, all of the prefix; and of every earlier place that was first fed in
        an earlier pass, the newest row of its own pass.
        """
        places, since = self.places, self.since
        plain = len(places) - self.num_extra
        first = since[:plain].copy()
        first[places[plain:]] = since[plain:]
        # From this pass on, a row's place holds another one.
        until = np.full(len(places), IDLE)
        until[plain:] = since[places[plain:]]

        now = since[:, None]
        visible = (places < places[:, None]) & (first[places] < now)
        visible &= (since <= now) & (now < until)
        np.fill_diagonal(visible, True)
        visible[: self.prefix_length, : self.prefix_length] = True
        visible.setflags(write=False)
        return visible


@functools.lru_cache(maxsize=256)
def fed_rows(plan: SequencePlan, schedule: Schedule) -> FedRows:
    """The rows of a plan under a schedule.

    Two rows of three tokens, 0 to 2 and 3 to 5, with slope 0. P is the prefix, b <bov_o>, e
    <eov_o>; c is the extra row: in the place of token 2, which is not written yet, it is fed token
    0 and predicts token 3.

        row pass  P b 0 1 2 3 4 5 e c
         P   -1   x . . . . . . . . .
         b    0   x x . . . . . . . .
         0    1   x x x . . . . . . .
         1    2   x x x x . . . . . .
         2    3   x x x x x . . . . .
         3    2   x x x . . x . . . x
         4    3   x x x x x x x . . .
         5    4   x x x x x x x x . .
         e    5   x x x x x x x x x .
         c    1   x x . . . . . . . x
    """
    count, at, clock = plan.length - 1, plan.prefix_length, 0
    since = np.full(count, -1, np.int32)
    extra: list[tuple[int, int, int]] = []
    for slot in (slot for slot in plan.slots if slot.is_output):
        # Delimiters between slots follow each other, one a pass.
        between = slot.start - 1 - at
        since[at : slot.start - 1] = clock + np.arange(between)
        clock += between
        passes = passes_of(plan, slot, schedule)
        for number, lane in zip(*np.nonzero(passes.rows != IDLE), strict=True):
            place, source = passes.rows[number, lane], passes.sources[number, lane]
            if place == source:
                since[place] = clock + number
            else:
                extra.append((place, source, clock + number))
        clock, at = clock + len(passes), slot.stop - 1
    since[at:] = clock + np.arange(count - at)

    places, sources, since_extra = np.array(extra, np.int32).reshape(-1, 3).T
    # Row p predicts position p + 1, but an extra row has done so before the true one comes.
    predicts = np.arange(count)
    predicts[places] = count + np.arange(len(places))
    own = np.arange(count)
    return FedRows(
        places=_frozen(np.concatenate([own, places])),
        sources=_frozen(np.concatenate([own, sources])),
        since=_frozen(np.concatenate([since, since_extra])),
        predicting=_frozen(predicts[plan.prefix_length :]),
        prefix_length=plan.prefix_length,
    )


def _frozen(values: np.ndarray) -> np.ndarray:
    array = values.astype(np.int32)
    array.setflags(write=False)
    return array
