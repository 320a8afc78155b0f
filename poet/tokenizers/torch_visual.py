"""The published visual tokenizer of `transformers` behind Poet's protocol: Emu3's.

It loads from a folder (see `torch_folder`). Numpy in, numpy out.

Emu3VQVAE turns four frames into one latent frame and was trained on such groups alone, so every
group is coded on its own: the first frame, repeated, is the first latent frame, and each four
frames after it the next. An image is its own first frame, as in the paper's tokenizer.

Axes: B batch, T frames, Y rows, X columns; t, h, w the grid of codes; G groups of four frames.
"""

import dataclasses
from pathlib import Path

import numpy as np

from poet.tokenizers import torch_folder
from poet.tokenizers.torch_folder import Published
from poet.typing import Float, Int

# Raise it when the same weights would give other codes.
CODE_VERSION = 1
KINDS = {"emu3": Published("Emu3VQVAE", "emu3_vqgan", True, "Apache-2.0 (BAAI/Emu3)")}
# Groups that pass through the model at a time: memory does not grow with the clip.
_GROUPS_AT_A_TIME = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchVisualConfig:
    """Which weights, and how pixels are scaled for them: (pixel - mean) / std, by channel.

    Attributes:
      folder: Of the weights.
      mean: Of red, green, blue in [0, 1]; None reads preprocessor_config.json of the folder.
      std: As mean.
    """

    folder: str
    mean: tuple[float, float, float] | list[float] | None = None
    std: tuple[float, float, float] | list[float] | None = None

    def __post_init__(self):
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != 3:
                raise ValueError(f"{name}={values} must be three numbers: red, green, blue.")
        if (self.mean is None) != (self.std is None):
            raise ValueError("Give both mean and std, or neither to read them from the folder.")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std={self.std} must be above 0; pixels in [-1, 1] have 0.5.")


