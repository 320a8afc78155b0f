"""One PNG for the README: frames of generated clips above the waveform of their sound."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from poet.demo.report import read_rows
from poet.media import sound as sound_files
from poet.media import video as video_files

_FRAMES = (0, 4, 8, 12, 16)
_FRAME_PX, _SEAM_PX, _WAVE_PX, _TEXT_PX, _GAP_PX = 96, 3, 40, 18, 12


def write_picture(samples: Path, out: Path, num_clips: int = 6) -> Path:
    """Draws the first clips of `samples/text_to_video` in file order, two a row, into `out`."""
    folder = samples / "text_to_video"
    rows = read_rows(folder / "samples.jsonl")[:num_clips]
    cards = [_card(folder / row["file"], row["prompt"]) for row in rows]
    height, width = cards[0].shape[:2]
    num_rows = -(-len(cards) // 2)
    page = np.full(
        (num_rows * (height + _GAP_PX) + _GAP_PX, 2 * (width + _GAP_PX) + _GAP_PX, 3), 255, np.uint8
    )
    for i, card in enumerate(cards):
        top = _GAP_PX + (i // 2) * (height + _GAP_PX)
        left = _GAP_PX + (i % 2) * (width + _GAP_PX)
        page[top : top + height, left : left + width] = card
    partial = out.with_name(out.name + ".partial")
    Image.fromarray(page).save(partial, format="PNG", optimize=True)
    partial.replace(out)
    return out


def _card(path: Path, prompt: str) -> np.ndarray:
    frames = video_files.read_video(str(path), frames_per_second=8.0)
    frames = [frames[min(i, len(frames) - 1)] for i in _FRAMES]
    shown = [
        np.asarray(Image.fromarray(f).resize((_FRAME_PX, _FRAME_PX), Image.Resampling.NEAREST))
        for f in frames
    ]
    width = len(shown) * (_FRAME_PX + _SEAM_PX) - _SEAM_PX
    card = Image.new("RGB", (width, _TEXT_PX + _FRAME_PX + _WAVE_PX), "white")
    draw = ImageDraw.Draw(card)
    draw.text((2, 2), prompt, fill=(30, 30, 30))
    for place, frame in enumerate(shown):
        card.paste(Image.fromarray(frame), (place * (_FRAME_PX + _SEAM_PX), _TEXT_PX))
    sound = np.abs(sound_files.read_sound(str(path)))
    middle = _TEXT_PX + _FRAME_PX + _WAVE_PX // 2
    for x, column in enumerate(np.array_split(sound, width)):
        reach = round(float(column.max(initial=0.0)) * _WAVE_PX / 2)
        draw.line((x, middle - reach, x, middle + reach), fill=(59, 111, 212))
    return np.asarray(card)
