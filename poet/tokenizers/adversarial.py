"""Losses of the game between a tokenizer and its discriminator: all of one batch of logits.

Non-saturating losses, a penalty on the slope at real clips (R1) and LeCAM's pull of the logits
towards their own running means. Weights are those of MAGVIT; LeCAM is arXiv 2104.03310.

Axes: B batch (of all devices: means are global).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from poet.typing import Array, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """Weights of the game.

    Attributes:
      generator_weight: Of the tokenizer's loss for being recognised.
      r1_weight: Of the mean squared gradient at real clips (no factor of a half).
      r1_period: Steps between two penalties, each then so many times heavier.
      lecam_weight: Of the pull towards the running means; 0 leaves it out.
      lecam_decay: Share of the running means that survives a step.
      learning_rate: Of the discriminator, by Adam with the moments' decays 0 and 0.99.
    """

    generator_weight: float = 0.1
    r1_weight: float = 10.0
    r1_period: int = 1
    lecam_weight: float = 1e-3
    lecam_decay: float = 0.999
    learning_rate: float = 1e-4

    def __post_init__(self):
        weights = (self.generator_weight, self.r1_weight, self.lecam_weight, self.learning_rate)
        if min(weights) < 0 or self.r1_period < 1 or not 0 <= self.lecam_decay < 1:
            raise ValueError(
                f"{self}: expected weights of 0 or more, r1_period of at least 1 and lecam_decay"
                " from 0 to below 1."
            )


def optimizer(config: AdversarialConfig) -> optax.GradientTransformation:
    """The discriminator's own: Adam without momentum, as in MAGVIT."""
    return optax.adam(config.learning_rate, b1=0.0, b2=0.99)


def generator_loss(fake: Float[Array, "B"]) -> Float[Array, ""]:
    """Small where restored clips are taken for real ones."""
    return jnp.mean(jax.nn.softplus(-fake))


def discriminator_loss(real: Float[Array, "B"], fake: Float[Array, "B"]) -> Float[Array, ""]:
    """Small where both are told apart; 2 log 2 where they are not."""
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


def slope_penalty(
    logits_of: Callable[[Array], Float[Array, "B"]], real: Float[Array, "B T Y X 3"]
) -> Float[Array, ""]:
    """R1: mean over clips of the squared length of the logit's gradient by the pixels."""
    slopes = jax.grad(lambda video: jnp.sum(logits_of(video)))(real)
    return jnp.mean(jnp.sum(slopes**2, axis=(1, 2, 3, 4)))


def initial_means() -> dict[str, Float[Array, ""]]:
    """LeCAM's running means of logits before the first step."""
    return {"real": jnp.float32(0.0), "fake": jnp.float32(0.0)}


def moved_means(
    means: dict[str, Array], real: Float[Array, "B"], fake: Float[Array, "B"], decay: float
) -> dict[str, Float[Array, ""]]:
    """The running means after this batch; no gradient goes through them."""
    now = {"real": jnp.mean(real), "fake": jnp.mean(fake)}
    return {
        name: jax.lax.stop_gradient(decay * means[name] + (1.0 - decay) * now[name])
        for name in ("real", "fake")
    }


def lecam_penalty(
    means: dict[str, Array], real: Float[Array, "B"], fake: Float[Array, "B"]
) -> Float[Array, ""]:
    """How far real logits lie above the mean of fakes, and fakes below the mean of real ones."""
    above = jnp.mean(jax.nn.relu(real - means["fake"]) ** 2)
    below = jnp.mean(jax.nn.relu(means["real"] - fake) ** 2)
    return above + below
