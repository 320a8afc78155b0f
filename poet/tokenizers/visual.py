"""The visual tokenizer: pixels to codes and back, in chunks and batches of one compiled size.

A clip is always a loop over chunks, its first frame and then up to 16 at a time, and each layer
keeps the few frames that its next window needs. So memory is bounded by the chunk whatever the
length, the codes of a first frame are those of the image, and a clip that comes piece by piece gets
the codes of the whole one, all by construction (MAGVIT-v2, causal tokenizer).

Axes: B batch, T frames, Y rows, X columns; t, h, w the grid of codes.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poet.layers.conv import STREAM
from poet.tokenizers import magvit2
from poet.tokenizers.magvit2 import Magvit2, MagvitConfig
from poet.typing import Float, Int

KIND = "magvit2"
# Part of the fingerprint: raise it when the same weights would give other codes.
CODE_VERSION = 2

# Frames of a chunk after the first frame, and latent frames they become.
_CHUNK_FRAMES = 16
# At most so many pixels of one frame times clips in a call: 8 clips of 128 x 224.
_MAX_BATCH_PX = 8 * 128 * 224


class VisualTokenizer:
    """A trained MAGVIT-v2, ready to encode and decode numpy arrays.

    Causal: the codes of the first frames are the codes of the beginning alone, an image's codes are
    those of a clip's first frame. Clips of any length 1 + 4k and any size 8k serve; each new size
    compiles once, and so does each new length of a clip's last chunk.

    Attributes:
      config: Sizes.
      fingerprint: The same for the same weights, sizes and code version, and for nothing else.
      px_per_token: Side of the square of pixels of one code.
      frames_per_token: Frames of a latent frame after the first.
      is_causal: True.
      licence: A note on the weights.
    """

    px_per_token = magvit2.PX_PER_TOKEN
    frames_per_token = magvit2.FRAMES_PER_TOKEN
    is_causal = True
    licence = "as its training data; the code is Poet's"

    def __init__(self, config: MagvitConfig, params: Any, fingerprint: str, *, batch_size: int = 8):
        """Args:
        params: Parameters of `Magvit2`.
        batch_size: Clips a call of the compiled function, fewer of large pictures; others are cut
          or padded to it.
        """
        self.config = config
        self.fingerprint = fingerprint
        self._params = jax.tree.map(jnp.asarray, params)
        self._batch_size = batch_size
        self._encode = jax.jit(functools.partial(encode, config), static_argnames="is_start")
        self._decode = jax.jit(functools.partial(decode, config), static_argnames="is_start")

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
        px = video.shape[2] * video.shape[3]
        return self._in_batches(self.encode_chunks, video, px, _CHUNK_FRAMES)

    def decode(self, codes: np.ndarray) -> Float[np.ndarray, "B T Y X 3"]:
        """Pixels in [0, 1], float32, of codes [B, t, h, w]; T = 1 + 4 (t - 1)."""
        codes = np.asarray(codes)
        _check_codes(codes, self.num_codes)
        px = codes.shape[2] * codes.shape[3] * self.px_per_token**2
        num_frames = _CHUNK_FRAMES // self.frames_per_token
        return self._in_batches(self.decode_chunks, codes, px, num_frames)

    def encode_chunks(self, chunks: Iterable[np.ndarray]) -> Iterator[Int[np.ndarray, "B t h w"]]:
        """Codes of a clip that comes in pieces: joined in time they are `encode` of the whole.

        Args:
          chunks: Pixels [B, T, Y, X, 3] in [0, 1], the first of 1 + 4k frames, the others of 4k,
            all of one B, Y and X. Each is asked for when the one before is encoded.

        Raises:
          ValueError: As for `encode`, chunk by chunk.
        """
        stream: Any = {}
        for number, chunk in enumerate(chunks):
            video = np.asarray(chunk)
            magvit2.check_video_shape(video.shape, is_start=number == 0)
            _check_pixels(video)
            pixels = video.astype(np.float32)
            codes, stream = self._encode(self._params, stream, pixels, is_start=number == 0)
            yield np.asarray(codes)

    def decode_chunks(
        self, chunks: Iterable[np.ndarray]
    ) -> Iterator[Float[np.ndarray, "B T Y X 3"]]:
        """Pixels of codes that come in pieces: joined in time they are `decode` of the whole.

        Args:
          chunks: Codes [B, t, h, w], of one B, h and w and any t. The first piece gives
            1 + 4 (t - 1) frames, the others 4 t.
        """
        stream: Any = {}
        for number, chunk in enumerate(chunks):
            codes = np.asarray(chunk)
            _check_codes(codes, self.num_codes)
            local = codes.astype(np.int32)
            video, stream = self._decode(self._params, stream, local, is_start=number == 0)
            yield np.clip(np.asarray(video), 0.0, 1.0)

    def _in_batches(self, in_chunks, values, num_px, chunk_frames):
        """Applies a chunked function to batches of one size, the last one filled with zeros."""
        size = max(1, min(self._batch_size, _MAX_BATCH_PX // num_px))
        parts = []
        for start in range(0, len(values), size):
            part = values[start : start + size]
            missing = size - len(part)
            filled = np.pad(part, ((0, missing),) + ((0, 0),) * (part.ndim - 1))
            cuts = [0, *range(1, part.shape[1], chunk_frames), part.shape[1]]
            chunks = (filled[:, a:b] for a, b in itertools.pairwise(cuts))
            parts.append(np.concatenate(list(in_chunks(chunks)), axis=1)[: len(part)])
        return np.concatenate(parts)


def _check_codes(codes, num_codes):
    if codes.ndim != 4 or 0 in codes.shape or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            "Expected integer codes of shape [batch, latent frames, rows, columns], got"
            f" {codes.dtype} {codes.shape}; give one clip as codes[None]."
        )
    if codes.min() < 0 or codes.max() >= num_codes:
        raise ValueError(
            f"Expected codes in [0, {num_codes}), got {codes.min()} to {codes.max()};"
            " turn ids of the vocabulary into local codes first."
        )


def _check_pixels(video):
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


def encode(config: MagvitConfig, params: Any, stream: Any, video, is_start: bool):
    """(codes [B, t, h, w], stream) of a chunk [B, T, Y, X, 3]; pure, for use inside jit.

    Args:
      stream: What the call for the chunk before gave back; {} at the start.
    """
    return _apply(config, params, stream, video, is_start, "encode")


def decode(config: MagvitConfig, params: Any, stream: Any, codes, is_start: bool):
    """(pixels [B, T, Y, X, 3], stream) of a chunk of codes; as `encode`. Not clipped."""
    return _apply(config, params, stream, codes, is_start, "decode")


def _apply(config, params, stream, values, is_start, method):
    variables = {"params": params, STREAM: stream}
    out, changed = Magvit2(config).apply(
        variables, values, is_start, method=method, mutable=[STREAM]
    )
    return out, changed[STREAM]
