"""Sizes of clips and tokenizers, from gin: a plan needs no dataset."""

import dataclasses

from poet.data.groups import SequenceSizes
from poet.tokens.clip import ClipShape, SoundShape
from poet.tokens.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenSizes:
    """What a dataset would say of its tokens; the defaults are the paper's.

    Attributes:
      num_visual: Codes of the visual tokenizer.
      audio_levels: Codes of each level of the audio tokenizer; empty for clips without sound.
      num_frames: Frames of a clip.
      height_px: Of a clip.
      width_px: Of a clip.
      frames_per_second: Of a clip.
      px_per_token: Side of the square that a visual token stands for.
      frames_per_token: Frames that a later visual token stands for.
      samples_per_audio_frame: Hop of the audio tokenizer.
      sample_rate_hz: Of the sound.
    """

    num_visual: int = 262_144
    audio_levels: tuple[int, ...] = (1024, 1024, 1024, 1024)
    num_frames: int = 17
    height_px: int = 128
    width_px: int = 128
    frames_per_second: float = 8.0
    px_per_token: int = 8
    frames_per_token: int = 4
    samples_per_audio_frame: int = 320
    sample_rate_hz: int = 16_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "audio_levels", tuple(self.audio_levels))
        if self.num_visual < 2:
            raise ValueError(
                f"num_visual={self.num_visual} must be 2 or more; the paper's is 2^18."
            )

    def sequence_sizes(self, text_slots: int, num_text: int) -> SequenceSizes:
        """The sizes of sequences, with a text tokenizer's."""
        clip = ClipShape(
            num_frames=self.num_frames,
            height_px=self.height_px,
            width_px=self.width_px,
            frames_per_second=self.frames_per_second,
            px_per_token=self.px_per_token,
            frames_per_token=self.frames_per_token,
        )
        levels = self.audio_levels
        sound = None
        if levels:
            sound = SoundShape.for_clip(
                clip, len(levels), self.samples_per_audio_frame, self.sample_rate_hz
            )
        return SequenceSizes(
            clip=clip,
            sound=sound,
            text_slots=text_slots,
            vocabulary=Vocabulary(
                num_visual=self.num_visual, audio_levels=levels, num_text=num_text
            ),
        )
