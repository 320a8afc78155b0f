"""The visual tokenizer: pixels to codes and back, in batches of one compiled size.

Axes: B batch, T frames, Y rows, X columns; t, h, w the grid of codes.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poet.tokenizers import magvit2
from poet.tokenizers.magvit2 import Magvit2, MagvitConfig
from poet.typing import Float, Int

KIND = "magvit2"
# Part of the fingerprint: raise it when the same weights would give other codes.
CODE_VERSION = 1


class VisualTokenizer:
    """A trained MAGVIT-v2, ready to encode and decode numpy arrays.

    Causal: the codes of the first frames are the codes of the beginning alone, an image's codes are
    those of a clip's first frame. Clips of any length 1 + 4k and any size 8k serve; each new length
    or size compiles once.

    Attributes:
      config: Sizes.
      fingerprint: The same for the same weights, sizes and code version, and for nothing else.
    """

    px_per_token = magvit2.PX_PER_TOKEN
    frames_per_token = magvit2.FRAMES_PER_TOKEN

    def __init__(self, config: MagvitConfig, params: Any, fingerprint: str, *, batch_size: int = 8):
        """Args:
        params: Parameters of `Magvit2`.
        batch_size: Clips a call of the compiled function; others are cut or padded to it.
        """
        self.config = config
        self.fingerprint = fingerprint
        self._params = jax.tree.map(jnp.asarray, params)
        self._batch_size = batch_size
        self._encode = jax.jit(functools.partial(encode, config))
        self._decode = jax.jit(functools.partial(decode, config))

    @property
    def num_codes(self) -> int:
        return self.config.num_codes

    @property
    def params(self) -> Any:
        """What `__init__` was given, for saving."""
        return self._params

    def encode(self, video: np.ndarray) -> Int[np.ndarray, "B t h w"]:
        """Codes in [0, num_codes), int32, of pixels [B, T, Y, X, 3] in [0, 1].

        Raises:
          ValueError: Frames are not 1 + 4k, rows or columns not 8k, or pixels not in [0, 1].
        """
        video = np.asarray(video)
        magvit2.check_video_shape(video.shape)
        if not np.issubdtype(video.dtype, np.floating):
            raise ValueError(
                f"Expected floating-point pixels in [0, 1], got {video.dtype}; divide uint8 by 255."
            )
        # Written so that NaN fails as well.
        if not (video.min() >= 0 and video.max() <= 1):
            raise ValueError(
                f"Expected pixels in [0, 1], got {video.min()} to {video.max()}; divide uint8 by"
                " 255 and leave out damaged frames."
            )
        return self._in_batches(self._encode, video.astype(np.float32))

    def decode(self, codes: np.ndarray) -> Float[np.ndarray, "B T Y X 3"]:
        """Pixels in [0, 1], float32, of codes [B, t, h, w]; T = 1 + 4 (t - 1)."""
        codes = np.asarray(codes)
        if codes.ndim != 4 or 0 in codes.shape or not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(
                "Expected integer codes of shape [batch, latent frames, rows, columns], got"
                f" {codes.dtype} {codes.shape}; give one clip as codes[None]."
            )
        if codes.min() < 0 or codes.max() >= self.num_codes:
            raise ValueError(
                f"Expected codes in [0, {self.num_codes}), got {codes.min()} to {codes.max()};"
                " turn ids of the vocabulary into local codes first."
            )
        video = self._in_batches(self._decode, codes.astype(np.int32))
        return np.clip(video, 0.0, 1.0)

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


def encode(config: MagvitConfig, params: Any, video):
    """Codes [B, t, h, w] of pixels [B, T, Y, X, 3]; pure, for use inside jit."""
    return Magvit2(config).apply({"params": params}, video, method="encode")


def decode(config: MagvitConfig, params: Any, codes):
    """Pixels [B, T, Y, X, 3] of codes [B, t, h, w]; pure, for use inside jit. Not clipped."""
    return Magvit2(config).apply({"params": params}, codes, method="decode")
