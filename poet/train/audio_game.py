"""The audio tokenizer's game with its discriminators (spec/tokenizers.md c.3, c.4), pure.

`audio_step` plays it once a step. What it remembers, the discriminators' parameters and their
optimizer, is a dict {"params", "opt_state"} in `TrainState.extra["game"]`.

Axes: B batch, S samples.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from poet.tokenizers import audio_discriminators as judges
from poet.tokenizers.audio_discriminators import AudioDiscriminators
from poet.typing import Array, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioGameConfig:
    """Weights of the game; the first two are the paper's.

    Attributes:
      generator_weight: Of the hinge loss for being recognised.
      feature_weight: Of the distance of the discriminators' features.
      learning_rate: Of the discriminators, by Adam with the moments' decays 0.5 and 0.9.
    """

    generator_weight: float = 1.0
    feature_weight: float = 100.0
    learning_rate: float = 1e-4

    def __post_init__(self):
        for name in ("generator_weight", "feature_weight", "learning_rate"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be 0 or more; the default is"
                    f" {AudioGameConfig.__dataclass_fields__[name].default}."
                )


def init(
    key: Array, model: AudioDiscriminators, config: AudioGameConfig, crop_samples: int
) -> dict[str, Any]:
    """The game before the first step.

    Args:
      crop_samples: S of the batches to come; only shapes follow from it.
    """
    params = model.init(key, jnp.zeros((1, crop_samples)))["params"]
    return {"params": params, "opt_state": _optimizer(config).init(params)}


def fool(
    model: AudioDiscriminators,
    config: AudioGameConfig,
    params: Any,
    wave: Float[Array, "B S"],
    target: Float[Array, "B S"],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The tokenizer's share: (weighted loss, measures `adversarial` and `features`).

    Args:
      params: Of the discriminators; they get no gradient that anyone uses.
      wave: What the tokenizer made, in [-1, 1] by and large.
      target: What it was to make.
    """
    fake = model.apply({"params": params}, wave)
    real = jax.lax.stop_gradient(model.apply({"params": params}, target))
    fooled, features = judges.generator_loss(fake), judges.feature_loss(real, fake)
    loss = config.generator_weight * fooled + config.feature_weight * features
    return loss, {"adversarial": fooled, "features": features}


def judge(
    model: AudioDiscriminators,
    config: AudioGameConfig,
    game: dict[str, Any],
    real: Float[Array, "B S"],
    fake: Float[Array, "B S"],
) -> tuple[dict[str, Any], dict[str, Float[Array, ""]]]:
    """One step of the discriminators: (the game after it, measures).

    Measures: the hinge loss `discriminator`, 2 where nothing is told apart, and the mean logits
    `logit_real` and `logit_fake`.
    """

    def loss_fn(params):
        on_real, on_fake = (model.apply({"params": params}, wave) for wave in (real, fake))
        loss = judges.discriminator_loss(on_real, on_fake)
        return loss, {
            "discriminator": loss,
            "logit_real": judges.mean_logit(on_real),
            "logit_fake": judges.mean_logit(on_fake),
        }

    (_, measures), grads = jax.value_and_grad(loss_fn, has_aux=True)(game["params"])
    updates, opt_state = _optimizer(config).update(grads, game["opt_state"], game["params"])
    params = optax.apply_updates(game["params"], updates)
    return {"params": params, "opt_state": opt_state}, measures


def _optimizer(config: AudioGameConfig) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate, b1=0.5, b2=0.9)
