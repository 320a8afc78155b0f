"""A regression that trains in milliseconds, for the tests of the loop; also runs as a script.

python toy_program.py MODEL_DIR NUM_STEPS PAUSE_S
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from poet.train import loop, optimizer, state, step

WIDTH = 16


def make(num_steps, pause_s=0.0, bad_step=None, bad_params=False, skips=False):
    """A program of two groups; `bad_step`, one or several, have an infinite batch."""
    bad_steps = np.atleast_1d([] if bad_step is None else bad_step)
    tx = optimizer.make_optimizer(optimizer.OptimizerConfig(warmup_steps=5), num_steps)

    def init(key):
        params = {"w": jax.random.normal(key, (WIDTH, WIDTH)), "b": jnp.zeros(WIDTH)}
        return state.create(params, tx.init(params), {"seen": jnp.zeros((), jnp.int32)})

    def loss_fn(params, batch, key):
        x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
        return jnp.mean((x @ params["w"] + params["b"][None] - batch["x"] ** 2) ** 2), {}

    regression = step.make_step(loss_fn, tx)
    if skips:
        regression = step.skip_non_finite(regression)

    def train_step(before, batch, key):
        after, measures = regression(before, batch, key)
        extra = {"seen": before.extra["seen"] + batch["x"].shape[0]}
        if bad_params:  # The loss stays finite, what comes of it does not.
            params = jax.tree.map(lambda x: x / (after.step < 7), after.params)
            after, measures = after.replace(params=params), {"loss_nats": jnp.zeros(())}
        return after.replace(extra=extra), measures

    def batch_at(number):
        time.sleep(pause_s)
        rng = np.random.default_rng((0, number))
        x = rng.normal(size=(8, WIDTH)).astype(np.float32)
        if number in bad_steps:
            x[:] = np.inf
        return ("odd" if rng.integers(2) else "even"), {"x": x}

    compiled = jax.jit(train_step, donate_argnums=0)
    return loop.Program(
        name="toy",
        init=jax.jit(init),
        batch_at=batch_at,
        step_for=lambda group: compiled,
        evaluate=lambda now, number: {"loss_nats": jnp.mean(now.params["w"] ** 2)},
        describe=(("what", "a regression"),),
    )


def config(model_dir, num_steps, **changes):
    """Saves every 10 steps, evaluates every 20."""
    settings = {"save_period": 10, "eval_period": 20, "log_period": 5} | changes
    return loop.LoopConfig(model_dir=str(model_dir), num_steps=num_steps, **settings)


if __name__ == "__main__":
    folder, steps, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    loop.run(make(steps, pause), config(folder, steps), lambda step: {"steps": steps})
    print("finished", flush=True)
