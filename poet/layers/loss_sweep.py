"""One device's part of the tiled cross-entropy: its tokens against its rows of the tables.

Axes: N tokens, D model width, V ids. Where a vocabulary is spread over devices, each has some rows
of every table, and what a token needs from all of them (the largest logit, the sum of
exponentials, the target's logit, the gradient of its hidden state) is summed token tile by token
tile; no device reads another's rows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from poet.layers.vocabulary_tiles import Joined, Looped, TableRows, Tokens, Unrolled
from poet.typing import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossTiles:
    """How the loss is cut up. Numbers change speed and memory, not results.

    Attributes:
      num_tokens: Tokens a tile, at most, on each device; all of them with `gathers_by_tile`.
      num_ids: Rows of a table a tile, on each device.
      max_kept_logits: Up to this many logits of a token tile are kept between the two sweeps over
        the vocabulary; above it they are computed a second time.
      z_loss: Weight of log-sum-exp squared, which keeps logits near 0.
      gathers_by_tile: Where a mesh splits the tables' width, gather the rows of a vocabulary tile
        when its turn comes, once for each sweep, and add up and split their gradient at once. No
        device then holds a whole table or a whole gradient (2 and 4 bytes a number in bfloat16, and
        4 more while it is summed), and tables are gathered twice instead of once. All tokens of a
        device make one tile, whose logits are held for `num_ids` ids at a time. A vocabulary of no
        more ids than that is gathered once and whole.
    """

    num_tokens: int = 4096
    num_ids: int = 16_384
    max_kept_logits: int = 2**26
    z_loss: float = 1e-4
    gathers_by_tile: bool = False

    def __post_init__(self) -> None:
        for name in ("num_tokens", "num_ids"):
            if getattr(self, name) < 1:
                raise ValueError(f"LossTiles {name}={getattr(self, name)} must be at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """How tokens go through the vocabulary.

    Attributes:
      tiles: Tile sizes and z-loss.
      vocabulary: This device's rows of each table.
      shared_over: Mesh axes whose devices have the other rows.
      has_grads: Whether gradients are formed.
      trains_tables: Whether those of the tables are among them.
    """

    tiles: LossTiles
    vocabulary: Sequence[TableRows]
    shared_over: tuple[str, ...] = ()
    has_grads: bool
    trains_tables: bool = True


def sweep(how: Sweep, hidden: Array, tables: Any, targets: Array, weights: Array) -> Any:
    """All token tiles: sum, measures [N], and gradients (hidden, tables, weights) or None.

    Of the tables only the shapes are read, those of the gradients; each of these is None where
    tables do not train.
    """
    num_real = hidden.shape[0]
    most = num_real if _is_by_tile(how) else how.tiles.num_tokens
    # As few tiles as there can be, of one size: tokens of weight 0 fill the last one.
    tile = -(-num_real // -(-num_real // most))
    fill = -num_real % tile
    if fill:
        hidden = jnp.pad(hidden, ((0, fill), (0, 0)))
        targets, weights = jnp.pad(targets, (0, fill)), jnp.pad(weights, (0, fill))
    num_tokens = num_real + fill
    num_tiles = num_tokens // tile
    d_tables: Any = (None,) * len(tables)
    if how.has_grads and how.trains_tables:
        d_tables = tuple(jnp.zeros(table.shape, jnp.float32) for table in tables)
    if num_tiles == 1:
        total, measures, d_hidden, d_tables = _token_tile(how, d_tables, hidden, targets, weights)
    else:
        # Neighbours share a tile: no array has to be put into another order. On a mesh a device has
        # its own tokens here, so that nothing is exchanged either.
        def cut(x: Any) -> Any:
            return x.reshape(num_tiles, tile, *x.shape[1:])

        def body(carry: Any, cuts: Any) -> Any:
            total, d_tables = carry
            part, measures, d_hidden, d_tables = _token_tile(how, d_tables, *cuts)
            return (total + part, d_tables), (measures, d_hidden)

        start = (jnp.zeros((), jnp.float32), d_tables)
        cuts = (cut(hidden), cut(targets), cut(weights))
        (total, d_tables), stacked = jax.lax.scan(body, start, cuts)
        measures, d_hidden = jax.tree.map(lambda x: x.reshape(num_tokens, *x.shape[2:]), stacked)
    measures = {name: values[:num_real] for name, values in measures.items()}
    if not how.has_grads:
        return total, measures, None
    d_hidden = d_hidden[:num_real]
    d_weights = measures["nats"] + how.tiles.z_loss * jnp.square(measures["log_sum_exp"])
    return total, measures, (d_hidden, d_tables, d_weights)


def _is_by_tile(how: Sweep) -> bool:
    """Whether rows are gathered when their tile comes."""
    return any(table.width for table in how.vocabulary)


def _token_tile(how: Sweep, d_tables: Any, hidden: Any, targets: Any, weights: Any) -> Any:
    """One tile of tokens against the whole vocabulary, in two sweeps; adds to `d_tables`."""
    z_loss, num_ids = how.tiles.z_loss, how.tiles.num_ids
    num_rows = sum(table.num_rows for table in how.vocabulary)
    if num_rows <= num_ids:
        walk: Any = Joined(how.vocabulary)
    elif hidden.shape[0] * num_rows <= how.tiles.max_kept_logits and not _is_by_tile(how):
        walk = Unrolled(how.vocabulary, num_ids)
    else:
        walk = Looped(how.vocabulary, num_ids)
    seen, logits = walk.look(hidden, targets)
    top = seen.top
    if how.shared_over:
        top = jax.lax.pmax(top, how.shared_over)
    sum_exp, target_logit = seen.sum_exp * jnp.exp(seen.top - top), seen.target_logit
    if how.shared_over:
        sum_exp, target_logit = jax.lax.psum((sum_exp, target_logit), how.shared_over)
    log_sum_exp = jnp.log(sum_exp) + top
    nats = log_sum_exp - target_logit
    total = jnp.sum(weights * (nats + z_loss * jnp.square(log_sum_exp)))
    measures = {
        "nats": nats,
        "is_correct": (target_logit >= top).astype(jnp.float32),
        "log_sum_exp": log_sum_exp,
    }
    if not how.has_grads:
        return total, measures, None, d_tables
    tokens = Tokens(hidden, targets, weights, log_sum_exp, weights * (1 + 2 * z_loss * log_sum_exp))
    d_hidden, d_tables = walk.differentiate(tokens, logits, d_tables)
    if how.shared_over:
        d_hidden = jax.lax.psum(d_hidden, how.shared_over)
    return total, measures, d_hidden.astype(hidden.dtype), d_tables
