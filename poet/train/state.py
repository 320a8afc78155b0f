"""What a training run carries from step to step."""

from typing import Any

import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class TrainState:
    """Everything a checkpoint must hold to continue a run exactly.

    Attributes:
      step: Number of steps done, int32. The next step to train has this number.
      params: Parameters, unboxed (no flax partitioning boxes).
      opt_state: What optax keeps for them.
      extra: Any other arrays that steps update, such as moving-average codebooks. Steps that need
        nothing leave the empty dict.
      ema: Moving average of the parameters that train, by the same names; the empty dict in a run
        that keeps none.
    """

    # Any, not an array type: trees of shapes and of shardings use the same class.
    step: Any
    params: Any
    opt_state: Any
    extra: Any = flax.struct.field(default_factory=dict)
    ema: Any = flax.struct.field(default_factory=dict)


def create(params: Any, opt_state: Any, extra: Any = None, ema: Any = None) -> TrainState:
    """Returns the state before the first step; `ema`, the parameters to average, is copied."""
    # A copy, because a step donates its state, and no array may be in it twice.
    ema = jax.tree.map(jnp.copy, {} if ema is None else ema)
    extra = {} if extra is None else extra
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, extra, ema)


def count_parameters(params: Any) -> int:
    """Number of scalars in a tree of arrays (or of their shapes)."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))
