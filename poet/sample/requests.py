"""What a person may ask of sampling, checked."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from poet.tokens.tasks import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingRequest:
    """How tokens are chosen.

    Attributes:
      temperature: Divides the logits; 0 takes the likeliest token.
      top_k: Only the k likeliest tokens may be drawn; 0 sets no limit.
      top_p: Only the likeliest tokens that together have this probability may be drawn.
      guidance: s in l_u + s (l_c - l_u), l_c logits with the text, l_u without it; 1 leaves the
        second pass out.
      seed: Of every draw. Together with a request's id and a token's position it fixes the draw.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(
                f"temperature={self.temperature} must be a number of 0 or more; 0 takes the"
                " likeliest token, 1 samples from the model as it is."
            )
        if self.top_k != int(self.top_k) or self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} must be a whole number; 0 sets no limit.")
        if self.top_k >= 2**31:
            raise ValueError(f"top_k={self.top_k} is more than any vocabulary; 0 sets no limit.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1; 1 sets no limit.")
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise ValueError(
                f"guidance={self.guidance} must be a number of 0 or more; 1 turns it off, 3 is a"
                " good start."
            )
        if self.seed != int(self.seed) or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must be a whole number from 0 to 2^32 - 1.")

    def check_task(self, task: Task) -> None:
        """ValueError when guidance is asked of a task that has no text to leave out."""
        if self.guidance != 1 and not task.has_text:
            raise ValueError(
                f"guidance={self.guidance} needs a text to leave out, and task {task.name!r} has"
                " none; use guidance 1."
            )

    @property
    def mode(self) -> "SamplingMode":
        """The part of the request that a compiled program depends on."""
        return SamplingMode.of([self])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingMode:
    """Which settings a batch of requests uses at all: batches of one mode share a program.

    Attributes:
      is_greedy: Every request takes the likeliest token, no draws.
      has_greedy: Some do.
      has_top_k: Some limit the number of tokens.
      has_top_p: Some limit their mass.
      has_guidance: Every request runs twice, with and without its text, because some are guided.
    """

    is_greedy: bool
    has_greedy: bool
    has_top_k: bool
    has_top_p: bool
    has_guidance: bool

    @classmethod
    def of(cls, requests: Sequence[SamplingRequest]) -> "SamplingMode":
        """Of all requests of a batch."""
        return cls(
            is_greedy=all(request.temperature == 0 for request in requests),
            has_greedy=any(request.temperature == 0 for request in requests),
            has_top_k=any(request.top_k > 0 for request in requests),
            has_top_p=any(request.top_p < 1 for request in requests),
            has_guidance=any(request.guidance != 1 for request in requests),
        )


def settings_of(requests: Sequence[SamplingRequest]) -> dict[str, np.ndarray]:
    """The numbers of a batch of requests, one array [B] each: what a compiled program is given."""
    types = {
        "temperature": np.float32,
        "top_k": np.int32,
        "top_p": np.float32,
        "guidance": np.float32,
        "seed": np.uint32,
    }
    return {
        name: np.array([getattr(request, name) for request in requests], dtype)
        for name, dtype in types.items()
    }
