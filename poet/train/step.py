"""One training step, pure: no files, no clocks, no globals.

Compiling, shardings and donation come from `poet/train/lm_program.py` and `compiling.py`; the loop
owns everything else.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from poet.train.state import TrainState

Batch = dict[str, Any]
Measures = dict[str, Any]
LossFn = Callable[[Any, Batch, Any], tuple[Any, Measures]]
StepFn = Callable[[TrainState, Any, Any], tuple[TrainState, Measures]]

# Measures that are finite in a step that went well.
WATCHED = ("loss_nats", "loss", "grad_norm", "update_norm")


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
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    frozen: frozenset[str] = frozenset(),
    num_micro_batches: int = 1,
    ema_decay: float = 0.0,
) -> TrainStep:
    """The step of a loss that needs nothing but parameters.

    Args:
      loss_fn: (params, batch, key) -> (mean nats per weighted token, measures).
      tx: The optimizer, schedule included.
      frozen: Top-level names of parameters that stay as they are: they have no gradients, and the
        optimizer, made with `split_frozen`'s first part, does not know them.
      num_micro_batches: Parts that the batch's gradients are computed in, one after the other.
      ema_decay: Of the moving average of the parameters, where the state has one.
    """
    return TrainStep(
        gradients=functools.partial(
            gradients, loss_fn=loss_fn, frozen=frozen, num_micro_batches=num_micro_batches
        ),
        update=functools.partial(apply_gradients, tx=tx, frozen=frozen, ema_decay=ema_decay),
    )


def skip_non_finite(step: TrainStep) -> TrainStep:
    """The same step, but where loss or gradients are not finite the state stays as it was.

    Only `state.step` goes on, since batches and keys follow from it; the optimizer's own counts do
    not. Both is decided on the devices. What the update writes anyway is chosen number by number,
    by two scalars that are there before it starts (the norm of the gradients is needed for clipping
    too): no array is kept for it, and no half of the step waits for the host.

    Measures get "skipped": 1.0 for a step that was left out, else 0.0.
    """

    def gradients(state: TrainState, batch: Batch, key: Any) -> tuple[Any, Measures]:
        passed, measured = step.gradients(state, batch, key)
        return (passed, _are_finite(measured, "loss_nats", "loss")), measured

    def update(state: TrainState, passed: Any, key: Any) -> tuple[TrainState, Measures]:
        passed, is_fine = passed
        after, measured = step.update(state, passed, key)
        # Not the norm of the update: that one is known only when all of the update is.
        is_fine &= _are_finite(measured, "grad_norm")
        chosen = jax.tree.map(lambda new, old: jnp.where(is_fine, new, old), after, state)
        skipped = 1.0 - is_fine.astype(jnp.float32)
        return chosen.replace(step=after.step), measured | {"skipped": skipped}

    return TrainStep(gradients=gradients, update=update)


def _are_finite(measures: Measures, *names: str) -> jax.Array:
    values = [jnp.asarray(measures[name], jnp.float32) for name in names if name in measures]
    return jnp.isfinite(jnp.stack(values)).all()


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
    num_micro_batches: int = 1,
) -> tuple[Any, Measures]:
    """First half of a step: (gradients, measures of the loss).

    Micro-batches are parts of one group's batch, inside the compiled step: an update still sees one
    group, and the schedule counts updates. (`optax.MultiSteps` would add up steps of different
    groups, each with the same weight whatever its number of tokens.)

    Args:
      state: Only read.
      batch: Global batch; all leaves share their first axis.
      key: One key for the whole run. The step number is folded in here.
      loss_fn: See `make_step`.
    """
    key = jax.random.fold_in(key, state.step)
    moving, still = split_frozen(state.params, frozen)

    def grads_of(batch, key):
        def moving_loss(moving):
            return loss_fn(moving | still if still else moving, batch, key)

        (loss, measured), grads = jax.value_and_grad(moving_loss, has_aux=True)(moving)
        # `loss` is what is minimised; the loss function may report nats without its regularisers.
        return grads, {"loss_nats": loss} | measured | {"loss": loss}

    if num_micro_batches == 1:
        return grads_of(batch, key)
    return _accumulate(grads_of, batch, key, num_micro_batches)


def _accumulate(grads_of: Any, batch: Batch, key: Any, num_parts: int) -> tuple[Any, Measures]:
    """Means over the parts of a batch, each weighted by its number of tokens.

    The result is that of the whole batch to rounding, dropout's draws aside; measures over a kind
    of token are exact where every example has equally many of that kind, as in a group.
    """

    def deal(leaf):
        # Row i goes to part i % num_parts, so that each part spans all devices of the rows.
        if leaf.shape[0] % num_parts:
            raise ValueError(
                f"A batch of {leaf.shape[0]} rows cannot be computed in {num_parts} equal"
                " micro-batches; make the rows a multiple of num_micro_batches."
            )
        return leaf.reshape(leaf.shape[0] // num_parts, num_parts, *leaf.shape[1:]).swapaxes(0, 1)

    def weighted(index, part):
        grads, measured = grads_of(part, jax.random.fold_in(key, index))
        weight = jnp.asarray(measured.pop("num_tokens", 1.0), jnp.float32)
        return jax.tree.map(lambda leaf: leaf * weight, (grads, measured)), weight

    def body(sums, dealt):
        return jax.tree.map(jnp.add, sums, weighted(*dealt)), None

    parts = (jnp.arange(num_parts), jax.tree.map(deal, batch))
    shapes = jax.eval_shape(weighted, *jax.tree.map(lambda leaf: leaf[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (sums, total), _ = jax.lax.scan(body, zeros, parts)
    whole = jnp.where(total > 0, total, 1.0)
    grads, measured = jax.tree.map(lambda leaf: leaf / whole, sums)
    return grads, measured | {"num_tokens": total}


def apply_gradients(
    state: TrainState,
    grads: Any,
    key: Any,
    *,
    tx: optax.GradientTransformation,
    frozen: frozenset[str] = frozenset(),
    ema_decay: float = 0.0,
) -> tuple[TrainState, Measures]:
    """Second half: (next state, measures of the update). Neither batch nor key is needed.

    A state with an average has it moved towards the new parameters by 1 - `ema_decay`, and by more
    in the first steps, so that what a run begins with is soon forgotten.
    """
    del key
    moving, still = split_frozen(state.params, frozen)
    updates, opt_state = tx.update(grads, state.opt_state, moving)
    params = optax.apply_updates(moving, updates)
    ema = state.ema
    if ema:
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda mean, leaf: decay * mean + (1 - decay) * leaf, ema, params)
    params = params | still if still else params
    norms = {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
    return TrainState(state.step + 1, params, opt_state, state.extra, ema), norms
