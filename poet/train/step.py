"""One training step, pure: no files, no clocks, no globals.

Compiling, shardings and donation come from `poet/train/lm_program.py` and `compiling.py`; the loop
owns everything else.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from poet.train.state import TrainState

Batch = dict[str, Any]
Measures = dict[str, Any]
LossFn = Callable[[Any, Batch, Any], tuple[Any, Measures]]
StepFn = Callable[[TrainState, Any, Any], tuple[TrainState, Measures]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStep:
    """A step in two halves, so that what does not depend on the batch's shape is compiled once.

    Calling it is the whole step: (state, batch, key) -> (state, measures). The gradients have to
    exist in memory between the halves either way.

    Attributes:
      gradients: (state, batch, key) -> (gradients, measures); the gradients may come with other
        things that the update needs. Donates nothing.
      update: (state, what `gradients` gave, key) -> (state, measures). Donates the state where it
        is compiled: do not use that state after the call.
    """

    gradients: Callable[[TrainState, Any, Any], tuple[Any, Measures]]
    update: Callable[[TrainState, Any, Any], tuple[TrainState, Measures]]

    def __call__(self, state: TrainState, batch: Any, key: Any) -> tuple[TrainState, Measures]:
        grads, measured = self.gradients(state, batch, key)
        state, moved = self.update(state, grads, key)
        return state, measured | moved


def make_step(
    loss_fn: LossFn, tx: optax.GradientTransformation, frozen: frozenset[str] = frozenset()
) -> TrainStep:
    """The step of a loss that needs nothing but parameters.

    Args:
      loss_fn: (params, batch, key) -> (mean nats per weighted token, measures).
      tx: The optimizer, schedule included.
      frozen: Top-level names of parameters that stay as they are: they have no gradients, and the
        optimizer, made with `split_frozen`'s first part, does not know them.
    """
    return TrainStep(
        gradients=functools.partial(gradients, loss_fn=loss_fn, frozen=frozen),
        update=functools.partial(apply_gradients, tx=tx, frozen=frozen),
    )


def split_frozen(params: Any, frozen: frozenset[str]) -> tuple[Any, Any]:
    """(parameters that train, the others); their union is `params`."""
    if not frozen:
        return params, {}
    missing = frozen - params.keys()
    if missing:
        raise ValueError(
            f"Cannot freeze {', '.join(sorted(missing))}; the parameters are"
            f" {', '.join(sorted(params))}."
        )
    moving = {name: value for name, value in params.items() if name not in frozen}
    return moving, {name: params[name] for name in frozen}


def gradients(
    state: TrainState,
    batch: Batch,
    key: Any,
    *,
    loss_fn: LossFn,
    frozen: frozenset[str] = frozenset(),
) -> tuple[Any, Measures]:
    """First half of a step: (gradients, measures of the loss).

    Args:
      state: Only read.
      batch: Global batch; all leaves share their first axis.
      key: One key for the whole run. The step number is folded in here.
      loss_fn: See `make_step`.
    """
    key = jax.random.fold_in(key, state.step)
    moving, still = split_frozen(state.params, frozen)

    def moving_loss(moving):
        return loss_fn(moving | still if still else moving, batch, key)

    (loss, measured), grads = jax.value_and_grad(moving_loss, has_aux=True)(moving)
    # `loss` is what is minimised; the loss function may report nats without its regularisers.
    return grads, {"loss_nats": loss} | measured | {"loss": loss}


def apply_gradients(
    state: TrainState,
    grads: Any,
    key: Any,
    *,
    tx: optax.GradientTransformation,
    frozen: frozenset[str] = frozenset(),
) -> tuple[TrainState, Measures]:
    """Second half: (next state, measures of the update). Neither batch nor key is needed."""
    del key
    moving, still = split_frozen(state.params, frozen)
    updates, opt_state = tx.update(grads, state.opt_state, moving)
    params = optax.apply_updates(moving, updates)
    params = params | still if still else params
    norms = {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
    return TrainState(state.step + 1, params, opt_state, state.extra), norms
