"""Lays a sequence out from left to right: tokens, slots, coordinates.

``poet/tokens/sequence.py`` draws the order and is what other rooms use.
"""

import dataclasses

import numpy as np

from poet.tokens import vocabulary as ids
from poet.tokens.clip import ClipShape, SoundShape
from poet.tokens.tasks import Part, Task
from poet.tokens.vocabulary import IdRange, Vocabulary

# Clips of up to this many frames need no duration token (the paper's base clip).
_BASE_FRAMES = 17
_FRAMES_PER_DURATION_ID = 24

OPEN_IN = {"text": ids.BOT_I, "visual": ids.BOV_I, "audio": ids.BOA_I}
CLOSE_IN = {"text": ids.EOT_I, "visual": ids.EOV_I, "audio": ids.EOA_I}
OPEN_OUT = {"visual": ids.BOV_O, "audio": ids.BOA_O}
CLOSE_OUT = {"visual": ids.EOV_O, "audio": ids.EOA_O}


@dataclasses.dataclass(frozen=True)
class Slot:
    """A run of positions that one part of one field fills.

    Attributes:
      start: First position.
      stop: One past the last position.
      kind: text, visual or audio.
      field: Record field it is filled from.
      level: Audio level; None otherwise.
      ids: Id range of its tokens.
      source: First and one past the last latent frame, audio frame or text slot taken.
      is_output: Whether the model writes it.
    """

    start: int
    stop: int
    kind: str
    field: str
    level: int | None
    ids: IdRange
    source: tuple[int, int]
    is_output: bool


@dataclasses.dataclass(kw_only=True)
class Layout:
    """Tokens and slots of a sequence; grows while ``lay_out`` writes it."""

    task: Task
    clip: ClipShape
    sound: SoundShape | None
    num_text_slots: int
    vocabulary: Vocabulary
    tokens: list[int] = dataclasses.field(default_factory=list)
    slots: list[Slot] = dataclasses.field(default_factory=list)
    prefix_length: int = 0


def lay_out(layout: Layout) -> Layout:
    """Fills an empty layout; ValueError when the task does not fit the clip."""
    task = layout.task
    layout.tokens += [ids.BOS, task.prompt]
    for kind in ("text", "visual", "audio"):
        parts = [part for part in task.inputs if part.kind == kind]
        if parts:
            layout.tokens.append(OPEN_IN[kind])
            for part in parts:
                _add_part(layout, part, is_output=False)
            layout.tokens.append(CLOSE_IN[kind])
    layout.tokens += _size_ids(layout.clip)

    layout.prefix_length = len(layout.tokens)
    for kind in ("visual", "audio"):
        for part in task.outputs:
            if part.kind == kind:
                layout.tokens.append(OPEN_OUT[kind])
                _add_part(layout, part, is_output=True)
                layout.tokens += [CLOSE_OUT[kind]] * task.ends
    layout.tokens += [ids.EOS] * task.ends
    return layout


def _add_part(layout: Layout, part: Part, is_output: bool) -> None:
    """Appends the slots of one part: one, or one a level for audio."""
    vocabulary, levels, num_available, tokens_per_frame = layout.vocabulary, [None], 0, 1
    if part.kind == "text":
        ranges, num_available = [vocabulary.text], layout.num_text_slots
    elif part.kind == "visual":
        num_available, height, width = layout.clip.grid
        ranges, tokens_per_frame = [vocabulary.visual], height * width
    else:
        levels, num_available = list(range(layout.sound.num_levels)), layout.sound.num_audio_frames
        ranges = [vocabulary.audio(level) for level in levels]

    first, stop = part.start, num_available if part.stop is None else part.stop
    if part.follows_picture:
        first = layout.sound.frames_beside(layout.clip, part.start)
        stop = num_available
        if part.stop is not None:
            stop = layout.sound.frames_beside(layout.clip, part.stop)
    if not first < stop <= num_available:
        raise ValueError(
            f"Task {layout.task.name!r} takes frames {first} to {stop} of {part.field!r}, but"
            f" the clip has {num_available} latent {part.kind} frames; use a longer clip"
            f" (num_frames={layout.clip.num_frames} here) or another task."
        )
    for level, id_range in zip(levels, ranges, strict=True):
        start = len(layout.tokens)
        layout.tokens += [ids.PAD] * ((stop - first) * tokens_per_frame)
        layout.slots.append(
            Slot(
                start=start,
                stop=len(layout.tokens),
                kind=part.kind,
                field=part.field,
                level=level,
                ids=id_range,
                source=(first, stop),
                is_output=is_output,
            )
        )


def _size_ids(clip: ClipShape) -> list[int]:
    """<res> and duration ids; none for the paper's base clip, square and of 17 frames or fewer.

    <res> 0 is portrait and 1 is landscape. Duration i is for clips of up to 17 + 24 (i + 1)
    frames, so that the paper's 41 frames are duration 0.
    """
    size_ids = []
    if clip.height_px != clip.width_px:
        size_ids.append(ids.RES.start + (clip.width_px > clip.height_px))
    if clip.num_frames > _BASE_FRAMES:
        index = -(-(clip.num_frames - _BASE_FRAMES) // _FRAMES_PER_DURATION_ID) - 1
        if index >= ids.DURATION.num_ids:
            longest = _BASE_FRAMES + _FRAMES_PER_DURATION_ID * ids.DURATION.num_ids
            raise ValueError(
                f"num_frames={clip.num_frames} is longer than the duration ids reach"
                f" ({longest}); split the clip, or extend it second by second."
            )
        size_ids.append(ids.DURATION.start + index)
    return size_ids


def coordinates(layout: Layout) -> dict[str, np.ndarray]:
    """int32 [L] each: 1 + coordinate of every slot's tokens, 0 where it does not apply."""
    names = ("t", "h", "w", "audio_frame", "level")
    found = {name: np.zeros(len(layout.tokens), np.int32) for name in names}
    for slot in layout.slots:
        where, frames = slice(slot.start, slot.stop), np.arange(*slot.source)
        if slot.kind == "visual":
            height, width = layout.clip.grid[1:]
            grid = np.meshgrid(frames, np.arange(height), np.arange(width), indexing="ij")
            for name, axis in zip("thw", grid, strict=True):
                found[name][where] = 1 + axis.reshape(-1)
        elif slot.kind == "audio":
            found["audio_frame"][where] = 1 + frames
            found["level"][where] = 1 + slot.level
    return found
