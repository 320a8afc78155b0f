"""One training step of the audio tokenizer, pure: reconstruction, quantizer, adversarial losses.

`TrainState.extra` holds the codebooks (`quantizers.rvq.Codebooks`); they follow running means, not
gradients. With discriminators it is a dict of them ("codebooks") and of what `audio_game`
remembers ("game"). Every draw comes from (key, step), so a resumed run repeats
itself.

Axes: B batch, S samples.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from poet.tokenizers import mel
from poet.tokenizers.audio_discriminators import AudioDiscriminatorConfig, AudioDiscriminators
from poet.tokenizers.quantizers import rvq
from poet.tokenizers.soundstream import SoundStream, SoundStreamConfig, init_params
from poet.train import audio_game
from poet.train import state as train_state
from poet.train.audio_game import AudioGameConfig
from poet.train.state import TrainState
from poet.train.step import TrainStep
from poet.typing import Array, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioLossConfig:
    """What the audio tokenizer is trained for.

    Attributes:
      wave_weight: Of the mean absolute difference of samples.
      wave_square_weight: Of their mean squared difference, which cares most for what is still far
        off: short loud events, once the steady sound fits.
      pre_emphasis: Share of the previous sample that is taken from each sample in both wave terms.
      emphasis_order: How often that is done. A rare short event at 3 kHz must outweigh a steady
        tone, or a short training leaves it out: the mel distance alone starts flat at silence,
        where it cannot know which phase to grow. Twice with 0.97 is enough for 300 to 1,150 Hz.
      mel_weight: Of the multi-scale mel distance.
      commitment_weight: Of the pull of latents towards their codes.
      mel_window_samples: Window sizes of the mel distance.
      mel_bins: Bins of every window size.
      mel_floor: Amplitude below which a bin counts as silent.
      mel_tolerance: Distance of log spectra below which a window counts as nearly right.
      codebook_decay: Share of the running means that survives a step.
      dead_below: Running count, in frames a batch, below which a code is given a new place.
      place_above: Codes are only placed on frames whose squared distance to their code exceeds this
        share of the latents' variance. Above 0, steady sound keeps one code and spare codes wait.
      quantizer_dropout: Share of examples that use a random number of levels instead of all.
      start_step: Step whose batch places the codebooks. Until then latents pass unquantized, so
        that rare events have latents of their own by the time they need codes. 0 as in the paper.
      codes_floor: A level that uses a smaller share of the codes it could use is warned of.
      discriminator: Sizes of the discriminators; None trains without.
      game: Weights of the game with them.
      compute_dtype: Of the convolutions, "float32" or "bfloat16". Parameters, the quantizer and its
        statistics, spectra and losses are float32 either way.
    """

    wave_weight: float = 1.0
    wave_square_weight: float = 0.0
    pre_emphasis: float = 0.0
    emphasis_order: int = 1
    mel_weight: float = 1.0
    commitment_weight: float = 0.25
    mel_window_samples: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    mel_bins: int = 64
    mel_floor: float = 1e-5
    mel_tolerance: float = 0.0
    codebook_decay: float = 0.99
    dead_below: float = 2.0
    place_above: float = 0.0
    quantizer_dropout: float = 1.0
    start_step: int = 0
    codes_floor: float = 0.05
    discriminator: AudioDiscriminatorConfig | None = None
    game: AudioGameConfig = AudioGameConfig()
    compute_dtype: str = "float32"

    def __post_init__(self):
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"compute_dtype={self.compute_dtype!r} must be 'float32' or 'bfloat16'; float16"
                " overflows here."
            )
        object.__setattr__(self, "mel_window_samples", tuple(self.mel_window_samples))
        for name in ("codebook_decay", "quantizer_dropout", "codes_floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name}={getattr(self, name)} is a share; give a number between 0 and 1."
                )
        if any(size < 4 or size % 4 for size in self.mel_window_samples):
            raise ValueError(
                f"mel_window_samples={self.mel_window_samples} must be multiples of 4, because"
                " windows are a quarter of their size apart; the paper has 64 to 2048."
            )


def init(
    key: Array,
    config: SoundStreamConfig,
    tx: optax.GradientTransformation,
    loss_config: AudioLossConfig | None = None,
    crop_samples: int = 0,
) -> TrainState:
    """State before the first step; the codebooks wait for the first batch.

    Args:
      loss_config: Says whether there are discriminators; None is without.
      crop_samples: S of the batches to come; needed with discriminators.
    """
    params = init_params(config, key)
    extra: Any = rvq.init(config.num_levels, config.codebook_size, config.latent_dim)
    if loss_config is not None and loss_config.discriminator is not None:
        judges, game_key = _judges(loss_config), jax.random.fold_in(key, 1)
        game = audio_game.init(game_key, judges, loss_config.game, crop_samples)
        extra = {"codebooks": extra, "game": game}
    return train_state.create(params, tx.init(params), extra)


def make_step(
    config: SoundStreamConfig, loss_config: AudioLossConfig, tx: optax.GradientTransformation
) -> TrainStep:
    """The step: (state, batch, key) -> (state, measures), or its halves."""
    both = {"config": config, "loss_config": loss_config}
    return TrainStep(
        gradients=functools.partial(gradients, **both),
        update=functools.partial(apply_gradients, **both, tx=tx),
    )


def gradients(
    state: TrainState,
    batch: Float[Array, "B S"],
    key: Array,
    *,
    config: SoundStreamConfig,
    loss_config: AudioLossConfig,
) -> tuple[Any, dict[str, Float[Array, ""]]]:
    """First half of a step: ((gradients, codebooks, what was quantized, the next game), measures).

    Tokenizer and discriminators both answer to the other's parameters before the step.

    Args:
      state: Only read.
      batch: Crops in [-1, 1], a whole number of frames long.
      key: One key for the run. The step number is folded in here.
    """
    start_key, level_key, _ = _keys(key, state.step)
    is_time, place_above = state.step >= loss_config.start_step, loss_config.place_above
    num_active = _active_levels(level_key, batch.shape[0], config.num_levels, loss_config)
    codebooks_before, game = _parts(state.extra)
    dtype = jnp.dtype(loss_config.compute_dtype)

    def apply(params, values, method):
        low = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        out = SoundStream(config).apply({"params": low}, values.astype(dtype), method=method)
        return out.astype(jnp.float32)

    def loss_fn(params):
        latents = apply(params, batch, "encode")
        codebooks = rvq.start(
            codebooks_before, jax.lax.stop_gradient(latents), start_key, is_time, place_above
        )
        quantized = rvq.quantize(codebooks.centroids, latents, num_active)
        decoded = jnp.where(codebooks.is_started, quantized.latents, latents)
        wave = apply(params, decoded, "decode")
        loss, measures = reconstruction_loss(wave, batch, config.sample_rate_hz, loss_config)
        measures["commitment"] = jnp.where(codebooks.is_started, quantized.commitment, 0.0)
        loss = loss + loss_config.commitment_weight * measures["commitment"]
        if game is not None:
            fooled, judged = audio_game.fool(
                _judges(loss_config), loss_config.game, game["params"], wave, batch
            )
            loss, measures = loss + fooled, measures | judged
        return loss, (codebooks, quantized, wave, measures | {"loss": loss})

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (_, (codebooks, quantized, wave, measures)), grads = grad_fn(state.params)
    used = rvq.codes_used(quantized.codes, config.codebook_size)
    measures |= {f"codes_used_{level}": used[level] for level in range(config.num_levels)}
    if game is not None:
        wave = jax.lax.stop_gradient(wave)
        game, judged = audio_game.judge(_judges(loss_config), loss_config.game, game, batch, wave)
        measures |= judged
    return (grads, codebooks, quantized, game), measures


def _parts(extra):
    """(codebooks, game or None) of `TrainState.extra`."""
    return (extra["codebooks"], extra["game"]) if isinstance(extra, dict) else (extra, None)


def _judges(loss_config):
    return AudioDiscriminators(loss_config.discriminator, jnp.dtype(loss_config.compute_dtype))


def apply_gradients(
    state: TrainState,
    passed: Any,
    key: Array,
    *,
    config: SoundStreamConfig,
    loss_config: AudioLossConfig,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Second half of a step: (next state, measures of the update).

    Args:
      state: Donated by the caller's jit; do not use it after the call.
      passed: The first value of `gradients`.
      key: The same key as there.
    """
    grads, codebooks, quantized, game = passed
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    _, level_key, place_key = _keys(key, state.step)
    num_rows = quantized.codes.shape[0]
    codebooks = rvq.update(
        codebooks,
        quantized,
        _active_levels(level_key, num_rows, config.num_levels, loss_config),
        place_key,
        decay=loss_config.codebook_decay,
        dead_below=loss_config.dead_below,
        place_above=loss_config.place_above,
    )
    grad_norm = optax.tree.norm(grads)
    extra = codebooks if game is None else {"codebooks": codebooks, "game": game}
    return TrainState(state.step + 1, params, opt_state, extra), {"grad_norm": grad_norm}


