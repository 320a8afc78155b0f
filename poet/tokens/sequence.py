"""Where everything sits in a sequence: one static plan for training and for sampling.

    <bos> <task> [<bot_i> text <eot_i>] [<bov_i> visual <eov_i>] [<boa_i> audio <eoa_i>] [<res>]
      | <bov_o> visual <eov_o> <boa_o> audio <eoa_o> <eos>

Left of the bar is the prefix, attended both ways; right of it is the output, causal. Parts that a
task lacks are left out with their delimiters. <bov_o> and <boa_o> are fed, never predicted; the
closing delimiters carry loss. Audio is level-major: the whole clip at level 0, then level 1.
(Paper, sequence layout figure; spec/videopoet.md sections 2.3 to 2.5.)

Lengths depend on the task and the sizes only, never on the data.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from poet.tokens import vocabulary as ids
from poet.tokens.clip import ClipShape, SoundShape
from poet.tokens.layout import OPEN_OUT, Layout, Slot, coordinates, lay_out
from poet.tokens.tasks import Task
from poet.tokens.vocabulary import SPECIAL_NAMES, IdRange, Vocabulary

# What a position is to the model, index = value of ``SequencePlan.segment``.
SEGMENT_KINDS = (
    "special",
    "text",
    "visual_in",
    "audio_in",
    "visual_out",
    "audio_out",
    # Given pictures of another field than the one written: a masked clip, flow and depth.
    "condition_in",
)


class PlanRow(NamedTuple):
    """A line of ``SequencePlan.describe``: positions [start, stop) and what they are."""

    start: int
    stop: int
    what: str
    ids: str
    side: str
    loss_tokens: int


@dataclasses.dataclass(frozen=True)
class SequencePlan:
    """Everything static about a task's sequences. Hashable; arrays are read-only numpy.

    Make one with ``plan``, which checks the sizes. ``L`` below is ``length``.
    """

    task: Task
    clip: ClipShape
    sound: SoundShape | None
    num_text_slots: int
    vocabulary: Vocabulary

    @functools.cached_property
    def _layout(self) -> Layout:
        return lay_out(
            Layout(
                task=self.task,
                clip=self.clip,
                sound=self.sound,
                num_text_slots=self.num_text_slots,
                vocabulary=self.vocabulary,
            )
        )

    @functools.cached_property
    def _hash(self) -> int:
        fields = (self.task, self.clip, self.sound, self.num_text_slots, self.vocabulary)
        return hash(fields)

    def __hash__(self) -> int:
        return self._hash

    @property
    def length(self) -> int:
        """L, tokens of the whole sequence."""
        return len(self._layout.tokens)

    @property
    def prefix_length(self) -> int:
        """P: index of the first output-side token, which is fed and never predicted."""
        return self._layout.prefix_length

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every run of positions filled from a record, in sequence order."""
        return tuple(self._layout.slots)

    @functools.cached_property
    def template(self) -> np.ndarray:
        """int32 [L]: the fixed special ids, PAD where a slot is filled."""
        return _frozen(self._layout.tokens, np.int32)

    @functools.cached_property
    def loss_weights(self) -> np.ndarray:
        """float32 [L-1] over targets s[1:]: 1 on the output's tokens that are predicted."""
        tokens, positions = self.template, np.arange(self.length)
        is_fed = np.isin(tokens, list(OPEN_OUT.values()))
        is_loss = (positions > self.prefix_length) & ~is_fed
        return _frozen(is_loss[1:], np.float32)

    @functools.cached_property
    def legal(self) -> tuple[tuple[int, int, IdRange], ...]:
        """(start, stop, ids) over all output positions; a delimiter's range has one id."""
        rows = [(slot.start, slot.stop, slot.ids) for slot in self.slots if slot.is_output]
        for position in range(self.prefix_length, self.length):
            token = int(self.template[position])
            if token != ids.PAD:
                rows.append((position, position + 1, IdRange(SPECIAL_NAMES[token], token, 1)))
        return tuple(sorted(rows, key=lambda row: row[0]))

    @functools.cached_property
    def segment_index(self) -> np.ndarray:
        """int32 [L]: index into ``vocabulary.segments`` of the range each token is from."""
        index = np.zeros(self.length, np.int32)
        for slot in self.slots:
            index[slot.start : slot.stop] = self.vocabulary.segment_index(slot.ids.name)
        return _frozen(index, np.int32)

    @functools.cached_property
    def segment(self) -> np.ndarray:
        """int32 [L]: index into ``SEGMENT_KINDS``."""
        kinds = np.zeros(self.length, np.int32)
        for slot in self.slots:
            side = "" if slot.kind == "text" else ("_out" if slot.is_output else "_in")
            kind = slot.kind
            if kind == "visual" and slot.field != "visual":
                kind = "condition"
            kinds[slot.start : slot.stop] = SEGMENT_KINDS.index(kind + side)
        return _frozen(kinds, np.int32)

    @functools.cached_property
    def _coordinates(self) -> dict[str, np.ndarray]:
        arrays = coordinates(self._layout)
        return {name: _frozen(array, np.int32) for name, array in arrays.items()}

    @property
    def t(self) -> np.ndarray:
        """int32 [L]: 1 + latent frame of visual tokens, 0 elsewhere."""
        return self._coordinates["t"]

    @property
    def h(self) -> np.ndarray:
        """int32 [L]: 1 + token row of visual tokens, 0 elsewhere."""
        return self._coordinates["h"]

    @property
    def w(self) -> np.ndarray:
        """int32 [L]: 1 + token column of visual tokens, 0 elsewhere."""
        return self._coordinates["w"]

    @property
    def audio_frame(self) -> np.ndarray:
        """int32 [L]: 1 + audio frame of audio tokens, 0 elsewhere."""
        return self._coordinates["audio_frame"]

    @property
    def level(self) -> np.ndarray:
        """int32 [L]: 1 + level of audio tokens, 0 elsewhere."""
        return self._coordinates["level"]

    @property
    def text_slot(self) -> Slot | None:
        """The slot of the text; None for a task without text."""
        return next((slot for slot in self.slots if slot.kind == "text"), None)

    def describe(self) -> list[PlanRow]:
        """Rows for people: runs of positions, what they hold, id range, side, tokens with loss."""
        weights = np.concatenate([[0], self.loss_weights])
        runs = [(slot.start, slot.stop, *_slot_words(slot)) for slot in self.slots]
        for position in np.flatnonzero(self.template != ids.PAD):
            token = int(self.template[position])
            runs.append((int(position), int(position) + 1, SPECIAL_NAMES[token], str(token)))
        return [
            PlanRow(
                start,
                stop,
                what,
                id_words,
                "prefix" if start < self.prefix_length else "output",
                int(weights[start:stop].sum()),
            )
            for start, stop, what, id_words in sorted(runs)
        ]


