"""One training step, pure: no files, no clocks, no globals.

`jit`, shardings and donation are applied by `compile_step`; the loop owns everything else.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from poet.train.state import TrainState
from poet.typing import Array, Float

Batch = dict[str, Any]
Measures = dict[str, Any]
LossFn = Callable[[Any, Batch, Any], tuple[Any, Measures]]
StepFn = Callable[[TrainState, Batch, Any], tuple[TrainState, Measures]]


def train_step(
    state: TrainState,
    batch: Batch,
    key: Any,
    *,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Returns the next state and scalar measures of this step.

    Args:
      state: Donated by `compile_step`: do not use it after the call.
      batch: Global batch; all leaves share their first axis.
      key: One key for the whole run. The step number is folded in by `gradients`.
      loss_fn: (params, batch, key) -> (mean nats per weighted token, measures).
      tx: The optimizer, schedule included.
    """
    grads, measured = gradients(state.params, state.step, batch, key, loss_fn=loss_fn)
    state, moved = apply_gradients(state, grads, tx=tx)
    return state, measured | moved


def gradients(
    params: Any, step: Any, batch: Batch, key: Any, *, loss_fn: LossFn
) -> tuple[Any, Measures]:
    """First half of a step: (gradients, measures of the loss)."""
    key = jax.random.fold_in(key, step)
    (loss, measured), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch, key)
    # `loss` is what is minimised; the loss function may report nats without its regularisers.
    return grads, {"loss_nats": loss} | measured | {"loss": loss}


def apply_gradients(
    state: TrainState, grads: Any, *, tx: optax.GradientTransformation
) -> tuple[TrainState, Measures]:
    """Second half: (next state, measures of the update). It does not depend on the batch."""
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
    return TrainState(state.step + 1, params, opt_state, state.extra), norms


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepParts:
    """A step in two halves, so that what does not depend on the batch's shape is compiled once.

    Calling it is the whole step: (state, batch, key) -> (state, measures).

    Attributes:
      first: (state, batch, key) -> (what the second half needs, measures). Donates nothing.
      second: (state, what the first half gave, key) -> (state, measures). Donates the state.
    """

    first: Callable[[TrainState, Any, Any], tuple[Any, Measures]]
    second: Callable[[TrainState, Any, Any], tuple[TrainState, Measures]]

    def __call__(self, state: TrainState, batch: Any, key: Any) -> tuple[TrainState, Measures]:
        passed, measured = self.first(state, batch, key)
        state, moved = self.second(state, passed, key)
        return state, measured | moved


def compile_step(step: StepFn, state_shardings: Any = None, batch_shardings: Any = None) -> StepFn:
    """Returns `step` under jit: the state is donated and leaves sharded as it came.

    Args:
      step: (state, batch, key) -> (state, measures), for example `train_step` with its loss and
        optimizer bound.
      state_shardings: Tree (or prefix) of shardings of the state; None lets jit follow its inputs.
      batch_shardings: The same for the batch.
    """
    if state_shardings is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(state_shardings, batch_shardings, None),
        out_shardings=(state_shardings, None),
    )
