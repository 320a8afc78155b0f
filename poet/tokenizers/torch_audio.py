"""Published audio tokenizers of `transformers` behind Poet's protocol: DAC, EnCodec, Mimi.

They load from a folder (see `torch_folder`). Numpy in, numpy out.

Axes: B batch, S samples, Q levels, L frames.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from poet.tokenizers import torch_folder
from poet.tokenizers.torch_folder import Published
from poet.typing import Float, Int

# Raise it when the same weights would give other codes.
CODE_VERSION = 1
_BATCH = 8


KINDS = {
    "dac": Published("DacModel", "dac", False, "MIT (descript/dac_16khz and its siblings)"),
    "encodec": Published(
        "EncodecModel", "encodec", True, "code MIT; see the model card of the weights"
    ),
    "mimi": Published("MimiModel", "mimi", True, "weights CC-BY-4.0 (kyutai/mimi)"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchAudioConfig:
    """Which weights, and how much of them.

    Attributes:
      folder: Of the weights.
      num_levels: The first so many levels are used; four is the paper's number.
    """

    folder: str
    num_levels: int = 4

    def __post_init__(self):
        if self.num_levels < 1:
            raise ValueError(f"num_levels={self.num_levels} must be at least 1; the paper has 4.")


class TorchAudioTokenizer:
    """Sound in [-1, 1] to levels of codes and back, by a published model.

    Attributes:
      config: Where from, how many levels.
      kind: A key of `KINDS`.
      fingerprint: The same for the same weights, levels and code version.
      licence: See `torch_folder.Published`.
      is_causal: See `torch_folder.Published`.
    """

    def __init__(self, kind: str, config: TorchAudioConfig):
        self.kind, self.config = kind, config
        folder, published = Path(config.folder), KINDS[kind]
        described = f"{kind} v{CODE_VERSION}, {config.num_levels} levels"
        self.fingerprint = torch_folder.fingerprint(folder, published, described)
        self.licence, self.is_causal = published.licence, published.is_causal
        self._model = torch_folder.load(folder, published)
        facts = self._model.config
        if kind == "encodec" and (
            facts.normalize or facts.chunk_length_s or facts.audio_channels > 1
        ):
            raise ValueError(
                f"{config.folder} is an EnCodec that normalises or chunks its sound, or is stereo;"
                " use the mono one of 24 kHz, whose codes are all there is."
            )
        self.sample_rate_hz = int(facts.sampling_rate)
        self.codebook_size = int(facts.codebook_size)
        self.samples_per_frame = _hop(kind, facts)
        has = _num_levels(kind, self._model)
        if config.num_levels > has:
            raise ValueError(
                f"num_levels={config.num_levels}, but {config.folder} has {has}; ask for fewer."
            )

    @property
    def num_levels(self) -> int:
        return self.config.num_levels

    def encode(self, wave: Float[np.ndarray, "B S"]) -> Int[np.ndarray, "B Q L"]:
        """Codes of the whole frames of wave; 34,000 samples are 106 frames of 320."""
        wave = np.asarray(wave, np.float32)
        num_frames = wave.shape[-1] // self.samples_per_frame
        if wave.ndim != 2 or not num_frames or not np.isfinite(wave).all():
            raise ValueError(
                f"Expected finite sound of shape [batch, samples] with at least"
                f" {self.samples_per_frame} samples, got {wave.shape}."
            )
        whole = wave[:, : num_frames * self.samples_per_frame]
        # Some models give one frame less than whole frames would: a frame of silence makes it up.
        padded = np.pad(whole, ((0, 0), (0, self.samples_per_frame)))
        parts = []
        for start in range(0, len(wave), _BATCH):
            codes = self._codes(whole[start : start + _BATCH])
            if codes.shape[-1] < num_frames:
                codes = self._codes(padded[start : start + _BATCH])
            parts.append(codes[..., :num_frames])
        return np.concatenate(parts).astype(np.int32)

    def decode(
        self, codes: Int[np.ndarray, "B Q L"], num_samples: int | None = None
    ) -> Float[np.ndarray, "B S"]:
        """Sound of codes, in [-1, 1]; silence fills what whole frames do not give."""
        import torch

        codes = np.asarray(codes)
        if codes.ndim != 3 or codes.shape[1] != self.num_levels:
            raise ValueError(
                f"Expected codes of shape [batch, {self.num_levels} levels, frames], got"
                f" {codes.shape}; give all levels."
            )
        if codes.min() < 0 or codes.max() >= self.codebook_size:
            raise ValueError(
                f"Expected codes in [0, {self.codebook_size}), got {codes.min()} to {codes.max()};"
                " turn ids of the vocabulary into local codes first."
            )
        length = codes.shape[2] * self.samples_per_frame if num_samples is None else num_samples
        waves = []
        for start in range(0, len(codes), _BATCH):
            part = torch.as_tensor(codes[start : start + _BATCH], dtype=torch.long)
            with torch.inference_mode():
                if self.kind == "encodec":
                    sound = self._model.decode(part[None], [None]).audio_values
                elif self.kind == "mimi":
                    sound = self._model.decode(part).audio_values
                else:
                    sound = self._model.decode(audio_codes=part).audio_values
            sound = sound.reshape(len(part), -1).numpy()[:, :length]
            waves.append(np.pad(sound, ((0, 0), (0, length - sound.shape[1]))))
        return np.clip(np.concatenate(waves), -1.0, 1.0).astype(np.float32)

    def _codes(self, wave: np.ndarray) -> np.ndarray:
        import torch

        sound = torch.as_tensor(wave)[:, None]
        with torch.inference_mode():
            if self.kind == "encodec":
                widest = max(self._model.config.target_bandwidths)
                codes = self._model.encode(sound, bandwidth=widest).audio_codes[0]
            elif self.kind == "mimi":
                codes = self._model.encode(sound, num_quantizers=self.num_levels).audio_codes
            else:
                codes = self._model.encode(sound, n_quantizers=self.num_levels).audio_codes
        return codes[:, : self.num_levels].numpy()


def _hop(kind: str, facts: Any) -> int:
    """Samples a frame; computed, since stored hop lengths of DAC are stale."""
    if kind == "dac":
        return int(np.prod(facts.downsampling_ratios))
    return round(facts.sampling_rate / facts.frame_rate)


def _num_levels(kind: str, model: Any) -> int:
    if kind == "dac":
        return int(model.config.n_codebooks)
    return int(model.config.num_quantizers)
