"""Tasks are values: what is given, what is asked for. Everything else follows from the plan."""

import dataclasses

from poet.tokens import vocabulary

_KINDS = ("text", "visual", "audio")


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of one field of a record.

    Attributes:
      kind: What the codes are; decides delimiters and id range.
      field: Name of the record's field that fills it.
      start: First latent frame (visual) or audio frame (audio) taken.
      stop: One past the last; None goes to the end of the clip.
      follows_picture: For audio: `start` and `stop` count latent frames of the picture, and stand
        for the audio frames that fit into them; so they do not depend on the tokenizer's rate.
    """

    kind: str
    field: str
    start: int = 0
    stop: int | None = None
    follows_picture: bool = False

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"Part kind {self.kind!r} is unknown; choose one of {_KINDS}.")
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise ValueError(
                f"Part of {self.field!r} takes frames [{self.start}, {self.stop}), which is empty"
                " or negative; start must be 0 or more and below stop."
            )
        if self.follows_picture and self.kind != "audio":
            raise ValueError(
                f"Part of {self.field!r} is {self.kind}; only audio follows a picture."
            )


@dataclasses.dataclass(frozen=True)
class Task:
    """One thing the model learns.

    Attributes:
      name: Lower-case words joined by underscores.
      prompt: Special id of the task, shared by tasks with the same kind of output.
      inputs: What the prefix holds. Laid out as text, visual, audio whatever the order here.
      outputs: What the model writes: visual, then audio.
      ends: False leaves out the closing delimiters and <eos>, so that a longer output may follow.
    """

    name: str
    prompt: int
    inputs: tuple[Part, ...]
    outputs: tuple[Part, ...]
    ends: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "outputs", tuple(self.outputs))
        task_ids = vocabulary.TASK
        if not task_ids.start <= self.prompt < task_ids.stop:
            raise ValueError(
                f"Task {self.name!r} has prompt id {self.prompt}; task prompts are"
                f" {task_ids.start} to {task_ids.stop - 1}. Pick a free one there."
            )
        kinds = [part.kind for part in self.outputs]
        if not kinds or "text" in kinds or len(set(kinds)) != len(kinds):
            raise ValueError(
                f"Task {self.name!r} has outputs {kinds}; give one visual part, one audio part"
                " or both."
            )
        if [part.kind for part in self.inputs].count("text") > 1:
            raise ValueError(f"Task {self.name!r} has more than one text input; give one.")

    @property
    def has_text(self) -> bool:
        """Whether a text block stands in the prefix (and guidance has something to leave out)."""
        return any(part.kind == "text" for part in self.inputs)

    @property
    def needs_text(self) -> bool:
        """Whether text is all it is given; else an empty text (all PAD) is a fair request."""
        return all(part.kind == "text" for part in self.inputs) and self.has_text

    @property
    def uses_audio(self) -> bool:
        """Whether a record needs sound to serve this task."""
        return any(part.kind == "audio" for part in self.inputs + self.outputs)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the record fields it reads, each once."""
        return tuple(dict.fromkeys(part.field for part in self.inputs + self.outputs))


TEXT = Part("text", "text_ids")
VIDEO = Part("visual", "visual")
AUDIO = Part("audio", "audio")
FIRST_FRAME = Part("visual", "visual", 0, 1)
# Tokens of the clip with pixels hidden, and of its optical flow and depth as three channels
# (`poet.data.masking`, `poet.data.structure`).
MASKED = Part("visual", "masked")
STRUCTURE = Part("visual", "structure")


def _video(name: str, *inputs: Part, start: int = 0) -> Task:
    return Task(name, vocabulary.VIDEO, inputs, (Part("visual", "visual", start),))


def _future_prediction(name: str, num_latent: int) -> Task:
    return _video(name, Part("visual", "visual", 0, num_latent), start=num_latent)


def _continuation(name: str, num_latent: int) -> Task:
    # The first 1 and 3 latent frames last 0.125 s and 1.125 s at the paper's 8 frames a second: 6
    # and 56 of its 50 audio frames a second (design, section 3).
    return Task(
        name,
        vocabulary.AV_CONTINUATION,
        (Part("visual", "visual", 0, num_latent), Part("audio", "audio", 0, num_latent, True)),
        (Part("visual", "visual", num_latent), Part("audio", "audio", num_latent, None, True)),
    )


# Prompts follow the kind of output, as in the paper; the two kinds of painting share all but their
# pixels, and what is hidden can be seen (spec/videopoet.md sections 2.2, 4.1 and 9, rows 2 to 15).
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _video("text_to_video", TEXT),
        # No closing tokens: the same prompt may go on and write the rest of a video
        # (paper, section on text-to-image; spec section 2.4).
        Task("text_to_image", vocabulary.VIDEO, (TEXT,), (FIRST_FRAME,), ends=False),
        _video("image_to_video", TEXT, FIRST_FRAME, start=1),
        # Equal to future_prediction_1 but for its name.
        _future_prediction("image_to_video_without_text", 1),
        # 3 latent frames = 9 frames, about one second (spec section 9, row 10).
        _future_prediction("future_prediction", 3),
        # The step of a long clip whose words change (paper, section on long video).
        _video("future_prediction_with_text", TEXT, Part("visual", "visual", 0, 3), start=3),
        _future_prediction("future_prediction_1", 1),
        _future_prediction("future_prediction_5", 2),
        _future_prediction("future_prediction_13", 4),
        _video("unconditional"),
        Task("inpainting", vocabulary.PAINT, (MASKED,), (VIDEO,)),
        Task("inpainting_with_text", vocabulary.PAINT, (TEXT, MASKED), (VIDEO,)),
        Task("outpainting", vocabulary.PAINT, (MASKED,), (VIDEO,)),
        Task("outpainting_with_text", vocabulary.PAINT, (TEXT, MASKED), (VIDEO,)),
        Task("stylization", vocabulary.STYLE, (TEXT, STRUCTURE), (VIDEO,)),
        # The first frame stands in the same block, before flow and depth (spec 9, row 15).
        Task(
            "stylization_with_first_frame",
            vocabulary.STYLE,
            (TEXT, FIRST_FRAME, STRUCTURE),
            (VIDEO,),
        ),
        Task("audio_to_video", vocabulary.AUDIO_TO_VIDEO, (AUDIO,), (VIDEO,)),
        Task("video_to_audio", vocabulary.VIDEO_TO_AUDIO, (VIDEO,), (AUDIO,)),
        _continuation("audio_video_continuation", 1),
        # One second with sound from the second before it: the step of a long clip.
        _continuation("audio_video_continuation_9", 3),
        # Video with sound is the output of a continuation too, so they share the prompt.
        Task("text_to_video_with_sound", vocabulary.AV_CONTINUATION, (TEXT,), (VIDEO, AUDIO)),
    )
}


def get(name: str) -> Task:
    """The built-in task of that name; ValueError lists the known ones."""
    if name not in TASKS:
        raise ValueError(f"Unknown task {name!r}; choose one of {', '.join(sorted(TASKS))}.")
    return TASKS[name]
