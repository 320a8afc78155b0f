"""Rows of the unembedding tables, and three ways for tokens to go through all of them twice.

The first time a token sees the largest logit, the sum of exponentials and its target's logit; the
second time gradients are formed. Logits are kept from one to the other, or computed twice.

Axes: N tokens, D model width, R rows of a table, V ids.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from poet.typing import Array

# The logit of a row that is no id: far below any other, yet finite.
_NO_LOGIT = -1e30


class VocabularyTile(NamedTuple):
    """Some rows of the tables.

    Attributes:
      rows: [V, D].
      start: Id of the first one; the others follow.
      ids: Instead of that, the id of each row int32 [V], -1 for a row that is none.
    """

    rows: Array
    start: Array | int = 0
    ids: Array | None = None

    def logits(self, hidden: Array) -> Array:
        """Of tokens [N, D] over the rows, float32 [N, V]."""
        logits = jnp.matmul(hidden, self.rows.T, preferred_element_type=jnp.float32)
        return logits if self.ids is None else jnp.where(self.ids[None] < 0, _NO_LOGIT, logits)

    def target_logit(self, logits: Array, targets: Array) -> Array:
        """Each token's logit of its target [N], 0 where the target is not among the rows."""
        if self.ids is not None:
            return jnp.where(self.is_target(targets), logits, 0.0).sum(axis=-1)
        local = targets - self.start
        inside = (local >= 0) & (local < logits.shape[1])
        index = jnp.clip(local, 0, logits.shape[1] - 1)[:, None]
        return jnp.where(inside, jnp.take_along_axis(logits, index, axis=1)[:, 0], 0.0)

    def is_target(self, targets: Array) -> Array:
        """Bool [N, V]."""
        if self.ids is not None:
            return self.ids[None, :] == targets[:, None]
        return jnp.arange(self.rows.shape[0])[None, :] == (targets - self.start)[:, None]


class TableRows(NamedTuple):
    """A device's rows of one table.

    Attributes:
      table: [R, D], padding included, which is never copied.
      num_rows: Of them from the first on; the others are padding.
      start: Id of the first one; the others follow.
      ids: Instead of that, the id of each row int32 [R], -1 for a row that is none.
      width: Mesh axes that split D here, inside a `shard_map`; () where the table has all of it.
    """

    table: Array
    num_rows: int
    start: int = 0
    ids: Array | None = None
    width: tuple[str, ...] = ()

    def cut(self, first: Array | int, num_rows: int) -> VocabularyTile:
        """`num_rows` of the rows, from `first` on, which a loop may count, in their whole width."""
        rows = jax.lax.dynamic_slice_in_dim(self.table, first, num_rows)
        if self.width:
            rows = jax.lax.all_gather(rows, self.width, axis=1, tiled=True)
        if self.ids is None:
            return VocabularyTile(rows, self.start + first)
        return VocabularyTile(rows, ids=jax.lax.dynamic_slice_in_dim(self.ids, first, num_rows))

    def add(self, d_table: Array | None, first: Array | int, part: Array) -> Array | None:
        """A gradient [R, D] plus that of rows from `first` on, in their whole width.

        None, the gradient of a table that does not train, stays None.
        """
        if d_table is None:
            return None
        if self.width:
            part = jax.lax.psum_scatter(part, self.width, scatter_dimension=1, tiled=True)
        if isinstance(first, int):
            return d_table.at[first : first + part.shape[0]].add(part)
        rows = jax.lax.dynamic_slice_in_dim(d_table, first, part.shape[0]) + part
        return jax.lax.dynamic_update_slice_in_dim(d_table, rows, first, axis=0)


def whole_tables(
    tables: Sequence[Array], sizes: Sequence[int], width: tuple[str, ...] = ()
) -> list[TableRows]:
    """All rows of each table but its padding."""
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    found = zip(tables, sizes, starts, strict=True)
    return [TableRows(table, size, start, width=width) for table, size, start in found]


def parts_of_tables(
    tables: Sequence[Array], sizes: Sequence[int], part: Array, width: tuple[str, ...] = ()
) -> list[TableRows]:
    """A device's rows, if it is number `part` of those that share each table equally."""
    found, start = [], 0
    for table, size in zip(tables, sizes, strict=True):
        rows = part * table.shape[0] + jnp.arange(table.shape[0])
        ids = jnp.where(rows < size, start + rows, -1)
        found.append(TableRows(table, table.shape[0], ids=ids, width=width))
        start += size
    return found


def visit_rows(num_rows: int, size: int, visit: Callable[..., Any], carry: Any) -> Any:
    """`carry` after visit(first, number, carry) of all rows: tiles of `size` in a loop, and a rest.

    One tile alone is visited without a loop.
    """
    if num_rows <= size:
        return visit(0, num_rows, carry)
    full = num_rows // size
    if full:
        carry = jax.lax.fori_loop(0, full, lambda i, x: visit(i * size, size, x), carry)
    if left := num_rows - full * size:
        carry = visit(full * size, left, carry)
    return carry


class Seen(NamedTuple):
    """What tokens saw of some rows, each float32 [N]."""

    top: Array  # the largest logit
    sum_exp: Array  # sum of exp(logit - top)
    target_logit: Array  # 0 if the target is not among the rows

    def merge(self, other: "Seen") -> "Seen":
        """What tokens saw of both."""
        top = jnp.maximum(self.top, other.top)
        sums = self.sum_exp * jnp.exp(self.top - top) + other.sum_exp * jnp.exp(other.top - top)
        return Seen(top, sums, self.target_logit + other.target_logit)


