"""One training step of the visual tokenizer, pure: reconstruction, quantizer, adversarial losses.

`TrainState.extra` holds the step at which each code was used last ("used_at"), the moving average
of the parameters when one is asked for ("ema"), the frozen network of the perceptual term
("perceptual"), and for each shape of clips its discriminator with
optimizer and running means ("game"): the last layers of a discriminator read the whole grid, so
pictures and clips have one each, and none is inflated.

Axes: B batch, T frames, Y rows, X columns, V codes.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from poet.tokenizers import adversarial, inflation, magvit2, perceptual
from poet.tokenizers.adversarial import AdversarialConfig
from poet.tokenizers.discriminator import Discriminator, DiscriminatorConfig
from poet.tokenizers.magvit2 import Magvit2, MagvitConfig
from poet.tokenizers.perceptual import PerceptualConfig
from poet.tokenizers.quantizers import lfq
from poet.train import state as train_state
from poet.train.state import TrainState
from poet.train.step import TrainStep
from poet.typing import Array, Bool, Float, Shaped

# The step at which an unused code was used.
_NEVER = -(2**30)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualLossConfig:
    """What the visual tokenizer is trained for.

    Attributes:
      reconstruction_weight: Of the mean squared error of pixels in [0, 1].
      quantizer: Weights of commitment and entropy of the lookup-free quantizer; the finite scalar
        one has no losses.
      ema_decay: Share of the moving average of parameters that survives a step; 0 keeps none and
        the tokenizer has the last step's parameters.
      discriminator: Sizes of the discriminators; None trains without.
      adversarial: Weights of the game with them.
      perceptual: Network and weight of the perceptual term; None trains without.
      hardening_steps: Steps over which latents turn from bounded numbers to signs; 0 takes the
        signs from the first step, as the paper does.
      compute_dtype: Of the convolutions, "float32" or "bfloat16". Parameters, statistics of norms,
        the quantizer and its entropies, losses and R1 are float32 either way.
      remat_blocks: Residual blocks are computed again in the backward pass: for clips less memory
        and more products, 12 % of a step at the paper's sizes (`Magvit2.remat_blocks`).
      codes_window: Steps over which `codes_used_lately` counts.
      codes_floor: A smaller share of the codes in use is warned of.
    """

    reconstruction_weight: float = 5.0
    quantizer: lfq.LfqLossConfig = lfq.LfqLossConfig()
    ema_decay: float = 0.0
    discriminator: DiscriminatorConfig | None = None
    adversarial: AdversarialConfig = AdversarialConfig()
    perceptual: PerceptualConfig | None = None
    hardening_steps: int = 0
    compute_dtype: str = "float32"
    remat_blocks: bool = False
    codes_window: int = 100
    codes_floor: float = 0.05

    def __post_init__(self):
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"compute_dtype={self.compute_dtype!r} must be 'float32' or 'bfloat16'; float16"
                " overflows here."
            )
        if self.codes_window < 1:
            raise ValueError(f"codes_window={self.codes_window} must be at least 1.")
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
    clip_shapes: Sequence[tuple[int, int, int]] = (),
) -> TrainState:
    """State before the first step.

    Args:
      clip_shapes: Frames, rows and columns of the batches to come; needed with a discriminator.
    """
    params = magvit2.init_params(config, key)
    extra = {"used_at": jnp.full(config.num_codes, _NEVER, jnp.int32)}
    if loss_config.ema_decay:
        extra["ema"] = jax.tree.map(jnp.copy, params)
    if loss_config.perceptual is not None:
        extra["perceptual"] = jax.tree.map(jnp.asarray, perceptual.load(loss_config.perceptual))
    if loss_config.discriminator is not None:
        extra["game"] = {
            _shape_name(shape): _init_game(jax.random.fold_in(key, i), loss_config, shape)
            for i, shape in enumerate(clip_shapes)
        }
    return train_state.create(params, tx.init(params), extra)


def _shape_name(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


def _init_game(key: Array, loss_config: VisualLossConfig, shape: tuple[int, int, int]) -> Any:
    model = Discriminator(loss_config.discriminator)
    params = model.init(key, jnp.zeros((1, *shape, 3)))["params"]
    opt_state = adversarial.optimizer(loss_config.adversarial).init(params)
    return {"params": params, "opt_state": opt_state, "means": adversarial.initial_means()}


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
    """First half of a step: (gradients, codes used and the next "game"; measures of the loss).

    Tokenizer and discriminator both answer to the other's parameters before the step.

    Args:
      state: Only read.
      batch: uint8 pixels, or float pixels in [0, 1].
      key: Not used: nothing is drawn here. Part of every step function's signature.
    """
    del key
    video = unit_pixels(batch)

    game, shape = state.extra.get("game", {}), _shape_name(video.shape[1:4])
    side = game.get(shape)

    def loss_fn(params):
        loss, (measures, restored, used) = losses(params, video, state.step, config, loss_config)
        if loss_config.perceptual is not None:
            pairs = [each.reshape(-1, *each.shape[2:]) for each in (video, restored)]
            seen = perceptual.distance(state.extra["perceptual"], *pairs, loss_config.perceptual)
            loss += loss_config.perceptual.weight * seen
            measures |= {"perceptual": seen}
        if side is not None:
            fooled = adversarial.generator_loss(_logits(side["params"], restored, loss_config))
            loss += loss_config.adversarial.generator_weight * fooled
            measures |= {"adversarial": fooled}
        return loss, (measures, restored, used)

    (loss, kept), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    measures, restored, used = kept
    if side is not None:
        side, seen = _discriminate(side, video, restored, state.step, loss_config)
        game, measures = game | {shape: side}, measures | seen
    return {"params": grads, "game": game, "used": used}, measures | {"loss": loss}


def _logits(params, video, loss_config, dtype=None):
    """float32 logits, computed in `dtype`, by default the one of the loss config."""
    dtype = dtype or loss_config.compute_dtype
    model = Discriminator(loss_config.discriminator)
    return model.apply({"params": _cast(params, dtype)}, video.astype(dtype)).astype(jnp.float32)


def _cast(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def _discriminate(side, real, restored, step, loss_config):
    """One step of a discriminator: (what `_init_game` gives, moved; measures)."""
    config = loss_config.adversarial
    fake = jax.lax.stop_gradient(restored)

    def loss_fn(params):
        on_real, on_fake = _logits(params, real, loss_config), _logits(params, fake, loss_config)
        means = adversarial.moved_means(side["means"], on_real, on_fake, config.lecam_decay)
        told_apart = adversarial.discriminator_loss(on_real, on_fake)
        pull = adversarial.lecam_penalty(means, on_real, on_fake)
        loss = told_apart + config.lecam_weight * pull
        slope = jnp.float32(0.0)
        if config.r1_weight:
            # A square of gradients: float32, whatever the rest is computed in.
            logits = functools.partial(_logits, params, loss_config=loss_config, dtype="float32")
            slope = jax.lax.cond(
                step % config.r1_period == 0,
                lambda: adversarial.slope_penalty(logits, real),
                lambda: jnp.float32(0.0),
            )
            loss += config.r1_weight * config.r1_period * slope
        return loss, (
            means,
            {
                "discriminator": told_apart,
                "logit_real": jnp.mean(on_real),
                "logit_fake": jnp.mean(on_fake),
                "r1": slope,
                "lecam": pull,
            },
        )

    (_, (means, measures)), grads = jax.value_and_grad(loss_fn, has_aux=True)(side["params"])
    tx = adversarial.optimizer(config)
    updates, opt_state = tx.update(grads, side["opt_state"], side["params"])
    params = optax.apply_updates(side["params"], updates)
    return {"params": params, "opt_state": opt_state, "means": means}, measures


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
    updates, opt_state = tx.update(grads["params"], state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # The discriminators were moved with the gradients: they need the batch.
    extra = state.extra | ({"game": grads["game"]} if grads["game"] else {})
    used_at = jnp.where(grads["used"], state.step, extra["used_at"])
    extra = extra | {"used_at": used_at}
    lately = jnp.sum(used_at > state.step - loss_config.codes_window)
    if loss_config.ema_decay:
        # Early on the average follows closely, so that it forgets the initial parameters.
        decay = jnp.minimum(loss_config.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = optax.incremental_update(params, extra["ema"], 1.0 - decay)
        extra = extra | {"ema": ema}
    step = state.step + 1
    if inflate_at:
        trees = [params, extra["ema"]] if "ema" in extra else [params]
        trees = jax.lax.cond(
            step == inflate_at,
            lambda trees: [inflation.inflate(tree) for tree in trees],
            lambda trees: trees,
            trees,
        )
        params, extra = trees[0], extra | ({"ema": trees[1]} if "ema" in extra else {})
    norm = optax.tree.norm(grads["params"])
    measures = {"grad_norm": norm, "codes_used_lately": lately}
    return TrainState(step, params, opt_state, extra), measures


def losses(
    params: Any,
    video: Float[Array, "B T Y X 3"],
    step: Array,
    config: MagvitConfig,
    loss_config: VisualLossConfig,
) -> tuple[Float[Array, ""], tuple[dict[str, Array], Float[Array, "B T Y X 3"], Bool[Array, "V"]]]:
    """The weighted loss without the game; (measures, restored clips, which codes were used).

    Measures are `psnr_db` with `psnr_db_first` of first frames and `psnr_db_later` of the others,
    `codes_used` by the `num_tokens` of the batch, the mean of each channel of the codes
    (`channel_mean/00`, near 1 or -1 where it is dead) with the largest as `largest_bit_mean`, and
    the quantizer's parts.
    """
    hardness = None
    if loss_config.hardening_steps:
        hardness = jnp.minimum(1.0, step / loss_config.hardening_steps)
    dtype = loss_config.compute_dtype
    model = {"params": _cast(params, dtype)}
    tokenizer = Magvit2(config, loss_config.remat_blocks)
    restored, latents = tokenizer.apply(model, video.astype(dtype), hardness)
    restored = restored.astype(jnp.float32)
    squared = (restored - video) ** 2
    error = jnp.mean(squared)
    quantizer = config.quantizer
    quantizer_loss, measures = quantizer.losses(latents, step, loss_config.quantizer)
    ids = quantizer.to_ids(latents)
    used = lfq.used_codes(ids, config.num_codes)
    means = jnp.mean(quantizer.from_ids(ids).reshape(-1, quantizer.num_channels), axis=0)
    measures |= {
        "psnr_db": _decibels(error),
        "psnr_db_first": _decibels(jnp.mean(squared[:, 0])),
        "codes_used": jnp.sum(used),
        "num_tokens": jnp.float32(ids.size),
        "largest_bit_mean": jnp.max(jnp.abs(means)),
    }
    measures |= {f"channel_mean/{i:02}": mean for i, mean in enumerate(means)}
    if video.shape[1] > 1:
        measures["psnr_db_later"] = _decibels(jnp.mean(squared[:, 1:]))
    loss = loss_config.reconstruction_weight * error + quantizer_loss
    return loss, (measures, restored, used)


def _decibels(error):
    """PSNR of pixels in [0, 1]."""
    return -10.0 * jnp.log10(error + 1e-10)


def tokenizer_params(state: TrainState) -> Any:
    """What `VisualTokenizer` needs of a training state: the moving average if one was kept."""
    return state.extra["ema"] if "ema" in state.extra else state.params


def unit_pixels(video: Shaped[Array, "B T Y X 3"]) -> Float[Array, "B T Y X 3"]:
    """float32 pixels in [0, 1]; uint8 is divided by 255."""
    if jnp.issubdtype(video.dtype, jnp.integer):
        return video.astype(jnp.float32) / 255.0
    return video.astype(jnp.float32)
