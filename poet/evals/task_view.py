"""Real examples of a task as a person can check them: every token, and what it decodes to.

People find their data bugs here: a caption that belongs to another clip, sound of the wrong second,
a mask that hides nothing.
"""

import base64
import dataclasses
import html
import io
import wave
from collections.abc import Sequence
from typing import Any

import numpy as np

from poet.data.groups import SizedTask
from poet.data.records import Dataset
from poet.tokens import sequence
from poet.tokens.sequence import SEGMENT_KINDS, SequencePlan
from poet.tokens.vocabulary import SPECIAL_NAMES

# Colours by segment kind: for the page, and as 256-colour terminal codes.
_COLOURS = {
    "special": ("#666666", 244),
    "text": ("#b8860b", 178),
    "visual_in": ("#1f77b4", 39),
    "condition_in": ("#9467bd", 134),
    "audio_in": ("#17a2a2", 44),
    "visual_out": ("#2ca02c", 40),
    "audio_out": ("#d9534f", 203),
}
# Ids of a run that the terminal shows; the page shows all.
_IDS_SHOWN = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One record as a task sees it.

    Attributes:
      clip_id, caption, region: of the record.
      index: of the record in its split.
      tokens: int32 [L], global ids; PAD at text positions.
      text_ids: int32 [slots].
      fields: what the objective took, local codes.
    """

    clip_id: str
    caption: str
    region: str
    index: int
    tokens: np.ndarray
    text_ids: np.ndarray
    fields: dict[str, np.ndarray]


def examples(
    dataset: Dataset, task: SizedTask, text_tokenizer: Any, split: str, count: int
) -> list[Example]:
    """The first `count` records of the split that serve the task."""
    found = []
    for index in task.records[split][:count]:
        record = dataset.read(split, index)
        fields = task.entry.objective(record, task.task, text_tokenizer)
        batch = sequence.assemble(task.plan, fields)
        last = batch["decoder_target_tokens"][-1:]
        found.append(
            Example(
                clip_id=record["clip_id"],
                caption=record["caption"],
                region=record["region"],
                index=int(index),
                tokens=np.concatenate([batch["decoder_input_tokens"], last]),
                text_ids=batch["text_ids"],
                fields=fields,
            )
        )
    return found


def terminal(plan: SequencePlan, example: Example, is_coloured: bool) -> list[str]:
    """Lines of an example: a run of positions each, with its first ids."""
    lines = [_title(example)]
    for start, stop, what, _, side, num_loss in plan.describe():
        kind = SEGMENT_KINDS[plan.segment[start]]
        ids = _ids(plan, example, start, stop)
        shown = " ".join(map(str, ids[:_IDS_SHOWN]))
        more = f" ... {len(ids) - _IDS_SHOWN} more" if len(ids) > _IDS_SHOWN else ""
        loss = f", loss on {num_loss}" if num_loss else ""
        text = f"{start:>6}-{stop - 1:<6} {what} [{side}{loss}]: {shown}{more}"
        lines.append(f"\033[38;5;{_COLOURS[kind][1]}m{text}\033[0m" if is_coloured else text)
    return lines


def page(
    plan: SequencePlan,
    shown: Sequence[Example],
    *,
    title: str,
    visual: Any = None,
    audio: Any = None,
) -> str:
    """One HTML page that opens from disk.

    Args:
      plan: of the task at the examples' size.
      shown: what to show.
      title: heading; names dataset and split.
      visual: the tokenizer that made the pictures' ids; None shows no pictures.
      audio: the same for sound.
    """
    legend = " ".join(
        f"<span class='chip' style='background:{colour}'>{kind}</span>"
        for kind, (colour, _) in _COLOURS.items()
        if SEGMENT_KINDS.index(kind) in plan.segment
    )
    weights = int(plan.loss_weights.sum())
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title>",
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>",
        f"<p>{plan.length:,} tokens: {plan.prefix_length:,} given, {weights:,} with loss"
        " (underlined). Point at a token for its meaning.</p>",
        f"<p>{legend}</p>",
    ]
    for example in shown:
        parts.append(f"<h2>{html.escape(_title(example))}</h2>")
        parts.append(_media(plan, example, visual, audio))
        parts.append(_strip(plan, example))
    return "\n".join(parts) + "\n"


def _title(example: Example) -> str:
    region = f", region {example.region}" if "masked" in example.fields else ""
    return f"record {example.index}, {example.clip_id}: {example.caption!r}{region}"


def _ids(plan: SequencePlan, example: Example, start: int, stop: int) -> list[int]:
    slot = plan.text_slot
    if slot is not None and start == slot.start:
        return example.text_ids.tolist()
    return example.tokens[start:stop].tolist()


def _strip(plan: SequencePlan, example: Example) -> str:
    """Every token as a square with its meaning; special tokens by name."""
    weights = np.concatenate([[0], plan.loss_weights])
    found = []
    for start, stop, what, _, _, _ in plan.describe():
        kind = SEGMENT_KINDS[plan.segment[start]]
        colour, ids = _COLOURS[kind][0], _ids(plan, example, start, stop)
        if kind == "special":
            name = html.escape(SPECIAL_NAMES[ids[0]])
            loss = " loss" if weights[start] else ""
            found.append(
                f"<span class='chip{loss}' title='position {start}, id {ids[0]}'"
                f" style='background:{colour}'>{name}</span>"
            )
            continue
        squares = "".join(
            f"<i{' class=loss' if weights[at] else ''} title='{_meaning(plan, at, number)}'"
            f" style='background:{colour};opacity:{_shade(number):.2f}'></i>"
            for at, number in zip(range(start, stop), ids, strict=True)
        )
        found.append(f"<span class='run'><small>{html.escape(what)}</small>{squares}</span>")
    return f"<div class='strip'>{''.join(found)}</div>"


def _shade(number: int) -> float:
    """Equal ids look equal, neighbours differ."""
    return 0.35 + 0.65 * (number * 37 % 101) / 100


def _meaning(plan: SequencePlan, at: int, number: int) -> str:
    words = [f"position {at}", f"id {number}"]
    if plan.t[at]:
        words.append(f"latent frame {plan.t[at] - 1}, row {plan.h[at] - 1}, col {plan.w[at] - 1}")
    if plan.level[at]:
        words.append(f"audio frame {plan.audio_frame[at] - 1}, level {plan.level[at] - 1}")
    segment = plan.vocabulary.segments[plan.segment_index[at]]
    if plan.t[at] or plan.level[at]:
        words.append(f"code {number - segment.start} of {segment.name}")
    return ", ".join(words)


def _media(plan: SequencePlan, example: Example, visual: Any, audio: Any) -> str:
    """Pictures and sounds of every part, decoded from the example's own ids."""
    found = []
    for is_output, heading in ((False, "given"), (True, "asked for")):
        seen = set()
        for slot in (slot for slot in plan.slots if slot.is_output == is_output):
            if slot.kind == "text" or slot.field in seen:
                continue
            seen.add(slot.field)
            first, stop = slot.source
            codes = example.fields[slot.field]
            unit = "latent" if slot.kind == "visual" else "audio"
            words = f"{heading}: {slot.field}, {unit} frames {first} to {stop - 1}"
            if slot.kind == "visual" and visual is not None:
                # A causal tokenizer needs what went before; the frames asked for are cut after it.
                frames = np.asarray(visual.decode(codes[None, :stop]))[0]
                frames = frames[plan.clip.frames_of(first) :]
                found.append(f"<figure>{_picture(frames)}<figcaption>{words}</figcaption></figure>")
            elif slot.kind == "audio" and audio is not None and plan.sound is not None:
                sound = np.asarray(audio.decode(codes[None, :, :stop]))[0]
                sound = sound[first * plan.sound.samples_per_frame :]
                found.append(
                    f"<figure>{_sound(sound, audio.sample_rate_hz)}"
                    f"<figcaption>{words}</figcaption></figure>"
                )
    return "".join(found)


