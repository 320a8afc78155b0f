"""PNGs for pages: frames of clips, with the waveform of their sound."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from poet.demo.report import read_rows
from poet.media import sound as sound_files
from poet.media import video as video_files

_FRAMES = (0, 4, 8, 12, 16)
_FRAME_PX, _SEAM_PX, _WAVE_PX, _TEXT_PX, _GAP_PX = 96, 3, 40, 18, 12
_WIDTH_PX = len(_FRAMES) * (_FRAME_PX + _SEAM_PX) - _SEAM_PX


def write_picture(samples: Path, out: Path, num_clips: int = 6) -> Path:
    """Draws the first clips of `samples/text_to_video` in file order, two a row, into `out`."""
    folder = samples / "text_to_video"
    rows = read_rows(folder / "samples.jsonl")[:num_clips]
    cards = []
    for row in rows:
        path = str(folder / row["file"])
        frames = video_files.read_video(path, frames_per_second=8.0)
        cards.append(card(row["prompt"], frames, sound_files.read_sound(path)))
    return write_page(cards, out)


def write_page(cards: Sequence[np.ndarray], out: Path, num_colours: int = 0) -> Path:
    """Lays cards [Y, X, 3] out, two a row, and writes them whole or not at all.

    Args:
      num_colours: Of a palette, for a smaller file; 0 keeps all.
    """
    pairs = [cards[i : i + 2] for i in range(0, len(cards), 2)]
    width = max(card.shape[1] for card in cards)
    rows = [_row(pair, width) for pair in pairs]
    gap = np.full((_GAP_PX, rows[0].shape[1], 3), 255, np.uint8)
    page = np.concatenate([gap, *(part for row in rows for part in (row, gap))])
    partial = out.with_name(out.name + ".partial")
    image = Image.fromarray(page)
    if num_colours:
        image = image.quantize(num_colours, dither=Image.Dither.NONE)
    image.save(partial, format="PNG", optimize=True)
    partial.replace(out)
    return out


def _row(cards: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Two cards beside each other, or one with an empty place."""
    height = max(card.shape[0] for card in cards)
    row = np.full((height, 2 * (width + _GAP_PX) + _GAP_PX, 3), 255, np.uint8)
    for place, one in enumerate(cards):
        left = _GAP_PX + place * (width + _GAP_PX)
        row[: one.shape[0], left : left + one.shape[1]] = one
    return row


def card(
    words: str,
    frames: np.ndarray | None,
    sound: np.ndarray | None = None,
    above: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Words, five frames of a clip, the waveform of its sound: uint8 [Y, X, 3].

    Args:
      words: Title.
      frames: uint8 [T, Y, X, 3]; None leaves the row out.
      sound: float [S] in [-1, 1]; None leaves it out.
      above: Clips, or sounds float [S], shown before: what was given.
    """
    strips = [_wave(one) if one.ndim == 1 else _strip(one) for one in above]
    strips += [] if frames is None else [_strip(frames)]
    strips += [] if sound is None else [_wave(sound)]
    title = Image.new("RGB", (_WIDTH_PX, _TEXT_PX), "white")
    ImageDraw.Draw(title).text((2, 2), words, fill=(30, 30, 30))
    seam = np.full((_SEAM_PX, _WIDTH_PX, 3), 255, np.uint8)
    rows = [part for strip in strips for part in (strip, seam)]
    return np.concatenate([np.asarray(title), *rows])


def _strip(frames: np.ndarray) -> np.ndarray:
    page = np.full((_FRAME_PX, _WIDTH_PX, 3), 255, np.uint8)
    for place in range(len(_FRAMES)):
        frame = frames[round(place * (len(frames) - 1) / (len(_FRAMES) - 1))]
        picture = Image.fromarray(frame).resize((_FRAME_PX, _FRAME_PX), Image.Resampling.NEAREST)
        left = place * (_FRAME_PX + _SEAM_PX)
        page[:, left : left + _FRAME_PX] = np.asarray(picture)
        if len(frames) == 1:
            break
    return page


def _wave(sound: np.ndarray) -> np.ndarray:
    page = Image.new("RGB", (_WIDTH_PX, _WAVE_PX), "white")
    draw = ImageDraw.Draw(page)
    for x, column in enumerate(np.array_split(np.abs(sound), _WIDTH_PX)):
        reach = round(float(column.max(initial=0.0)) * _WAVE_PX / 2)
        draw.line((x, _WAVE_PX // 2 - reach, x, _WAVE_PX // 2 + reach), fill=(59, 111, 212))
    return np.asarray(page)