class TorchVisualTokenizer:
    """Clips in [0, 1] to a grid of codes and back, by a published model.

    Attributes:
      config: Where from, how pixels are scaled.
      kind: A key of `KINDS`.
      px_per_token: 8 for the published sizes.
      frames_per_token: 4 for the published sizes.
      num_codes: 32,768 for the published sizes.
      fingerprint: The same for the same weights, scaling and code version.
      licence: See `torch_folder.Published`.
      is_causal: See `torch_folder.Published`; a latent frame sees its own four frames.
    """

    def __init__(self, kind: str, config: TorchVisualConfig):
        self.kind, self.config = kind, config
        folder, published = Path(config.folder), KINDS[kind]
        scaling = _scaling(config)
        mean, std = list(scaling.mean), list(scaling.std)
        described = f"{kind} v{CODE_VERSION}, mean {mean}, std {std}"
        self.fingerprint = torch_folder.fingerprint(folder, published, described)
        self.licence, self.is_causal = published.licence, published.is_causal
        self._mean, self._std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        self._model = torch_folder.load(folder, published)
        facts = self._model.config
        self.px_per_token = 2 ** (len(facts.channel_multiplier) - 1)
        self.frames_per_token = int(facts.temporal_downsample_factor)
        self.num_codes = int(facts.codebook_size)

    def encode(self, video: Float[np.ndarray, "B T Y X 3"]) -> Int[np.ndarray, "B t h w"]:
        """Codes of clips of 1 + 4 k frames; k = 0 is an image.

        Raises:
          ValueError: The sizes do not fit the grid, or there are pixels outside [0, 1].
        """
        import torch

        video = np.asarray(video, np.float32)
        self._check(video)
        batch, _, rows, columns, _ = video.shape
        first = np.repeat(video[:, :1], self.frames_per_token, axis=1)
        groups = np.concatenate([first, video[:, 1:]], axis=1)
        groups = groups.reshape(-1, self.frames_per_token, rows, columns, 3)
        # encode() cuts its two first axes by the picture's size over 8, which for a group are
        # (frames, rows): of a portrait picture it would cut rows. The longer side cuts nothing.
        side = max(rows, columns)
        codes = []
        for start in range(0, len(groups), _GROUPS_AT_A_TIME):
            part = (groups[start : start + _GROUPS_AT_A_TIME] - self._mean) / self._std
            pixels = torch.as_tensor(part.transpose(0, 1, 4, 2, 3).copy())
            with torch.inference_mode():
                found = self._model.encode(pixels, [(side, side)] * len(part)).image_tokens
            codes += [group.numpy() for group in found]
        grid = (batch, -1, rows // self.px_per_token, columns // self.px_per_token)
        return np.stack(codes).reshape(grid).astype(np.int32)

    def decode(self, codes: Int[np.ndarray, "B t h w"]) -> Float[np.ndarray, "B T Y X 3"]:
        """Pixels in [0, 1] of codes; T is 1 + 4 (t - 1).

        Raises:
          ValueError: The codes have another shape, or are outside [0, num_codes).
        """
        import torch

        codes = np.asarray(codes)
        if codes.ndim != 4 or not codes.size:
            raise ValueError(
                f"Expected codes of shape [batch, latent frames, rows, columns], got {codes.shape}."
            )
        if codes.min() < 0 or codes.max() >= self.num_codes:
            raise ValueError(
                f"Expected codes in [0, {self.num_codes}), got {codes.min()} to {codes.max()};"
                " turn ids of the vocabulary into local codes first."
            )
        groups = codes.reshape(-1, 1, *codes.shape[2:])
        frames = []
        for start in range(0, len(groups), _GROUPS_AT_A_TIME):
            part = torch.as_tensor(groups[start : start + _GROUPS_AT_A_TIME], dtype=torch.long)
            with torch.inference_mode():
                pixels = self._model.decode(part).numpy()
            frames.append(pixels.transpose(0, 1, 3, 4, 2) * self._std + self._mean)
        video = np.concatenate(frames)
        video = video.reshape(len(codes), -1, *video.shape[2:])
        # Of the first group, which stands for one frame, the first is it.
        video = np.concatenate([video[:, :1], video[:, self.frames_per_token :]], axis=1)
        return np.clip(video, 0.0, 1.0).astype(np.float32)

    def _check(self, video: np.ndarray) -> None:
        if video.ndim != 5 or video.shape[-1] != 3 or not video.size:
            raise ValueError(
                f"Expected clips of shape [batch, frames, rows, columns, 3], got {video.shape}."
            )
        frames, *sides = video.shape[1:4]
        step = self.frames_per_token
        if (frames - 1) % step:
            low = 1 + (frames - 1) // step * step
            raise ValueError(
                f"Expected 1 + {step} k frames, got {frames}; the nearest are {low} and"
                f" {low + step}."
            )
        if any(side % self.px_per_token for side in sides):
            raise ValueError(
                f"Expected sides that are multiples of {self.px_per_token} pixels, got"
                f" {sides[0]} x {sides[1]}; crop or resize first."
            )
        if not (video.min() >= 0.0 and video.max() <= 1.0):
            raise ValueError(
                f"Expected pixels in [0, 1], got {video.min()} to {video.max()}; divide bytes"
                " by 255."
            )


def _scaling(config: TorchVisualConfig) -> TorchVisualConfig:
    """The config with its mean and std, read from the folder where they are not given."""
    if config.mean is not None:
        return config
    path = Path(config.folder) / "preprocessor_config.json"
    # A folder that is no model at all is refused in those words, later.
    facts = torch_folder.read_json(path.parent, path.name) if path.is_file() else {}
    found = [facts.get(f"image_{name}") for name in ("mean", "std")]
    if not all(isinstance(values, list) and len(values) == 3 for values in found):
        torch_folder.read_json(path.parent, "config.json")
        raise ValueError(
            f"Expected image_mean and image_std in {path}, found none, and a wrong scale gives"
            " wrong codes without a word; copy that file too, or give mean and std"
            " (0.5 0.5 0.5 for pixels in [-1, 1])."
        )
    return dataclasses.replace(config, mean=found[0], std=found[1])