def _picture(frames: np.ndarray) -> str:
    """Frames [T, Y, X, 3] in [0, 1] side by side, as an inline PNG."""
    from PIL import Image

    pixels = np.round(255 * np.clip(frames, 0, 1)).astype(np.uint8)
    row = np.concatenate(list(pixels), axis=1)
    buffer = io.BytesIO()
    Image.fromarray(row).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img src='data:image/png;base64,{data}' alt='{len(frames)} frames'>"


def _sound(samples: np.ndarray, sample_rate_hz: int) -> str:
    """Samples as an inline WAV with controls."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(np.round(32767 * np.clip(samples, -1, 1)).astype("<i2").tobytes())
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<audio controls src='data:audio/wav;base64,{data}'></audio>"


_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}
h2{font-size:15px;margin:2em 0 .5em;border-top:1px solid #ddd;padding-top:1em}
.chip{color:#fff;border-radius:3px;padding:0 5px;font-size:12px;margin-right:3px}
.strip{line-height:0}.strip .chip{line-height:18px;display:inline-block;margin:2px}
.run{display:inline}.run small{display:inline-block;line-height:18px;margin:0 4px;color:#666}
i{display:inline-block;width:9px;height:9px;margin:1px 1px 2px 0}
.loss{border-bottom:2px solid #000}
figure{margin:.4em 0}figcaption{font-size:12px;color:#555}
img{max-width:100%;image-rendering:pixelated;min-height:64px}audio{height:30px}
"""