class Tokens(NamedTuple):
    """What the second sweep needs of tokens: hidden [N, D], the others [N]."""

    hidden: Array
    targets: Array
    weights: Array
    log_sum_exp: Array
    factor: Array  # weight of the probabilities, z-loss included


def _look(tile: VocabularyTile, hidden: Array, targets: Array) -> tuple[Seen, Array]:
    logits = tile.logits(hidden)
    top = logits.max(axis=-1)
    sum_exp = jnp.exp(logits - top[:, None]).sum(axis=-1)
    return Seen(top, sum_exp, tile.target_logit(logits, targets)), logits


def _differentiate(tile: VocabularyTile, tokens: Tokens, logits: Array) -> tuple[Array, Array]:
    """Gradients of the hidden states [N, D] and the rows [V, D], float32."""
    hidden = tokens.hidden
    d_logits = tokens.factor[:, None] * jnp.exp(logits - tokens.log_sum_exp[:, None])
    d_logits = jnp.where(
        tile.is_target(tokens.targets), d_logits - tokens.weights[:, None], d_logits
    ).astype(hidden.dtype)
    d_hidden = jnp.matmul(d_logits, tile.rows, preferred_element_type=jnp.float32)
    return d_hidden, jnp.matmul(d_logits.T, hidden, preferred_element_type=jnp.float32)


class Joined:
    """All tables as one tile, whose logits are kept; their ids follow each other."""

    def __init__(self, tables: Sequence[TableRows]):
        self._tables, self._sizes = tables, [table.num_rows for table in tables]
        tiles = [table.cut(0, table.num_rows) for table in tables]
        self._tile = tiles[0]
        if len(tiles) > 1:
            ids = None if tables[0].ids is None else jnp.concatenate([tile.ids for tile in tiles])
            self._tile = VocabularyTile(jnp.concatenate([tile.rows for tile in tiles]), ids=ids)

    def look(self, hidden: Array, targets: Array) -> tuple[Seen, Any]:
        """First sweep: what tokens saw, and what the second one wants of it."""
        return _look(self._tile, hidden, targets)

    def differentiate(self, tokens: Tokens, logits: Any, d_tables: Any) -> Any:
        """Second sweep: gradient of the hidden states, and `d_tables` with the tables' added."""
        d_hidden, d_rows = _differentiate(self._tile, tokens, logits)
        parts = jnp.split(d_rows, np.cumsum(self._sizes)[:-1])
        sums = zip(self._tables, d_tables, parts, strict=True)
        return d_hidden, tuple(table.add(d_table, 0, part) for table, d_table, part in sums)


class Unrolled:
    """Tile by tile, all logits kept from the first sweep to the second."""

    def __init__(self, tables: Sequence[TableRows], num_ids: int):
        self._tables = tables
        self._places = [
            (number, first, min(num_ids, table.num_rows - first))
            for number, table in enumerate(tables)
            for first in range(0, table.num_rows, num_ids)
        ]
        self._tiles = [tables[number].cut(first, rows) for number, first, rows in self._places]

    def look(self, hidden: Array, targets: Array) -> tuple[Seen, Any]:
        """As `Joined.look`."""
        seen, logits = zip(*[_look(tile, hidden, targets) for tile in self._tiles], strict=True)
        return functools.reduce(Seen.merge, seen), logits

    def differentiate(self, tokens: Tokens, logits: Any, d_tables: Any) -> Any:
        """As `Joined.differentiate`."""
        d_hidden, sums = jnp.zeros(tokens.hidden.shape, jnp.float32), list(d_tables)
        for place, tile, its in zip(self._places, self._tiles, logits, strict=True):
            number, first, _ = place
            part, d_rows = _differentiate(tile, tokens, its)
            sums[number] = self._tables[number].add(sums[number], first, d_rows)
            d_hidden = d_hidden + part
        return d_hidden, tuple(sums)


class Looped:
    """Tile by tile in loops, logits computed a second time: a tile is all that is held at once.

    Unrolled tiles would do if the compiler put them in that order; XLA on CPU keeps the logits of
    all of them.
    """

    def __init__(self, tables: Sequence[TableRows], num_ids: int):
        self._tables, self._num_ids = tables, num_ids

    def look(self, hidden: Array, targets: Array) -> tuple[Seen, Any]:
        """As `Joined.look`; nothing is kept."""
        none = jnp.zeros(targets.shape, jnp.float32)
        seen = Seen(none + _NO_LOGIT, none, none)

        def visit(table: TableRows, first: Any, num_rows: int, seen: Seen) -> Seen:
            return seen.merge(_look(table.cut(first, num_rows), hidden, targets)[0])

        for table in self._tables:
            visit_table = functools.partial(visit, table)
            seen = visit_rows(table.num_rows, self._num_ids, visit_table, seen)
        return seen, None

    def differentiate(self, tokens: Tokens, logits: Any, d_tables: Any) -> Any:
        """As `Joined.differentiate`."""
        del logits

        def visit(table: TableRows, first: Any, num_rows: int, sums: Any) -> Any:
            d_hidden, d_table = sums
            tile = table.cut(first, num_rows)
            part, d_rows = _differentiate(tile, tokens, tile.logits(tokens.hidden))
            return d_hidden + part, table.add(d_table, first, d_rows)

        d_hidden, found = jnp.zeros(tokens.hidden.shape, jnp.float32), []
        for table, d_table in zip(self._tables, d_tables, strict=True):
            visit_table, sums = functools.partial(visit, table), (d_hidden, d_table)
            d_hidden, d_table = visit_rows(table.num_rows, self._num_ids, visit_table, sums)
            found.append(d_table)
        return d_hidden, tuple(found)
