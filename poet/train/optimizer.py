"""AdamW, Adafactor or Muon with a warm-up, a schedule and clipping, from one frozen config."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

OPTIMIZERS = ("adamw", "adafactor", "muon")
SCHEDULES = ("cosine", "rsqrt", "wsd", "constant")
# Muon's steps get the root mean square that Adam's have in practice, so that one learning rate
# serves both (Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982, section 2.2).
_MUON_RMS = 0.2
# Adafactor keeps row and column means where the second largest dimension has this size: a head is
# so wide; the layers, which lie in front of scanned parameters, are fewer.
_FACTORED_FROM = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How parameters move.

    Attributes:
      name: "adamw"; "adafactor": no momentum, and second moments of matrices as row and column
        means, so that the state is small beside the parameters (Shazeer & Stern, arXiv 1804.04235;
        the rate is not relative to the parameter, so that AdamW's rates serve); or "muon": kernels
        move by their orthogonalised momentum, and everything else (tables, scales) by AdamW.
      learning_rate: The highest rate, reached when the warm-up ends.
      schedule: After the warm-up: "cosine" falls to `final_fraction` of the rate at the last step,
        "rsqrt" falls with one over the square root of the step, "wsd" stays until the last
        `decay_share` of the steps and then falls in a straight line to `final_fraction` of the
        rate, "constant" stays.
      warmup_steps: Steps over which the rate rises from zero in a straight line.
      final_fraction: What is left of the rate at the last step of "cosine" and "wsd".
      decay_share: Of the run's steps, in which "wsd" falls.
      weight_decay: Decoupled, on parameters of two or more dimensions only: scales and other
        vectors have no direction that a decay could shorten.
      muon_beta: Decay of Muon's momentum.
      b1: Decay of Adam's first moment.
      b2: Decay of Adam's second moment; Adafactor's rises with the step, 1 - step^-0.8.
      eps: Added to the root of the second moment.
      clip_norm: Gradients are scaled down to this global norm; 0 leaves them.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 100
    final_fraction: float = 0.1
    decay_share: float = 0.2
    weight_decay: float = 0.0
    muon_beta: float = 0.95
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 1.0

    def __post_init__(self):
        if self.name not in OPTIMIZERS:
            raise ValueError(
                f"name={self.name!r} is not known; use one of {', '.join(OPTIMIZERS)}."
            )
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
        if not 0 < self.decay_share <= 1:
            raise ValueError(
                f"decay_share={self.decay_share} must be above 0 and at most 1; 0.2 is usual."
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
    elif config.schedule == "wsd":
        decay = max(1, min(round(config.decay_share * num_steps), num_steps - warmup))
        fall = optax.linear_schedule(rate, rate * config.final_fraction, decay)
        stable = max(0, num_steps - warmup - decay)
        after = optax.join_schedules([optax.constant_schedule(rate), fall], [stable])
    else:
        after = optax.constant_schedule(rate)
    if not warmup:
        return after
    # The first step already moves: rate / warmup, not zero.
    rise = optax.linear_schedule(rate / warmup, rate, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])


def rate_at(config: OptimizerConfig, num_steps: int) -> Callable[[int], float]:
    """Returns step -> learning rate of that step as a number, for people to look at."""
    schedule = jax.jit(learning_rate_schedule(config, num_steps))
    return lambda step: float(schedule(step))


def make_optimizer(
    config: OptimizerConfig, num_steps: int, kernels: Callable[[Any], Any] | None = None
) -> optax.GradientTransformation:
    """Returns the optax transformation, schedule included.

    Args:
      config: Settings.
      num_steps: Of the run, for the schedule.
      kernels: Which parameters are kernels, for Muon; `linear_kernels` if None.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    if config.name == "muon":
        # At rate 1 its updates are directions; decay and rate are ours, because its own decay of
        # what AdamW moves knows no mask.
        direction = contrib.muon(
            1.0,
            beta=config.muon_beta,
            eps=config.eps,
            adam_b1=config.b1,
            adam_b2=config.b2,
            muon_weight_dimension_numbers=kernels or linear_kernels,
            consistent_rms=_MUON_RMS,
        )
        sign = 1.0
    elif config.name == "adafactor":
        # An update's root mean square is at most 1, as Adam's is in practice.
        direction = optax.chain(
            optax.scale_by_factored_rms(min_dim_size_to_factor=_FACTORED_FROM),
            optax.clip_by_block_rms(1.0),
        )
        sign = -1.0
    else:
        direction = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
        sign = -1.0
    decay = optax.add_decayed_weights(-sign * config.weight_decay, _decays)
    rate = learning_rate_schedule(config, num_steps)
    return optax.chain(
        clip, direction, decay, optax.scale_by_schedule(lambda step: sign * rate(step))
    )


def linear_kernels(params: Any) -> Any:
    """Which axes of each kernel of a transformer are contracted; None for what is no kernel.

    A kernel below "layers" has the layers in front. Attention's output kernel [heads, kv, embed]
    contracts all but its last axis, every other kernel its first.
    """

    def dimensions(names: tuple[str, ...], leaf: Any) -> contrib.MuonDimensionNumbers:
        axes = tuple(range(names[0] == "layers", leaf.ndim))
        num_in = len(axes) - 1 if names[-2] == "out" else 1
        return contrib.MuonDimensionNumbers(axes[:num_in], axes[num_in:])

    return _map_kernels(dimensions, params)


def convolution_kernels(params: Any) -> Any:
    """As `linear_kernels`, for kernels [taps..., in, out]: all but the last axis are contracted.

    Kernels that make several pixels at once ("up_...") are left to AdamW: theirs are by far the
    widest matrices of a small tokenizer (1,728 x 512), and the most arithmetic to orthogonalise.
    """

    def dimensions(names: tuple[str, ...], leaf: Any) -> contrib.MuonDimensionNumbers | None:
        if any(name.startswith("up_") for name in names):
            return None
        return contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    return _map_kernels(dimensions, params)


def _map_kernels(dimensions: Callable[[tuple[str, ...], Any], Any], params: Any) -> Any:
    def visit(path: Any, leaf: Any) -> contrib.MuonDimensionNumbers | None:
        names = tuple(key.key for key in path)
        return dimensions(names, leaf) if names[-1] == "kernel" else None

    return jax.tree_util.tree_map_with_path(visit, params)


def _decays(params: Any) -> Any:
    """True for what has two dimensions or more, not counting scanned layers in front."""

    def visit(path: Any, leaf: Any) -> bool:
        return leaf.ndim - (path[0].key == "layers") >= 2

    return jax.tree_util.tree_map_with_path(visit, params)
