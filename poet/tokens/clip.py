"""Sizes of a clip's picture and sound, in pixels, samples and tokens."""

import dataclasses
import math
from fractions import Fraction


@dataclasses.dataclass(frozen=True)
class ClipShape:
    """The picture of a clip. ``frames`` are pixel frames; latent frames say so.

    The first frame stands alone in time, so that an image is a clip of one frame.

    Attributes:
      num_frames: 1 + a multiple of ``frames_per_token``.
      height_px: Whole number of tokens high.
      width_px: Whole number of tokens wide.
      frames_per_second: Rate of the pixel frames.
      px_per_token: Side of the square of pixels that one token stands for.
      frames_per_token: Pixel frames of a latent frame after the first.
    """

    num_frames: int
    height_px: int
    width_px: int
    frames_per_second: float = 8.0
    px_per_token: int = 8
    frames_per_token: int = 4

    def __post_init__(self) -> None:
        for name in ("height_px", "width_px"):
            size, step = getattr(self, name), self.px_per_token
            if size < step or size % step:
                low = max(size - size % step, step)
                raise ValueError(
                    f"{name}={size} is not a whole number of tokens ({step} px each)."
                    f" Nearest sizes: {low} or {low + step}."
                )
        step = self.frames_per_token
        if self.num_frames < 1 or (self.num_frames - 1) % step:
            low = max(1 + step * ((self.num_frames - 1) // step), 1)
            raise ValueError(
                f"num_frames={self.num_frames} must be 1 + a multiple of {step},"
                f" for example {low} or {low + step}."
            )
        if not (self.frames_per_second > 0 and math.isfinite(self.frames_per_second)):
            raise ValueError(
                f"frames_per_second={self.frames_per_second} must be a positive number;"
                " the paper uses 8."
            )

    @property
    def latent_frames(self) -> int:
        """Length of the token grid in time."""
        return 1 + (self.num_frames - 1) // self.frames_per_token

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape (t, h, w) of the visual codes."""
        return (
            self.latent_frames,
            self.height_px // self.px_per_token,
            self.width_px // self.px_per_token,
        )

    @property
    def num_tokens(self) -> int:
        """Visual tokens of the whole clip."""
        return math.prod(self.grid)

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame's start to the last frame's end."""
        return self.num_frames / self.frames_per_second

    def frames_of(self, latent_frames: int) -> int:
        """Pixel frames that the first ``latent_frames`` latent frames stand for."""
        return max(0, 1 + (latent_frames - 1) * self.frames_per_token)


@dataclasses.dataclass(frozen=True)
class SoundShape:
    """The sound of a clip: mono samples, and codes [num_levels, num_audio_frames].

    Attributes:
      num_levels: Levels of the residual quantizer; every level codes every audio frame.
      num_audio_frames: Latent frames in time.
      samples_per_frame: Hop of the audio tokenizer.
      sample_rate_hz: Samples a second.
    """

    num_levels: int
    num_audio_frames: int
    samples_per_frame: int = 320
    sample_rate_hz: int = 16_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(
                    f"{field.name}={getattr(self, field.name)} must be at least 1; a clip without"
                    " sound has no SoundShape, pass None."
                )

    @classmethod
    def for_clip(
        cls,
        clip: ClipShape,
        num_levels: int,
        samples_per_frame: int = 320,
        sample_rate_hz: int = 16_000,
    ) -> "SoundShape":
        """The whole audio frames that fit into the clip: 17 frames at 8 fps give 106."""
        duration = clip.num_frames / Fraction(clip.frames_per_second)
        num_audio_frames = int(duration * sample_rate_hz / samples_per_frame)
        return cls(num_levels, num_audio_frames, samples_per_frame, sample_rate_hz)

    def frames_beside(self, clip: ClipShape, latent_frames: int) -> int:
        """The whole audio frames that fit beside the first latent frames of a picture."""
        seconds = clip.frames_of(latent_frames) / Fraction(clip.frames_per_second)
        return int(seconds * self.sample_rate_hz / self.samples_per_frame)

    @property
    def num_tokens(self) -> int:
        """Audio tokens of the whole clip, all levels."""
        return self.num_levels * self.num_audio_frames

    @property
    def num_samples(self) -> int:
        """Samples that the audio frames cover."""
        return self.num_audio_frames * self.samples_per_frame

    @property
    def duration_s(self) -> float:
        """Seconds that the audio frames cover."""
        return self.num_samples / self.sample_rate_hz
