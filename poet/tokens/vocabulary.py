"""One table of ids: special 0-255, then visual, then one range an audio level, then text.

The special ids are frozen (spec/videopoet.md section 9, row 1): a checkpoint means nothing
without them, so a test holds every number.
"""

import dataclasses
import functools
import hashlib
import json
from typing import Any

import numpy as np

NUM_SPECIAL = 256

PAD, BOS, EOS = 0, 1, 2
BOT_I, EOT_I = 3, 4
BOV_I, EOV_I = 5, 6
BOA_I, EOA_I = 7, 8
BOV_O, EOV_O = 9, 10
BOA_O, EOA_O = 11, 12

# Task prompts. One value per distinct output, not per mix of inputs (paper, Table 4).
VIDEO, PAINT, STYLE, VIDEO_TO_AUDIO, AUDIO_TO_VIDEO, AV_CONTINUATION = range(64, 70)


@dataclasses.dataclass(frozen=True)
class IdRange:
    """A run of consecutive token ids, [start, stop)."""

    name: str
    start: int
    num_ids: int

    @property
    def stop(self) -> int:
        """One past the last id."""
        return self.start + self.num_ids

    def to_local(self, ids: Any) -> Any:
        """Global ids -> codes of this range's own codebook; an int or a numpy array."""
        return self._shift(ids, self.start, "Token", f"{self.name!r} range", -self.start)

    def to_global(self, codes: Any) -> Any:
        """Codes of this range's codebook -> ids of the whole table; an int or a numpy array."""
        return self._shift(codes, 0, "Code", f"{self.name!r} codebook", self.start)

    def _shift(self, values: Any, first: int, noun: str, where: str, by: int) -> Any:
        """Adds ``by`` to values that all lie in [first, first + num_ids); ValueError otherwise."""
        array = np.asarray(values)
        if array.dtype.kind not in "iu":
            raise ValueError(f"{noun}s must be integers, got {array.dtype}; round or cast first.")
        # int64 before adding: codes may arrive as uint8, and wrapping would go unseen.
        wide = array.astype(np.int64)
        bad = (wide < first) | (wide >= first + self.num_ids)
        if bad.any():
            raise ValueError(
                f"{noun} {wide[bad].flat[0]} is not in the {where}"
                f" [{first}, {first + self.num_ids}). Check that tokenizer and vocabulary are of"
                " the same size, and mask the logits outside a range before choosing a token."
            )
        shifted = wide + by
        return int(shifted) if isinstance(values, int) else shifted.astype(np.int32)


SOURCE = IdRange("source", 16, 16)
RES = IdRange("res", 32, 16)
DURATION = IdRange("duration", 48, 16)
TASK = IdRange("task", 64, 64)

SPECIAL_NAMES: dict[int, str] = {
    PAD: "<pad>",
    BOS: "<bos>",
    EOS: "<eos>",
    BOT_I: "<bot_i>",
    EOT_I: "<eot_i>",
    BOV_I: "<bov_i>",
    EOV_I: "<eov_i>",
    BOA_I: "<boa_i>",
    EOA_I: "<eoa_i>",
    BOV_O: "<bov_o>",
    EOV_O: "<eov_o>",
    BOA_O: "<boa_o>",
    EOA_O: "<eoa_o>",
    VIDEO: "<task:video>",
    PAINT: "<task:paint>",
    STYLE: "<task:style>",
    VIDEO_TO_AUDIO: "<task:video_to_audio>",
    AUDIO_TO_VIDEO: "<task:audio_to_video>",
    AV_CONTINUATION: "<task:av_continuation>",
}
for _range in (SOURCE, RES, DURATION):
    SPECIAL_NAMES |= {_range.start + i: f"<{_range.name}:{i}>" for i in range(_range.num_ids)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The whole id table. Ranges lie end to end, so they cannot overlap.

    Attributes:
      num_visual: Codes of the visual tokenizer (paper: 2^18).
      audio_levels: Codes of each level of the residual audio quantizer (paper: 4 x 1,024).
      num_text: Pieces of the text tokenizer (T5: 32,128).
    """

    num_visual: int = 262_144
    audio_levels: tuple[int, ...] = (1024,) * 4
    num_text: int = 32_128

    def __post_init__(self) -> None:
        # Gin and JSON hand over lists; a frozen value must hash.
        object.__setattr__(self, "audio_levels", tuple(int(n) for n in self.audio_levels))
        for name, count in [
            ("num_visual", self.num_visual),
            ("num_text", self.num_text),
            *((f"audio_levels[{i}]", n) for i, n in enumerate(self.audio_levels)),
        ]:
            if count < 1:
                raise ValueError(
                    f"Vocabulary {name}={count} must be at least 1; take it from the tokenizer."
                )

    @functools.cached_property
    def segments(self) -> tuple[IdRange, ...]:
        """The ranges in table order: special, visual, audio_0, audio_1, ..., text."""
        sizes = {"special": NUM_SPECIAL, "visual": self.num_visual}
        sizes |= {f"audio_{i}": n for i, n in enumerate(self.audio_levels)}
        sizes["text"] = self.num_text
        ranges, start = [], 0
        for name, count in sizes.items():
            ranges.append(IdRange(name, start, count))
            start += count
        return tuple(ranges)

    @property
    def special(self) -> IdRange:
        """Delimiters, prompts and other fixed ids, [0, 256)."""
        return self.segments[0]

    @property
    def visual(self) -> IdRange:
        """Codes of images and video."""
        return self.segments[1]

    @property
    def text(self) -> IdRange:
        """Pieces of text."""
        return self.segments[-1]

    def audio(self, level: int) -> IdRange:
        """Codes of one level of the residual audio quantizer, 0 the coarsest."""
        if not 0 <= level < len(self.audio_levels):
            raise ValueError(
                f"Audio level {level} does not exist: this vocabulary has"
                f" {len(self.audio_levels)} levels, counted from 0."
            )
        return self.segments[2 + level]

    def segment_index(self, name: str) -> int:
        """Position in ``segments`` of the range called ``name``."""
        return [segment.name for segment in self.segments].index(name)

    @property
    def size(self) -> int:
        """Number of ids in the table."""
        return self.segments[-1].stop

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; ``from_dict`` reads it back."""
        return {
            "num_visual": self.num_visual,
            "audio_levels": list(self.audio_levels),
            "num_text": self.num_text,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Vocabulary":
        """The vocabulary that ``to_dict`` described."""
        return cls(**fields | {"audio_levels": tuple(fields["audio_levels"])})

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when any id changes its meaning."""
        facts = {"sizes": self.to_dict(), "special": sorted(SPECIAL_NAMES.items())}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
