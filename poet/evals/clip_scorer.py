"""CLIP from a folder of Hugging Face's or from a converted file: pictures and captions to rows.

What the folder holds is in `clip_folder`; the means over frames are in `embedding_scores`.

Pictures: short side to 224 by PIL's bicubic (rounded to bytes after each axis, as PIL does), middle
cut out, divided by 255, mean and deviation of OpenAI's training pictures.

Axes: B clips, T frames, N pictures or captions, Y rows, X columns, E embedding.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from poet.evals import clip_folder, clip_text, metric_weights, resizing
from poet.evals.clip_folder import PICTURES
from poet.evals.clip_model import Clip, ClipConfig
from poet.evals.clip_text import ClipTokenizer
from poet.evals.features import filled
from poet.evals.metric_weights import MetricWeights
from poet.typing import Float, UInt8

_BICUBIC = 3  # PIL's number.


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureRule:
    """How pictures are prepared. The defaults are OpenAI's.

    Attributes:
      size_px: Rows and columns that the tower sees.
      mean: Of red, green, blue in [0, 1].
      deviation: Of the same.
    """

    size_px: int = 224
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    deviation: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    def prepared(self, pictures: UInt8[np.ndarray, "N Y X 3"]) -> Float[np.ndarray, "N _ _ 3"]:
        """Pictures as the tower sees them, float32."""
        num_rows, num_columns = pictures.shape[1:3]
        short = min(num_rows, num_columns)
        height, width = (self.size_px * size // short for size in (num_rows, num_columns))
        wide = resizing.squash(pictures, num_rows, width, method="bicubic")
        tall = resizing.squash(resizing.to_uint8(wide), height, width, method="bicubic")
        top, left = (round((size - self.size_px) / 2) for size in (height, width))
        cut = resizing.to_uint8(tall)[:, top : top + self.size_px, left : left + self.size_px]
        mean, deviation = (np.array(each, np.float32) for each in (self.mean, self.deviation))
        return (cut.astype(np.float32) / np.float32(255) - mean) / deviation


class ClipScorer:
    """Embeddings of frames and captions by one CLIP.

    Args:
      params: Of `Clip`.
      config: Its sizes.
      tokenizer: Of the same model.
      rule: How pictures are prepared.
      batch_size: The most pictures or captions that a tower sees at once.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        config: ClipConfig,
        tokenizer: ClipTokenizer,
        rule: PictureRule,
        *,
        batch_size: int = 32,
    ):
        if rule.size_px != config.size_px:
            raise ValueError(
                f"{PICTURES} makes pictures of {rule.size_px} pixels, but the model sees"
                f" {config.size_px}; give files of one model."
            )
        if batch_size < 1:
            raise ValueError(f"Expected a batch of at least 1, got {batch_size}.")
        self._params, self._tokenizer, self._rule = params, tokenizer, rule
        self._batch_size, self._num_features = batch_size, config.num_features
        model = Clip(config)
        self._image = jax.jit(functools.partial(model.apply, method=lambda m, *x: m.image(*x)))
        self._text = jax.jit(functools.partial(model.apply, method=lambda m, *x: m.text(*x)))

    def frame_features(self, clips: UInt8[np.ndarray, "B T Y X 3"]) -> Float[np.ndarray, "B T E"]:
        """Embeddings of every frame, float32, not normalised."""
        flat = clips.reshape(-1, *clips.shape[2:])
        rows = self._batched(self._image, flat, prepare=lambda x: (self._rule.prepared(x),))
        return rows.reshape(*clips.shape[:2], -1)

    def caption_features(self, captions: Sequence[str]) -> Float[np.ndarray, "N E"]:
        """Embeddings of captions, float32, not normalised; long ones are cut to 77 tokens.

        Raises:
          ValueError: A word cannot be written with the vocabulary.
        """
        ids, ends = self._tokenizer(captions)
        both = np.concatenate([ids, ends[:, None]], axis=1)
        return self._batched(self._text, both, prepare=lambda x: (x[:, :-1], x[:, -1]))

    def _batched(self, tower, rows, prepare):
        found = [np.zeros((0, self._num_features), np.float32)]
        for start in range(0, len(rows), self._batch_size):
            batch = rows[start : start + self._batch_size]
            arrays = [jnp.asarray(filled(each, self._batch_size)) for each in prepare(batch)]
            found.append(np.asarray(tower({"params": self._params}, *arrays))[: len(batch)])
        return np.concatenate(found)


def load(path: str | Path) -> tuple[ClipScorer, dict[str, str]]:
    """(a CLIP, what belongs beside its scores) from a folder of Hugging Face's or a converted file.

    Raises:
      ValueError: A file is missing (says what to get), damaged, of another model, or asks for
        something that is not computed here.
    """
    path = Path(path)
    if path.is_dir():
        tensors, facts = clip_folder.read_folder(path)
    else:
        facts, tensors = metric_weights.read(path, "clip")
    texts = {name: facts[name] for name in ("config", "pictures", "vocabulary", "merges")}
    config = clip_folder.config_of(clip_folder.parsed(texts["config"], clip_folder.CONFIG))
    metric_weights.check(tensors, clip_folder.network_of(config), "clip", str(path))
    params = traverse_util.unflatten_dict(tensors, sep="/")
    tokenizer = clip_text.tokenizer_of(
        texts["vocabulary"], texts["merges"], num_places=config.num_places
    )
    rule = rule_of(clip_folder.parsed(texts["pictures"], PICTURES))
    weights = MetricWeights(params=params, facts=facts)
    return ClipScorer(params, config, tokenizer, rule), weights.for_results()


def rule_of(facts: Mapping[str, Any]) -> PictureRule:
    """The preparation from a preprocessor_config.json; what it leaves out is as OpenAI's.

    Raises:
      ValueError: It asks for another preparation than the one that is computed here.
    """
    size, crop = facts.get("size", 224), facts.get("crop_size", 224)
    # Older files give sizes as numbers, newer ones as tables.
    short = size.get("shortest_edge") if isinstance(size, dict) else size
    sides = set(crop.values()) if isinstance(crop, dict) else {crop}
    steps = ("do_resize", "do_center_crop", "do_normalize", "do_rescale")
    is_ours = sides == {short} and all(facts.get(step, True) for step in steps)
    if not is_ours or facts.get("resample", _BICUBIC) != _BICUBIC:
        raise ValueError(
            f"{PICTURES} asks for another preparation than the one that is computed here: short"
            " side and middle of one size, bicubic, mean and deviation."
        )
    rule = PictureRule()
    return PictureRule(
        size_px=sides.pop(),
        mean=tuple(facts.get("image_mean", rule.mean)),
        deviation=tuple(facts.get("image_std", rule.deviation)),
    )
