"""What a person asks for: requests, and the job that answers them."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from poet.sample.requests import SamplingRequest

FORMATS = ("mp4", "webm", "gif", "png", "wav")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """One request. Files are what `poet.media` reads.

    Attributes:
      name: Stem of the files it makes.
      prompt: Words, for tasks that read them.
      later: (second, words) pairs: what takes the prompt's place from then on, in long clips.
      negative_prompt: Words that guidance leads away from.
      image: A picture: the first frame.
      video: A clip.
      audio: A sound file, or a clip with sound.
      mask: What painting hides: a region of `poet.data.masking.REGIONS`, or a picture whose white
        part is hidden, of the size of the clip's file or of the model's clips. "" is the middle for
        inpainting and everything but the middle for outpainting.
      start_s: Where in `video` and `audio` to begin; None is the beginning, and for requests to
        continue a clip its end.
      number: With the seed it fixes the draws; differs between requests.
      sampling: Instead of the job's.
      facts: More that is known of the clip (the manifest's other columns).
      record: Name of the record that ``codes`` reads, as dataset, split and clip.
      codes: Instead of files: text tokenizer -> local codes of what the task is given, by field,
        without an axis for the batch.
    """

    name: str
    prompt: str = ""
    later: tuple[tuple[float, str], ...] = ()
    negative_prompt: str = ""
    image: str = ""
    video: str = ""
    audio: str = ""
    mask: str = ""
    start_s: float | None = None
    number: int = 0
    sampling: SamplingRequest | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    record: str = ""
    codes: Callable[[Any], Mapping[str, np.ndarray]] | None = None

    def __post_init__(self) -> None:
        later = tuple((float(second), str(words)) for second, words in self.later)
        object.__setattr__(self, "later", later)
        times = [second for second, _ in later]
        if times != sorted(set(times)) or (times and times[0] <= 0):
            raise ValueError(
                f"Words of request {self.name!r} change at {times} s; times must be above 0 and"
                " rise."
            )

    def prompt_at(self, second: float) -> str:
        """The words that hold at a time."""
        # Frames end at whole eighths of a second or so; a hair is not another moment.
        return [words for at, words in ((0.0, self.prompt), *self.later) if at <= second + 1e-6][-1]

    @property
    def files(self) -> list[str]:
        """Files it names."""
        mask = [self.mask] if os.path.splitext(self.mask)[1] else []
        return [path for path in (self.image, self.video, self.audio, *mask) if path]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Link:
    """A task that follows on what was made.

    Attributes:
      task: Its name, or a word of `poet.sample.names`.
      prompt: Its words; "" keeps the request's.
      mask: As in a request.
    """

    task: str
    prompt: str = ""
    mask: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What to do with all requests of a job.

    Attributes:
      task: Name of the task, or a word of `poet.sample.names`.
      then: Tasks that follow on what was made, each a `Link` or a name.
      sampling: Temperature, top-k, top-p, guidance and seed.
      then_temperature: Temperature of the tasks that follow; None is that of `sampling`. What is
        rare and could come at one of several moments, such as a click, is never the likeliest
        token: a low temperature leaves it out.
      out: Folder for the files.
      file_name: Name of the one file, for a single request; "" names files after requests.
      format: Ending of clips: "mp4", "webm" or "gif".
      seconds: Length of clips; 0 is that of the model. Longer ones grow second by second
        (`poet.sample.extend`).
      tries: Candidates of every step, of which the best is kept (`poet.sample.candidates`).
      has_preview: Whether pictures are written while a batch is decoded, to OUT/preview.
      overwrite: Whether files that other requests made are replaced; else they are an error.
      records_failures: Whether a request whose files cannot be read is noted in its row, and the
        others are answered; else the first one ends the job.
      has_table: Whether samples.jsonl is written at the end; not for hosts that share a folder.
      batch_size: At most so many requests are decoded together; batches are of one size, the last
        one padded to it.
    """

    task: str
    then: tuple[Link | str, ...] = ()
    sampling: SamplingRequest
    then_temperature: float | None = None
    out: Path
    file_name: str = ""
    format: str = "mp4"
    seconds: float = 0.0
    tries: int = 1
    has_preview: bool = False
    overwrite: bool = False
    records_failures: bool = False
    has_table: bool = True
    batch_size: int = 32

    def __post_init__(self) -> None:
        links = tuple(Link(task=link) if isinstance(link, str) else link for link in self.then)
        object.__setattr__(self, "then", links)
        if self.has_preview and self.tries > 1:
            raise ValueError("A preview shows one try; leave it out, or ask for one candidate.")
        if not 1 <= self.tries <= 1000:
            raise ValueError(f"tries={self.tries} must be from 1 to 1,000.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be 1 or more.")
        if self.format not in ("mp4", "webm", "gif"):
            raise ValueError(f"Clips are written as mp4, webm or gif, got {self.format!r}.")
        if not 0 <= self.seconds < 3600:
            raise ValueError(f"seconds={self.seconds} must be a number from 0 to 3600.")

    def sampling_of(self, ask: Ask, place: int) -> SamplingRequest:
        """How a request is sampled at this place of the chain, 0 for the first."""
        sampling = ask.sampling or self.sampling
        if place == 0:
            return sampling
        temperature = self.then_temperature
        if temperature is None:
            temperature = sampling.temperature
        guidance = sampling.guidance if self.then[place - 1].prompt else 1.0
        return dataclasses.replace(sampling, guidance=guidance, temperature=temperature)
