"""AdamW with a warm-up, a schedule and clipping, from one frozen config."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

SCHEDULES = ("cosine", "rsqrt", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How parameters move.

    Attributes:
      learning_rate: The highest rate, reached when the warm-up ends.
      schedule: After the warm-up: "cosine" falls to `final_fraction` of the rate at the last step,
        "rsqrt" falls with one over the square root of the step, "constant" stays.
      warmup_steps: Steps over which the rate rises from zero in a straight line.
      final_fraction: What is left of the rate at the last step of a cosine.
      weight_decay: Decoupled, on parameters of two or more dimensions only: scales and other
        vectors have no direction that a decay could shorten.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Added to the root of the second moment.
      clip_norm: Gradients are scaled down to this global norm; 0 leaves them.
    """

    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 100
    final_fraction: float = 0.1
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 1.0

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"schedule={self.schedule!r} is not known; use one of {', '.join(SCHEDULES)}."
            )
        # Written so that NaN fails as well.
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(
                f"learning_rate={self.learning_rate} must be a positive number; 1e-3 is a start."
            )
        if self.warmup_steps < 0:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} must be 0 or more; 0 means no warm-up."
            )


def learning_rate_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Returns step -> learning rate for a run of `num_steps`."""
    warmup = min(config.warmup_steps, num_steps)
    rate = config.learning_rate
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(rate, max(1, num_steps - warmup), config.final_fraction)
    elif config.schedule == "rsqrt":
        # Continuous at the end of the warm-up, where the step is `warmup`.
        start = max(1, warmup)

        def after(step):
            # optax asks for steps before the warm-up's end too, and drops the answer.
            return rate * jnp.sqrt(start / (start + jnp.maximum(step, 0)))
    else:
        after = optax.constant_schedule(rate)
    if not warmup:
        return after
    # The first step already moves: rate / warmup, not zero.
    rise = optax.linear_schedule(rate / warmup, rate, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Returns the optax transformation, schedule included."""
    adamw = optax.adamw(
        learning_rate_schedule(config, num_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=_decays,
    )
    if not config.clip_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)


def _decays(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)