@functools.lru_cache(maxsize=1024)
def plan(
    task: Task,
    clip: ClipShape,
    sound: SoundShape | None,
    text_slots: int,
    vocabulary: Vocabulary,
) -> SequencePlan:
    """The plan of one task for one size of clip.

    Args:
      task: What is given and asked for.
      clip: Size of the picture.
      sound: Size of the sound; may be None for a task without audio, where it is ignored.
      text_slots: Positions reserved for text (paper: 64); ignored for a task without text.
      vocabulary: The id table.
    """
    if not task.uses_audio:
        sound = None
    elif sound is None:
        raise ValueError(f"Task {task.name!r} uses audio, but the clip has no sound shape.")
    elif sound.num_levels > len(vocabulary.audio_levels):
        raise ValueError(
            f"The sound has {sound.num_levels} levels, the vocabulary only"
            f" {len(vocabulary.audio_levels)}; build the vocabulary from the same audio tokenizer."
        )
    if task.has_text and text_slots < 1:
        raise ValueError(
            f"Task {task.name!r} has text, so text_slots={text_slots} must be at least 1."
        )
    result = SequencePlan(task, clip, sound, text_slots if task.has_text else 0, vocabulary)
    _ = result.length  # lays it out now, so that sizes that do not fit fail here
    return result