def reconstruction_loss(
    wave: Float[Array, "B S"],
    target: Float[Array, "B S"],
    sample_rate_hz: int,
    loss_config: AudioLossConfig,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Weighted waveform and mel distances, and the measures `wave`, `mel` and `snr_db`."""
    error = wave - target
    emphasised = error
    for _ in range(loss_config.emphasis_order):
        emphasised = emphasised[:, 1:] - loss_config.pre_emphasis * emphasised[:, :-1]
    distance = mel.mel_distance(
        wave,
        target,
        sample_rate_hz=sample_rate_hz,
        window_samples=loss_config.mel_window_samples,
        num_bins=loss_config.mel_bins,
        floor=loss_config.mel_floor,
        tolerance=loss_config.mel_tolerance,
    )
    snr_db = 10 * jnp.log10((jnp.mean(target**2) + 1e-12) / (jnp.mean(error**2) + 1e-12))
    wave_loss = loss_config.wave_weight * jnp.mean(jnp.abs(emphasised))
    wave_loss += loss_config.wave_square_weight * jnp.mean(emphasised**2)
    loss = wave_loss + loss_config.mel_weight * distance
    return loss, {"wave": wave_loss, "mel": distance, "snr_db": snr_db}


def crops_at(
    waves: Float[np.ndarray, "W S"],
    step: int,
    *,
    seed: int,
    batch_size: int,
    crop_samples: int,
    grid_samples: int = 1,
    num_candidates: int = 1,
) -> Float[np.ndarray, "B _"]:
    """Random crops of equally long sounds, a function of (seed, step).

    Args:
      grid_samples: Crops start at multiples of this. One hop keeps the phase that a sound has
        within its frames; 1 shows the tokenizer every phase.
      num_candidates: Each crop is the one with the highest peak among so many draws: short events
        are rare in steady sound, and a tokenizer learns them late without.
    """
    num_starts = (waves.shape[1] - crop_samples) // grid_samples + 1
    if crop_samples > waves.shape[1]:
        raise ValueError(
            f"A crop of {crop_samples} samples does not fit into sounds of {waves.shape[1]};"
            " make crop_samples smaller or give longer sounds."
        )
    draw = np.random.Generator(np.random.Philox(key=[seed, step]))
    rows = draw.integers(0, len(waves), (batch_size, num_candidates))
    starts = draw.integers(0, num_starts, (batch_size, num_candidates)) * grid_samples
    candidates = waves[rows[..., None], starts[..., None] + np.arange(crop_samples)]
    best = np.abs(candidates).max(axis=-1).argmax(axis=-1)
    return candidates[np.arange(batch_size), best].astype(np.float32)


def _keys(key, step):
    """Of this step: for the start of the codebooks, the levels in use, the places of dead codes."""
    return jax.random.split(jax.random.fold_in(key, step), 3)


def _active_levels(key, batch_size, num_levels, loss_config):
    """All levels, or for a share of the examples a uniform number from 1 up."""
    drop_key, number_key = jax.random.split(key)
    is_dropped = jax.random.uniform(drop_key, (batch_size,)) < loss_config.quantizer_dropout
    number = jax.random.randint(number_key, (batch_size,), 1, num_levels + 1)
    return jnp.where(is_dropped, number, num_levels)
