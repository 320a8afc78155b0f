"""The language model as a `Program`: sharded state, one compiled step a group, held-out loss."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.core import meta
from jax.sharding import Mesh

from poet.data.batches import AgdBatches
from poet.layers.eight_bit import check_matmuls
from poet.models import t5_weights
from poet.models.prefix_lm import PrefixLM
from poet.tokens.sequence import SequencePlan
from poet.train import lora, partitioning
from poet.train import state as train_state
from poet.train.compiling import BackgroundCompiler, compiled_step, run_once
from poet.train.held_out import HeldOut, PartSums
from poet.train.loop import Program
from poet.train.lora import LoraConfig
from poet.train.origin import Origin
from poet.train.state import TrainState
from poet.train.step import Batch, TrainStep, make_step, skip_non_finite, split_frozen


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is held out.

    Attributes:
      splits: Of the dataset; `lm.train` leaves out those it does not have.
      num_examples: At most so many a task and split.
    """

    splits: tuple[str, ...] = ("validation", "held_out")
    num_examples: int = 64

    def __post_init__(self):
        object.__setattr__(self, "splits", tuple(self.splits))
        if self.num_examples < 0:
            raise ValueError(
                f"num_examples={self.num_examples} must be 0 or more; 0 evaluates nothing."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextStart:
    """Where the text encoder comes from and whether it trains along.

    Attributes:
      weights: Folder of a published T5, or "" to draw its weights.
      is_frozen: Whether it stays as it began.
    """

    weights: str = ""
    is_frozen: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Updates:
    """What a step does besides a plain update.

    Attributes:
      num_micro_batches: Parts that a batch's gradients are computed in, one after the other.
      ema_decay: Of the moving average of the parameters that train; 0 keeps none.
      skips_non_finite: Whether the update of a step that is not finite is left out on the devices.
        Set `LoopConfig.max_skips` instead, from which an `LMRun` sets this.
    """

    num_micro_batches: int = 1
    ema_decay: float = 0.0
    skips_non_finite: bool = False

    def __post_init__(self):
        if self.num_micro_batches < 1:
            raise ValueError(
                f"num_micro_batches={self.num_micro_batches} must be at least 1; 1 takes a batch"
                " as a whole."
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(
                f"ema_decay={self.ema_decay} must be in [0, 1); 0.9999 is usual for long runs, 0"
                " keeps no average."
            )


_TEXT = "text_encoder"
_KEY = jax.eval_shape(lambda: jax.random.key(0))


@runtime_checkable
class Grouped(Protocol):
    """What programs need to know of the batches: `AgdBatches`, or groups without a dataset."""

    groups: Mapping[str, Any]


class LMPrograms:
    """Makes everything of a run that is compiled, for one model on one mesh.

    Args:
      model: In its order of tokens.
      tx: The optimizer.
      mesh: Of all devices.
      batches: Whose groups are trained on.
      text: Where the text encoder comes from.
      updates: What a step does besides a plain update.
      adapters: What trains in place of the model; None trains the model.
    """

    def __init__(
        self,
        model: PrefixLM,
        tx: optax.GradientTransformation,
        mesh: Mesh,
        batches: Grouped,
        text: TextStart = TextStart(),
        updates: Updates = Updates(),
        adapters: LoraConfig | None = None,
    ):
        check_matmuls(model.config.matmuls)
        self._model, self._tx, self._mesh = model, tx, mesh
        self._updates, self._adapters = updates, adapters
        self._text, self._text_config = text, model.config.text
        self._frozen = frozenset({_TEXT} if text.is_frozen and not adapters else ())
        self._batches = batches
        self._examples = {name: _example(group) for name, group in batches.groups.items()}
        name = next(iter(self._examples))
        boxed = self._shapes(batches.groups[name].plan, self._examples[name])
        params = meta.unbox(boxed)
        self._init_with = (batches.groups[name].plan, self._examples[name])
        param_shardings = partitioning.param_shardings(boxed, mesh)
        self.model_shapes = jax.tree.map(_shape, params, param_shardings)
        self._base, self._base_shapes = {}, {}
        if adapters:
            self._base_shapes = self.model_shapes
            params = jax.eval_shape(functools.partial(lora.init, adapters, params), _KEY)
            param_shardings = lora.shardings(adapters, param_shardings)
        state = jax.eval_shape(self._begin, params)
        whole = partitioning.replicated(mesh)
        self._shardings = TrainState(
            whole,
            param_shardings,
            partitioning.opt_state_shardings(state.opt_state, params, param_shardings, mesh),
            {},
            self._moving(param_shardings) if updates.ema_decay else {},
        )
        self.state_shapes = jax.tree.map(_shape, state, self._shardings)

    def adapt(self, base: Any) -> None:
        """Says which parameters the adapters adapt; needed before anything of a run of adapters."""
        self._base = base

    def init(self, key: Any, origin: Origin | None = None) -> TrainState:
        """State before step 0, born sharded; with an origin, its parameters and nothing else."""

        def make(key):
            if self._adapters:
                return self._begin(lora.init(self._adapters, self._base_shapes, key))
            params = self._model.init(key, *_zeros(*self._init_with))["params"]
            return self._begin(meta.unbox(params))

        with jax.set_mesh(self._mesh):
            if origin is not None:
                params = origin.load(self.state_shapes.params)
                return run_once(self._begin, params, out_shardings=self._shardings)
            state = run_once(make, key, out_shardings=self._shardings)
        if not self._text.weights or self._adapters:
            return state
        read = t5_weights.read_params(self._text.weights, self._text_config)
        read = jax.tree.map(_placed, read, self._shardings.params[_TEXT])
        return state.replace(params=state.params | {_TEXT: read})

    def _begin(self, params: Any) -> TrainState:
        moving = self._moving(params)
        ema = moving if self._updates.ema_decay else None
        return train_state.create(params, self._tx.init(moving), ema=ema)

    def _moving(self, params: Any) -> Any:
        return split_frozen(params, self._frozen)[0]

    def whole_params(self, params: Any) -> Any:
        """Parameters of the model itself: those given, or the base with adapters of these."""
        if not self._adapters:
            return params
        merge = jax.jit(functools.partial(lora.merge, self._adapters))
        with jax.set_mesh(self._mesh):
            return merge(self._base, params)

    def loss(self, plan: SequencePlan, base: Any, params: Any, batch: Batch, key: Any) -> Any:
        """(mean nats per weighted token, measures) of a batch; without a key nothing is dropped."""
        return self._applied("loss", plan, base, params, batch, key)

    def _applied(self, method: str, plan: Any, base: Any, params: Any, batch: Batch, key: Any):
        variables = {"params": params}
        if self._adapters:
            variables = lora.beside(self._adapters, base, params)
        rngs = None if key is None else {"dropout": key}
        with nn.logical_axis_rules(partitioning.RULES):
            return self._model.apply(variables, plan, batch, method=method, rngs=rngs)

    def compile_gradients(self, group: str) -> Any:
        """The compiled (state, batch, key) -> (what the update needs, measures) of a group."""
        plan = self._batches.groups[group].plan

        def gradients(base: Any, state: TrainState, batch: Batch, key: Any) -> Any:
            step = self._step(functools.partial(self.loss, plan, base))
            return step.gradients(state, batch, key)

        rows = partitioning.batch_sharding(self._mesh)
        passed = jax.tree.map(lambda leaf: leaf.sharding, self._passed_shapes)
        jitted = jax.jit(
            gradients,
            in_shardings=(self._base_shardings, self._shardings, rows, None),
            out_shardings=(passed, None),
        )
        shapes = (self._base_shapes, self.state_shapes, self._examples[group], _KEY)
        with jax.set_mesh(self._mesh):
            return functools.partial(jitted.lower(*shapes).compile(), self._base)

    def compile_update(self) -> Any:
        """The compiled (state, passed, key) -> (state, measures); donates the state."""
        passed = jax.tree.map(lambda leaf: leaf.sharding, self._passed_shapes)
        jitted = jax.jit(
            self._step(self.loss).update,  # Which loss it was does not matter here.
            donate_argnums=0,
            in_shardings=(self._shardings, passed, None),
            out_shardings=(self._shardings, None),
        )
        with jax.set_mesh(self._mesh):
            return jitted.lower(self.state_shapes, self._passed_shapes, _KEY).compile()

    def _step(self, loss: Any) -> TrainStep:
        updates = self._updates
        step = make_step(loss, self._tx, self._frozen, updates.num_micro_batches, updates.ema_decay)
        return skip_non_finite(step) if updates.skips_non_finite else step

    @property
    def _passed_shapes(self) -> Any:
        """Shapes of what `compile_gradients` gives and `compile_update` takes."""
        grads = self._moving(self.state_shapes.params)
        if not self._updates.skips_non_finite:
            return grads
        whole = partitioning.replicated(self._mesh)
        return grads, jax.ShapeDtypeStruct((), jnp.bool_, sharding=whole)

    def compile_loss(self, group: str) -> Any:
        """The compiled (params, batch) -> sums by part of a group, for evaluation."""
        plan = self._batches.groups[group].plan

        def measure(base: Any, params: Any, batch: Batch) -> PartSums:
            return self._applied("loss_by_part", plan, base, params, batch, None)

        rows = partitioning.batch_sharding(self._mesh)
        jitted = jax.jit(measure, in_shardings=(self._base_shardings, self._shardings.params, rows))
        shapes = (self._base_shapes, self.state_shapes.params, self._examples[group])
        with jax.set_mesh(self._mesh):
            return functools.partial(jitted.lower(*shapes).compile(), self._base)

    @property
    def _base_shardings(self) -> Any:
        return jax.tree.map(lambda leaf: leaf.sharding, self._base_shapes)

    def _shapes(self, plan: SequencePlan, batch: Batch) -> Any:
        make = functools.partial(self._model.init, plan=plan)
        return jax.eval_shape(lambda key, b: make(key, batch=b), _KEY, batch)["params"]


def lm_program(
    programs: LMPrograms,
    batches: AgdBatches,
    evaluation: Evaluation,
    mesh: Mesh,
    describe: tuple[tuple[str, str], ...] = (),
    origin: Origin | None = None,
) -> Program:
    """Returns what `loop.run` trains; programs compile in the background, most frequent first."""
    compiler = BackgroundCompiler(_compiles(programs, batches, bool(evaluation.num_examples)))
    held_out = HeldOut(
        batches,
        evaluation.splits,
        evaluation.num_examples,
        lambda group: compiler.get(f"loss/{group}"),
        mesh,
    )
    return Program(
        name="train",
        init=functools.partial(programs.init, origin=origin),
        batch_at=batches.batch_at,
        step_for=functools.partial(compiled_step, compiler),
        evaluate=held_out if evaluation.num_examples else None,
        place=functools.partial(partitioning.shard_batch, mesh=mesh),
        state_shapes=programs.state_shapes,
        warm_up=compiler.start,
        clean_up=compiler.cancel,
        describe=describe,
    )


def _compiles(programs: LMPrograms, batches: AgdBatches, has_evaluation: bool) -> dict[str, Any]:
    names = list(batches.groups)
    compiles = {"update": programs.compile_update}
    for name in names:
        compiles[f"gradients/{name}"] = functools.partial(programs.compile_gradients, name)
    if has_evaluation:
        for name in names:
            compiles[f"loss/{name}"] = functools.partial(programs.compile_loss, name)
    return compiles


def _example(group: Any) -> Batch:
    """Shapes of a global batch of a group."""
    rows, length = group.batch_size, group.plan.length - 1
    shapes = {
        "decoder_input_tokens": ((rows, length), jnp.int32),
        "decoder_target_tokens": ((rows, length), jnp.int32),
        "decoder_loss_weights": ((rows, length), jnp.float32),
        "text_ids": ((rows, group.plan.num_text_slots), jnp.int32),
        "text_is_dropped": ((rows,), jnp.bool_),
    }
    return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}


def _zeros(plan: SequencePlan, batch: Batch) -> tuple[SequencePlan, Batch]:
    # One row is enough to make the parameters.
    return plan, {n: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype) for n, leaf in batch.items()}


def _placed(value: np.ndarray, sharding: Any) -> jax.Array:
    """Each device gets its own part, so that no device ever holds a whole table."""
    return jax.make_array_from_callback(value.shape, sharding, lambda at: value[at])


def _shape(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