def assemble(plan: SequencePlan, fields: Mapping[str, Any], xp: Any = np) -> dict[str, Any]:
    """Model inputs of whole examples, from local codes; the same for numpy and jax.numpy.

    Args:
      plan: The task's plan.
      fields: One array a field of the task, all with the same leading axes (possibly none):
        visual codes [..., t, h, w], audio codes [..., levels, frames], text ids [..., slots].
      xp: ``numpy`` (ranges of ids are checked) or ``jax.numpy`` (they cannot be, when traced).

    Returns:
      ``decoder_input_tokens`` [..., L-1], ``decoder_target_tokens`` [..., L-1],
      ``decoder_loss_weights`` [..., L-1] and ``text_ids`` [..., slots]. Text positions hold PAD
      in the tokens: the model puts the text encoder's vectors there.
    """
    tokens = _fill(plan, fields, xp, 0, plan.length)
    lead = tokens.shape[:-1]
    weights = xp.broadcast_to(xp.asarray(plan.loss_weights), (*lead, plan.length - 1))
    return {
        "decoder_input_tokens": tokens[..., :-1],
        "decoder_target_tokens": tokens[..., 1:],
        "decoder_loss_weights": weights,
        "text_ids": _text_ids(plan, fields, xp, lead),
    }


def assemble_prefix(
    plan: SequencePlan, fields: Mapping[str, Any], batch_size: int, xp: Any = np
) -> dict[str, Any]:
    """What sampling starts from: ``prefix_tokens`` [B, P+1] (<bov_o> included) and ``text_ids``.

    Fields of outputs may be missing; with them present, row for row it is the head of
    ``assemble``'s tokens. ``batch_size`` is needed for tasks that are given nothing.
    """
    tokens = _fill(plan, fields, xp, batch_size, plan.prefix_length + 1)
    return {
        "prefix_tokens": tokens,
        "text_ids": _text_ids(plan, fields, xp, (batch_size,)),
    }


def local_outputs(plan: SequencePlan, tokens: Any, xp: Any = np) -> dict[str, Any]:
    """The output's codes from whole sequences [..., L], shaped as the fields are.

    Returns a dict from field name to visual codes [..., t, h, w] or audio codes
    [..., levels, frames] of the frames that the task asks for, ids made local.
    """
    lead = tokens.shape[:-1]
    found: dict[str, Any] = {}
    for slot in plan.slots:
        if not slot.is_output:
            continue
        codes = tokens[..., slot.start : slot.stop] - slot.ids.start
        if slot.kind == "visual":
            num_frames = slot.source[1] - slot.source[0]
            found[slot.field] = codes.reshape(*lead, num_frames, *plan.clip.grid[1:])
        else:  # levels follow each other, coarse to fine
            found[slot.field] = [*found.get(slot.field, []), codes]
    return {
        field: xp.stack(codes, axis=-2) if isinstance(codes, list) else codes
        for field, codes in found.items()
    }


def join_given(
    plan: SequencePlan, given: Mapping[str, Any], written: Mapping[str, Any], xp: Any = np
) -> dict[str, Any]:
    """Written codes with the given frames of the same field before them.

    Args:
      plan: The task's plan.
      given: Fields as ``assemble`` takes them.
      written: Outputs as ``local_outputs`` returns them.

    Returns:
      Each output field from frame 0 on, so that a tokenizer can decode it: after image_to_video
      the given picture and the new frames, after future_prediction the whole clip.
    """
    joined = dict(written)
    starts = {slot.field: slot.source[0] for slot in plan.slots if slot.is_output}
    for part in plan.task.outputs:
        start = starts[part.field]
        if start:
            axis = -3 if part.kind == "visual" else -1
            head = [slice(None)] * (-axis - 1)
            before = xp.asarray(given[part.field])[(..., slice(0, start), *head)]
            before = before.astype(written[part.field].dtype)
            joined[part.field] = xp.concatenate([before, written[part.field]], axis=axis)
    return joined


