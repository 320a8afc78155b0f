"""The audio tokenizer: sound to codes and back, in batches of one compiled size.

Axes: B batch, S samples, Q levels, L frames.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poet.layers.conv import STREAM
from poet.tokenizers.quantizers import rvq
from poet.tokenizers.soundstream import SoundStream, SoundStreamConfig
from poet.typing import Float, Int

KIND = "soundstream"
# Part of the fingerprint: raise it when the same weights would give other codes.
CODE_VERSION = 1


class AudioTokenizer:
    """A trained SoundStream, ready to encode and decode numpy arrays.

    Causal: the codes of the first frames are the codes of the beginning alone. Silence and all else
    in [-1, 1] is accepted; what is not sound (NaN, integers, less than a frame) is refused.

    Attributes:
      config: Sizes, among them `num_levels`, `codebook_size`, `samples_per_frame`.
      fingerprint: The same for the same weights, sizes and code version, and for nothing else.
      is_causal: True.
      licence: A note on the weights.
    """

    is_causal = True
    licence = "as its training data; the code is Poet's"

    def __init__(
        self, config: SoundStreamConfig, params: Any, fingerprint: str, *, batch_size: int = 16
    ):
        """Args:
        params: {"params": weights, "centroids": [Q, N, D]}, as `tokenizer_params` gives them.
        batch_size: Sounds a call of the compiled function; others are cut or padded to it.
        """
        expected = (config.num_levels, config.codebook_size, config.latent_dim)
        if tuple(params["centroids"].shape) != expected:
            raise ValueError(
                f"The codebooks have shape {tuple(params['centroids'].shape)} but the config says"
                f" {expected} (levels, codes, width); load weights and config of the same run."
            )
        self.config = config
        self.fingerprint = fingerprint
        self._params = jax.tree.map(jnp.asarray, params)
        self._batch_size = batch_size
        self._encode = jax.jit(functools.partial(encode, config))
        self._decode = jax.jit(functools.partial(decode, config))
        self._encode_chunk = jax.jit(functools.partial(encode_chunk, config))
        self._decode_chunk = jax.jit(functools.partial(decode_chunk, config))

    @property
    def num_levels(self) -> int:
        return self.config.num_levels

    @property
    def codebook_size(self) -> int:
        return self.config.codebook_size

    @property
    def samples_per_frame(self) -> int:
        return self.config.samples_per_frame

    @property
    def sample_rate_hz(self) -> int:
        return self.config.sample_rate_hz

    @property
    def params(self) -> Any:
        """What `__init__` was given, for saving."""
        return self._params

    def encode(self, wave: np.ndarray) -> Int[np.ndarray, "B Q L"]:
        """Codes of the whole frames of wave [B, S]; the samples after the last one are left out.

        34,000 samples are 106 frames of 320 and 80 samples left over.
        """
        wave = self._checked_wave(wave)
        num_samples = wave.shape[1] - wave.shape[1] % self.samples_per_frame
        return self._in_batches(self._encode, wave[:, :num_samples])

    def decode(self, codes: np.ndarray, num_samples: int | None = None) -> Float[np.ndarray, "B S"]:
        """Sound of codes [B, Q, L], in [-1, 1].

        Args:
          num_samples: Length wanted; silence fills what whole frames do not give. None: the frames.
        """
        codes = self._checked_codes(codes)
        wave = np.clip(self._in_batches(self._decode, codes), -1.0, 1.0)
        if num_samples is None:
            return wave
        missing = max(0, num_samples - wave.shape[1])
        return np.pad(wave, ((0, 0), (0, missing)))[:, :num_samples]

    def encode_chunks(self, chunks: Iterable[np.ndarray]) -> Iterator[Int[np.ndarray, "B Q L"]]:
        """Codes of sound that comes in pieces: joined in time they are `encode` of the whole.

        Args:
          chunks: Sound [B, S] in [-1, 1], of one B and whole frames each. A chunk is asked for when
            the one before is encoded, so memory holds one.

        Raises:
          ValueError: As for `encode`, or a chunk is no whole number of frames.
        """
        stream: Any = {}
        for number, chunk in enumerate(chunks):
            wave = self._checked_wave(chunk)
            if wave.shape[1] % self.samples_per_frame:
                raise ValueError(
                    f"Chunk {number} has {wave.shape[1]} samples; expected whole frames of"
                    f" {self.samples_per_frame}: keep the last"
                    f" {wave.shape[1] % self.samples_per_frame} for the next chunk."
                )
            codes, stream = self._encode_chunk(self._params, stream, wave)
            yield np.asarray(codes)

    def decode_chunks(self, chunks: Iterable[np.ndarray]) -> Iterator[Float[np.ndarray, "B S"]]:
        """Sound of codes [B, Q, L] that come in pieces: joined they are `decode` of the whole."""
        stream: Any = {}
        for chunk in chunks:
            wave, stream = self._decode_chunk(self._params, stream, self._checked_codes(chunk))
            yield np.clip(np.asarray(wave), -1.0, 1.0)

    def _in_batches(self, function, values):
        """Applies a compiled function to fixed-size batches, the last one filled with zeros."""
        parts = []
        for start in range(0, len(values), self._batch_size):
            part = values[start : start + self._batch_size]
            filled = np.pad(
                part, ((0, self._batch_size - len(part)),) + ((0, 0),) * (part.ndim - 1)
            )
            parts.append(np.asarray(function(self._params, filled))[: len(part)])
        return np.concatenate(parts)

    def _checked_wave(self, wave):
        wave = np.asarray(wave)
        if wave.ndim != 2 or not len(wave):
            raise ValueError(
                f"Expected sound of shape [batch, samples] with at least one row, got {wave.shape};"
                " give one sound as wave[None]."
            )
        if not np.issubdtype(wave.dtype, np.floating):
            raise ValueError(
                f"Expected floating-point sound in [-1, 1], got {wave.dtype}; divide 16-bit samples"
                " by 32768."
            )
        if wave.shape[1] < self.samples_per_frame:
            raise ValueError(
                f"Sound of {wave.shape[1]} samples is shorter than one frame of"
                f" {self.samples_per_frame}; give a longer one, or pad it with silence."
            )
        is_bad = ~np.isfinite(wave)
        if is_bad.any():
            row, sample = np.argwhere(is_bad)[0]
            raise ValueError(
                f"Expected finite samples, got {wave[row, sample]} at sample {sample} of sound"
                f" {row} ({is_bad.sum()} in all); decode the file again or leave it out."
            )
        return wave.astype(np.float32)

    def _checked_codes(self, codes):
        codes = np.asarray(codes)
        if codes.ndim != 3 or codes.shape[1] != self.num_levels or 0 in codes.shape:
            raise ValueError(
                f"Expected codes of shape [batch, {self.num_levels} levels, frames], got"
                f" {codes.shape}; give all levels of at least one frame."
            )
        if not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"Expected integer codes, got {codes.dtype}; convert them first.")
        if codes.min() < 0 or codes.max() >= self.codebook_size:
            raise ValueError(
                f"Expected codes in [0, {self.codebook_size}), got {codes.min()} to {codes.max()};"
                " turn ids of the vocabulary into local codes first."
            )
        return codes.astype(np.int32)


def tokenizer_params(state: Any) -> Any:
    """What `AudioTokenizer` needs of a training state: weights and centroids."""
    # With discriminators the state holds them beside the codebooks.
    codebooks = state.extra["codebooks"] if isinstance(state.extra, dict) else state.extra
    return {"params": state.params, "centroids": codebooks.centroids}


def encode(config: SoundStreamConfig, params: Any, wave):
    """Codes [B, Q, L] of waves [B, S], S a whole number of frames; pure, for use inside jit."""
    latents = SoundStream(config).apply({"params": params["params"]}, wave, method="encode")
    return rvq.quantize(params["centroids"], latents).codes


def decode(config: SoundStreamConfig, params: Any, codes):
    """Waves [B, L * hop] of codes [B, Q, L]; pure, for use inside jit. Not clipped."""
    latents = rvq.lookup(params["centroids"], codes)
    return SoundStream(config).apply({"params": params["params"]}, latents, method="decode")


def encode_chunk(config: SoundStreamConfig, params: Any, stream: Any, wave):
    """(codes [B, Q, L], stream) of a chunk; `stream` of the chunk before, {} at the start."""
    latents, stream = _streamed(config, params, stream, wave, "encode")
    return rvq.quantize(params["centroids"], latents).codes, stream


def decode_chunk(config: SoundStreamConfig, params: Any, stream: Any, codes):
    """(waves [B, L * hop], stream) of a chunk of codes; as `encode_chunk`. Not clipped."""
    return _streamed(config, params, stream, rvq.lookup(params["centroids"], codes), "decode")


def _streamed(config, params, stream, values, method):
    variables = {"params": params["params"], STREAM: stream}
    out, changed = SoundStream(config).apply(variables, values, method=method, mutable=[STREAM])
    return out, changed[STREAM]
