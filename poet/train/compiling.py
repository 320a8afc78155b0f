"""Programs compiled in background threads while the first ones already train."""

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from poet.train.step import StepFn, TrainStep

ShardFn = Callable[[Any], Any]

# Loss and gradients of a tiny language model take 10.5 s of processor time to compile, 4.6 without
# optimization, and 1.5 with XLA's older emitters too.
_FAST_ON_CPU = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def run_once(make: Callable[..., Any], *args: Any, out_shardings: Any = None) -> Any:
    """Returns make(*args) by one compiled program that is not kept.

    On CPU it is compiled fast rather than well, which would cost more than it saves.
    """
    lowered = jax.jit(make, out_shardings=out_shardings).lower(*args)
    options = _FAST_ON_CPU if jax.default_backend() == "cpu" else None
    return lowered.compile(compiler_options=options)(*args)


class BackgroundCompiler:
    """Runs `compile()` functions in the order given and hands out what they return.

    Args:
      compiles: name -> function that returns a compiled program; first ones first.
      num_threads: XLA compiles one program mostly on one core, so two programs at a time do not
        get in each other's way on a machine with two.
    """

    def __init__(self, compiles: Mapping[str, Callable[[], Any]], num_threads: int = 2):
        self._compiles = dict(compiles)
        self._num_threads = num_threads
        self._futures: dict[str, Future] = {}

    def start(self) -> None:
        """Queues everything and returns at once. Calling it again does nothing."""
        if self._futures:
            return
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="compile")
        self._futures = {name: pool.submit(fn) for name, fn in self._compiles.items()}
        # The threads end when the queue is empty; what is not compiled by the end of a short
        # program is dropped with `cancel`.
        pool.shutdown(wait=False)

    def get(self, name: str) -> Any:
        """Returns the compiled program, waiting for it; an error of its compilation is raised."""
        self.start()
        return self._futures[name].result()

    def cancel(self) -> None:
        """Drops what has not begun."""
        for future in self._futures.values():
            future.cancel()


def step_compiles(
    step: TrainStep,
    state: Any,
    batches: Mapping[str, jax.ShapeDtypeStruct],
    shard: ShardFn,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Callable[[], Any]]:
    """What compiles the halves of a step, for `BackgroundCompiler`.

    Parameters that devices share are gathered whole before the gradients, and these are summed
    after: left to the partitioner, convolutions of few rows exchange their inputs and partial sums
    instead, several times as many bytes (docs/scale.md).

    Args:
      step: If there are several shapes of batches, its update must not depend on them.
      state: Shapes of the state, with shardings.
      batches: Group -> shape of its batches, with sharding, first needed ones first.
      shard: Tree of shapes -> tree of shardings, for what passes from half to half.
      options: Of XLA.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)

    def gradient_shapes(batch):
        grads, _ = jax.eval_shape(step.gradients, state, batch, key)
        return jax.tree.map(with_sharding, grads, shard(grads))

    def gradients(state, batch, key):
        return step.gradients(jax.tree.map(_gathered, state, shardings), batch, key)

    def compile_gradients(batch):
        out = jax.tree.map(lambda leaf: leaf.sharding, gradient_shapes(batch))
        jitted = jax.jit(gradients, out_shardings=(out, None))
        return jitted.lower(state, batch, key).compile(options)

    def compile_update():
        grads = gradient_shapes(next(iter(batches.values())))
        jitted = jax.jit(step.update, donate_argnums=0, out_shardings=(shardings, None))
        return jitted.lower(state, grads, key).compile(options)

    compiles = {
        f"gradients/{group}": functools.partial(compile_gradients, batch)
        for group, batch in batches.items()
    }
    # Second in the queue: the first step waits for it too, the later groups can wait.
    first = next(iter(compiles))
    return {first: compiles[first], "update": compile_update} | compiles


def _gathered(leaf: Any, sharding: Any) -> Any:
    if sharding.is_fully_replicated:
        return leaf
    return jax.lax.with_sharding_constraint(leaf, NamedSharding(sharding.mesh, PartitionSpec()))


def with_sharding(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    """The shape and type of an array, at home on `sharding`."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def compiled_step(compiler: BackgroundCompiler, group: str) -> StepFn:
    """The step of a group, from the programs "gradients/GROUP" and "update"."""
    return TrainStep(gradients=compiler.get(f"gradients/{group}"), update=compiler.get("update"))