def _fill(
    plan: SequencePlan, fields: Mapping[str, Any], xp: Any, batch_size: int, stop: int
) -> Any:
    """Tokens [..., stop]: template and slots, joined run by run."""
    pieces, lead, at = [], (batch_size,) if batch_size else None, 0
    for slot in plan.slots:
        if slot.start >= stop:
            break
        codes = _slot_codes(plan, slot, fields, xp)
        if lead is None:
            lead = codes.shape[:-1]
        if codes.shape[:-1] != lead:
            raise ValueError(
                f"Field {slot.field!r} has leading axes {codes.shape[:-1]}, expected {lead};"
                " give all fields of a batch the same number of examples."
            )
        pieces += [plan.template[at : slot.start], codes]
        at = slot.stop
    pieces.append(plan.template[at:stop])
    lead = lead or ()
    return xp.concatenate(
        [xp.broadcast_to(xp.asarray(piece), (*lead, piece.shape[-1])) for piece in pieces], axis=-1
    )


def _slot_codes(plan: SequencePlan, slot: Slot, fields: Mapping[str, Any], xp: Any) -> Any:
    """Global ids [..., n] of one slot; PAD for text."""
    if slot.field not in fields:
        raise ValueError(
            f"Task {plan.task.name!r} needs the field {slot.field!r}, the record has only"
            f" {sorted(fields)}."
        )
    codes = xp.asarray(fields[slot.field])
    first, stop = slot.source
    _check_shape(plan, slot, codes.shape)
    if slot.kind == "text":
        return xp.zeros_like(codes, dtype=np.int32) + np.int32(ids.PAD)
    if slot.kind == "visual":
        codes = codes[..., first:stop, :, :]
        codes = codes.reshape(*codes.shape[:-3], slot.stop - slot.start)
    else:
        codes = codes[..., slot.level, first:stop]
    if xp is np:
        return slot.ids.to_global(codes)
    return codes.astype(np.int32) + np.int32(slot.ids.start)


def _check_shape(plan: SequencePlan, slot: Slot, shape: tuple[int, ...]) -> None:
    """ValueError unless [..., *shape] fits the clip; frames after the last one used may miss."""
    want = list(_field_shape(plan, slot))
    got = list(shape[-len(want) :])
    time = 0 if slot.kind == "visual" else -1
    if len(got) == len(want) and slot.source[1] <= got[time] <= want[time]:
        want[time] = got[time]
    if got != want:
        raise ValueError(
            f"Field {slot.field!r} of task {plan.task.name!r} has shape {tuple(shape)}, expected"
            f" [..., {', '.join(map(str, want))}]; tokenize at the sizes of the plan."
        )


def _field_shape(plan: SequencePlan, slot: Slot) -> tuple[int, ...]:
    if slot.kind == "visual":
        return plan.clip.grid
    if slot.kind == "audio":
        return (plan.sound.num_levels, plan.sound.num_audio_frames)
    return (plan.num_text_slots,)


def _text_ids(plan: SequencePlan, fields: Mapping[str, Any], xp: Any, lead: Sequence[int]) -> Any:
    slot = plan.text_slot
    if slot is None:
        return xp.zeros((*lead, 0), np.int32)
    text_ids = xp.asarray(fields[slot.field])
    if xp is np:
        slot.ids.to_global(text_ids)  # only for its range check
    return text_ids.astype(np.int32)


def _slot_words(slot: Slot) -> tuple[str, str]:
    frames = f"{slot.field} {slot.source[0]}:{slot.source[1]}"
    what = frames if slot.level is None else f"{frames} level {slot.level}"
    if slot.kind == "text":
        return what, "text vectors"
    return what, f"{slot.ids.start}-{slot.ids.stop - 1}"


def _frozen(values: Any, dtype: Any) -> np.ndarray:
    array = np.array(values, dtype)
    array.setflags(write=False)
    return array
