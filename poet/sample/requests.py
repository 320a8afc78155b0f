"""What a person may ask of sampling, checked."""

import dataclasses
import math

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
        return SamplingMode(
            is_greedy=self.temperature == 0,
            top_k=int(self.top_k),
            has_top_p=self.top_p < 1,
            has_guidance=self.guidance != 1,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingMode:
    """What is static in a request: requests of one mode share a compiled program.

    Attributes:
      is_greedy: The likeliest token, no draws.
      top_k: As in the request.
      has_top_p: Whether top_p limits anything.
      has_guidance: Whether every request runs twice, with and without its text.
    """

    is_greedy: bool
    top_k: int
    has_top_p: bool
    has_guidance: bool
