"""A language model and its tokenizers, ready to answer requests.

Axes: B batch, T frames, Y rows, X columns, C channels, S samples, Q audio levels.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from poet.models.config import PrefixLMConfig
from poet.sample import decode, names
from poet.sample.requests import SamplingRequest
from poet.tokens import sequence
from poet.tokens.clip import ClipShape, SoundShape
from poet.tokens.tasks import Task
from poet.typing import Float, Int, UInt8

# Draws of the n-th task of a chain use seeds of their own, so that no two tasks share a draw.
_CHAIN_STRIDE = 1_000_000_007


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizers:
    """Pixels, sound and text to codes and back. `audio` may be None for a model without sound."""

    visual: Any
    audio: Any
    text: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a checkpoint says of its model.

    Attributes:
      config: Sizes of the model.
      clip: Size of its clips.
      sound: Size of their sound, None for a model without.
      tasks: Name -> task it was trained for.
      facts: What to write beside every answer, such as the checkpoint's step; JSON-able.
    """

    config: PrefixLMConfig
    clip: ClipShape
    sound: SoundShape | None
    tasks: Mapping[str, Task]
    facts: Mapping[str, Any]


class Engine:
    """Answers requests with one model.

    Args:
      params: Parameters of the model.
      trained: What its checkpoint says of it.
      tokenizers: What its ids mean.
      decoding: Types of weights and caches, order of tokens.
    """

    def __init__(
        self,
        *,
        params: Any,
        trained: Trained,
        tokenizers: Tokenizers,
        decoding: decode.Decoding | None = None,
    ):
        self._decoding = decoding or decode.Decoding()
        self.clip, self.sound = trained.clip, trained.sound
        self.facts = dict(trained.facts) | {"decoding": self._decoding.facts()}
        self._tasks, self._tokenizers = dict(trained.tasks), tokenizers
        self._config = trained.config
        self._params = decode.prepare_for_sampling(
            params, trained.config, self._decoding.weight_dtype
        )

    @property
    def sample_rate_hz(self) -> int:
        """Of the sound that `decode_sound` gives."""
        return self._tokenizers.audio.sample_rate_hz

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the model was trained for."""
        return tuple(self._tasks)

    @property
    def text_tokenizer(self) -> Any:
        """What turns words into the model's text ids."""
        return self._tokenizers.text

    def at_size(self, clip: ClipShape, sound: SoundShape | None) -> "Engine":
        """The same model for clips of another size; its parameters are shared."""
        other = copy.copy(self)
        other.clip, other.sound = clip, sound
        return other

    def task(self, name: str) -> Task:
        """The task of that name, if the model was trained for it.

        Raises:
          ValueError: naming what it was trained for.
        """
        if name in self._tasks:
            return self._tasks[name]
        return self._tasks[names.resolve(name, self._tasks)]

    def check_prompt(self, prompt: str) -> None:
        """ValueError for a prompt that is empty or longer than the text slots."""
        self._tokenizers.text.check_prompt(prompt)

    def generate(
        self,
        task_name: str,
        given: Mapping[str, Any],
        request_ids: Sequence[int],
        sampling: SamplingRequest | Sequence[SamplingRequest],
        place: int = 0,
        **more: Any,
    ) -> dict[str, np.ndarray]:
        """Codes of whole clips: what was given joined with what was made.

        Args:
          task_name: A task that the model was trained for.
          given: "visual", "masked" and "structure" codes [B, t, h, w], "audio" codes [B, Q, F],
            "prompts" (or "text_ids" [B, slots]) and, if any, "negative_prompts", B strings; what
            the task does not read is ignored.
          request_ids: One a request; its draws depend on its id and its seed alone.
          sampling: How tokens are chosen, for all of them or one a request.
          place: Number of the task in a chain, 0 for the first.
          **more: ``with_likelihood`` of `decode.generate`; ``preview``, a
            `poet.sample.preview.Preview`.
        """
        task = self.task(task_name)
        plan = self.plan(task)
        fields = {name: np.asarray(given[name]) for name in task.fields if name in given}
        negative = None
        for slot in plan.slots:
            if slot.kind == "text":
                if slot.field not in fields:
                    fields[slot.field] = np.stack([self._text_ids(t) for t in given["prompts"]])
                if any(given.get("negative_prompts", ())):
                    negative = np.stack([self._text_ids(t) for t in given["negative_prompts"]])
        is_one = isinstance(sampling, SamplingRequest)
        samplings = [sampling] * len(request_ids) if is_one else sampling
        shift = place * _CHAIN_STRIDE
        if preview := more.pop("preview", None):
            more["say"] = preview.watch(plan, fields)
        made = decode.generate(
            self._params,
            self._config,
            plan,
            fields,
            [dataclasses.replace(one, seed=(one.seed + shift) % 2**32) for one in samplings],
            np.asarray(request_ids, np.int64),
            negative,
            decoding=self._decoding,
            **more,
        )
        # Joined below with what was given, so that it can be decoded.
        likelihood = {k: made.pop(k) for k in ("log_likelihood",) if k in made}
        return sequence.join_given(plan, fields, made) | likelihood

    def plan(self, task: Task) -> sequence.SequencePlan:
        """Where everything sits in the sequences of a task."""
        return sequence.plan(
            task, self.clip, self.sound, self._config.text_slots, self._config.vocabulary
        )

    def _text_ids(self, text: str) -> Int[np.ndarray, "L"]:
        """Ids of a prompt; an empty one is the row of all pads that training drops texts to."""
        ids = self._tokenizers.text.encode(text)
        return ids if text else np.zeros_like(ids)

    def encode_video(self, frames: Float[np.ndarray, "B T Y X C"]) -> Int[np.ndarray, "B t y x"]:
        """Visual codes of pixels in [0, 1]."""
        return np.asarray(self._tokenizers.visual.encode(frames))

    def encode_sound(self, samples: Float[np.ndarray, "B S"]) -> Int[np.ndarray, "B Q F"]:
        """Audio codes of samples in [-1, 1]."""
        return np.asarray(self._tokenizers.audio.encode(samples))

    def decode_video(self, codes: Int[np.ndarray, "B t y x"]) -> UInt8[np.ndarray, "B T Y X C"]:
        """Pixels, 0 to 255."""
        pixels = np.asarray(self._tokenizers.visual.decode(codes))
        return np.round(255 * np.clip(pixels, 0.0, 1.0)).astype(np.uint8)

    def decode_sound(self, codes: Int[np.ndarray, "B Q F"]) -> Float[np.ndarray, "B S"]:
        """Samples in [-1, 1], as long as the clip."""
        sound = np.asarray(self._tokenizers.audio.decode(codes))
        num_samples = round(self.clip.duration_s * self._tokenizers.audio.sample_rate_hz)
        missing = max(0, num_samples - sound.shape[1])
        return np.clip(np.pad(sound[:, :num_samples], ((0, 0), (0, missing))), -1.0, 1.0)
