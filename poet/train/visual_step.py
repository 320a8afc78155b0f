"""One training step of the visual tokenizer, pure: reconstruction and quantizer losses.

`TrainState.extra` holds the moving average of the parameters when one is asked for.

Axes: B batch, T frames, Y rows, X columns, W clips in memory.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from poet.tokenizers import inflation, magvit2
from poet.tokenizers.magvit2 import Magvit2, MagvitConfig
from poet.tokenizers.quantizers import lfq
from poet.train import state as train_state
from poet.train.state import TrainState
from poet.train.step import TrainStep
from poet.typing import Array, Float, Shaped


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualLossConfig:
    """What the visual tokenizer is trained for.

    Attributes:
      reconstruction_weight: Of the mean squared error of pixels in [0, 1].
      quantizer: Weights of commitment and entropy.
      ema_decay: Share of the moving average of parameters that survives a step; 0 keeps none and
        the tokenizer has the last step's parameters.
      hardening_steps: Steps over which latents turn from bounded numbers to signs; 0 takes the
        signs from the first step, as the paper does.
    """

    reconstruction_weight: float = 5.0
    quantizer: lfq.LfqLossConfig = lfq.LfqLossConfig()
    ema_decay: float = 0.0
    hardening_steps: int = 0

    def __post_init__(self):
        if self.hardening_steps < 0:
            raise ValueError(f"hardening_steps={self.hardening_steps} must be 0 or more.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(
                f"ema_decay={self.ema_decay} is a share; give a number from 0 to below 1."
            )


def init(
    key: Array,
    config: MagvitConfig,
    loss_config: VisualLossConfig,
    tx: optax.GradientTransformation,
) -> TrainState:
    """State before the first step."""
    params = magvit2.init_params(config, key)
    extra = {"ema": jax.tree.map(jnp.copy, params)} if loss_config.ema_decay else {}
    return train_state.create(params, tx.init(params), extra)


def make_step(
    config: MagvitConfig,
    loss_config: VisualLossConfig,
    tx: optax.GradientTransformation,
    inflate_at: int = 0,
) -> TrainStep:
    """The step: (state, batch, key) -> (state, measures), or its halves."""
    update = {"loss_config": loss_config, "tx": tx, "inflate_at": inflate_at}
    return TrainStep(
        gradients=functools.partial(gradients, config=config, loss_config=loss_config),
        update=functools.partial(apply_gradients, **update),
    )


def gradients(
    state: TrainState,
    batch: Shaped[Array, "B T Y X 3"],
    key: Array,
    *,
    config: MagvitConfig,
    loss_config: VisualLossConfig,
) -> tuple[Any, dict[str, Float[Array, ""]]]:
    """First half of a step: (gradients, measures of the loss).

    Args:
      state: Only read.
      batch: uint8 pixels, or float pixels in [0, 1].
      key: Not used: nothing is drawn here. Part of every step function's signature.
    """
    del key
    video = unit_pixels(batch)

    def loss_fn(params):
        return losses(params, video, state.step, config, loss_config)

    (loss, measures), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return grads, measures | {"loss": loss}


def apply_gradients(
    state: TrainState,
    grads: Any,
    key: Array,
    *,
    loss_config: VisualLossConfig,
    tx: optax.GradientTransformation,
    inflate_at: int = 0,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Second half of a step: (next state, measures of the update).

    Args:
      state: Donated by the caller's jit; do not use it after the call.
      grads: Of `gradients`.
      key: Not used.
      inflate_at: The step before which parameters are inflated, the first on video after steps on
        images; 0 for none.
    """
    del key
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params, extra = optax.apply_updates(state.params, updates), state.extra
    if loss_config.ema_decay:
        # Early on the average follows closely, so that it forgets the initial parameters.
        decay = jnp.minimum(loss_config.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = optax.incremental_update(params, extra["ema"], 1.0 - decay)
        extra = extra | {"ema": ema}
    step = state.step + 1
    if inflate_at:

        def inflate(trees):
            params, extra = trees
            return inflation.inflate(params), {k: inflation.inflate(v) for k, v in extra.items()}

        is_time, trees = step == inflate_at, (params, extra)
        params, extra = jax.lax.cond(is_time, inflate, lambda same: same, trees)
    return TrainState(step, params, opt_state, extra), {"grad_norm": optax.tree.norm(grads)}


def losses(
    params: Any,
    video: Float[Array, "B T Y X 3"],
    step: Array,
    config: MagvitConfig,
    loss_config: VisualLossConfig,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The weighted loss; `psnr_db`, `codes_used`, `largest_bit_mean` and the quantizer's parts.

    `largest_bit_mean` is the largest |mean| of a bit over the batch: near 1 a bit is dead.
    """
    hardness = None
    if loss_config.hardening_steps:
        hardness = jnp.minimum(1.0, step / loss_config.hardening_steps)
    restored, latents = Magvit2(config).apply({"params": params}, video, hardness)
    error = jnp.mean((restored - video) ** 2)
    quantizer_loss, measures = lfq.losses(latents, step, loss_config.quantizer)
    bits = jnp.mean(lfq.signs(latents).reshape(-1, config.num_bits), axis=0)
    measures |= {
        "psnr_db": -10.0 * jnp.log10(error + 1e-10),
        "codes_used": lfq.codes_used(lfq.to_ids(latents), config.num_codes),
        "largest_bit_mean": jnp.max(jnp.abs(bits)),
    }
    return loss_config.reconstruction_weight * error + quantizer_loss, measures


def tokenizer_params(state: TrainState) -> Any:
    """What `VisualTokenizer` needs of a training state: the moving average if one was kept."""
    return state.extra["ema"] if "ema" in state.extra else state.params


def unit_pixels(video: Shaped[Array, "B T Y X 3"]) -> Float[Array, "B T Y X 3"]:
    """float32 pixels in [0, 1]; uint8 is divided by 255."""
    if jnp.issubdtype(video.dtype, jnp.integer):
        return video.astype(jnp.float32) / 255.0
    return video.astype(jnp.float32)
