"""Writes `report.html`: one page that opens from disk and shows what the demo did."""

import base64
import html
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path

from poet.demo import charts
from poet.demo.runner import StageRecord
from poet.demo.stages import Stage
from poet.media import sound as sound_files

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "seqio", "tensorflow-datasets", "numpy")
_TITLES = {
    "text_to_video": "Words in, clip and sound out",
    "image_to_video": "A picture set in motion",
    "future_prediction": "The second after: 9 frames given, 8 generated",
}
_MEANINGS = {
    "checker_accuracy_rendered": "the checker itself, on the renderer's files",
    "checker_sound_accuracy_rendered": "the same for pitch",
    "reconstruction_psnr_db": "held-out clips through the visual tokenizer and back, dB",
    "reconstruction_psnr_in_box_db": "the same, inside the shape's box, dB",
    "checker_accuracy_reconstructed": "shape, colour and motion survive the tokenizer",
    "checker_sound_accuracy_reconstructed": "pitch survives the tokenizer",
    "codes_used": "share of the visual codes that occur in the held-out clips",
    "shape_accuracy": "text-to-video: the shape is the prompt's",
    "colour_accuracy": "text-to-video: the colour is the prompt's",
    "direction_accuracy": "text-to-video: the motion, of six, is the prompt's",
    "all_three_accuracy": "all three at once",
    "pitch_accuracy": "video-to-audio: the pitch is that of the prompt's colour",
    "speed_accuracy": "slow or fast as the prompt says, moving prompts only",
    "sound_picture_agreement": "the pitch is that of the colour seen",
    "click_f1": "clicks against the wall hits seen, within 60 ms",
    "image_to_video_keeps_shape_and_colour": "those of the given picture",
    "image_to_video_obeys_a_law": "the checker names a motion",
    "continuation_in_bounds": "centre within 5 % of the width of the law's, every new frame",
    "continuation_has_hit": "share of the true continuations that hit a wall",
    "total_seconds": "all stages, over restarts",
    "peak_gib": "memory of all processes together",
}
_EXPLAINED = {
    "text_to_video": "Captions of combinations that never occur in training. The picture comes"
    " from the words; the sound comes from the picture alone.",
    "image_to_video": "The first frame is given, the other 16 are generated.",
    "future_prediction": "The first 9 frames of a held-out clip are given; many hit a wall in"
    " the generated second.",
}


def write_report(
    out: Path, stages: tuple[Stage, ...], records: dict[str, StageRecord], num_clips: int = 8
) -> Path:
    """Writes `out/report.html` whole and returns its path.

    Args:
      out: The demo's folder: scores.json, samples/, model/, tokenizers/, logs.
      stages: What ran.
      records: Time and memory by stage name.
      num_clips: The first so many files of every task are shown, in file order.
    """
    body = "".join(
        (
            _HEADER,
            *(_gallery(out / "samples" / task, task, num_clips) for task in _TITLES),
            "<h2>Scores</h2>",
            _score_table(
                json.loads((out / "scores.json").read_text()),
                json.loads((out / "evaluation" / "chance.json").read_text()),
            ),
            "<h2>Curves</h2>",
            _curves(out),
            "<h2>Stages</h2>",
            _stage_table(stages, records),
            "<h2>Versions</h2>",
            f"<p>{html.escape(_versions())}</p>",
        )
    )
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'><title>Poet: the demo</title>"
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )
    path = out / "report.html"
    partial = path.with_name("report.html.partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def read_rows(path: Path) -> list[dict]:
    """The rows of a JSON-lines file, none if it does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _gallery(folder: Path, task: str, num_clips: int) -> str:
    rows = read_rows(folder / "samples.jsonl")[:num_clips]
    if not rows:
        return ""
    cards = "".join(_card(folder / row["file"], row) for row in rows)
    return (
        f"<h2>{_TITLES[task]}</h2><p>{_EXPLAINED[task]} The first {len(rows)} files in file"
        f" order, one sample each, none picked.</p><div class='gallery'>{cards}</div>"
    )


def _card(path: Path, row: dict) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    wave = ""
    if row.get("has_sound"):
        wave = charts.waveform(sound_files.read_sound(str(path)))
    caption = html.escape(row.get("prompt") or row.get("clip_id") or path.name)
    return (
        "<figure><video controls autoplay loop muted playsinline"
        f" src='data:video/mp4;base64,{data}'></video>{wave}"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _score_table(scores: dict[str, dict], without: dict[str, dict]) -> str:
    """A row a score; `without` has what is reached without knowing the prompt, by name."""
    rows = []
    for name, score in scores.items():
        # Time and memory are counted, not sampled.
        span = f"{_number(score['low'])} to {_number(score['high'])}" if score["clips"] else ""
        cells = (
            f"<b>{html.escape(name.replace('_', ' '))}</b>"
            f"<br><small>{html.escape(_MEANINGS.get(name, ''))}</small>",
            _number(score["value"]),
            span,
            _number(without["chance"].get(name)),
            _number(without["shuffled"].get(name)),
            str(score["clips"] or ""),
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return (
        "<p>Measured by an exact checker on the files themselves. Ranges are 95 % intervals;"
        " chance is a guess that does not know the prompt; shuffled is each clip against the other"
        " prompts.</p><table><tr><th>score</th><th>value</th><th>range</th><th>chance</th>"
        f"<th>shuffled</th><th>clips</th></tr>{''.join(rows)}</table>"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _series(rows: Iterable[dict], names: Iterable[str]) -> dict[str, list[tuple[float, float]]]:
    rows = list(rows)
    return {
        name: [(row["step"], row[name]) for row in rows if isinstance(row.get(name), float | int)]
        for name in names
    }


def _curves(out: Path) -> str:
    """Loss of the language model by task, and what the tokenizers' training showed."""
    language = read_rows(out / "model" / "metrics.jsonl")
    visual = read_rows(out / "tokenizers" / "visual" / "train" / "metrics.jsonl")
    audio = read_rows(out / "tokenizers" / "audio" / "train" / "metrics.jsonl")
    prefix = "loss_nats/held_out/poet_"
    losses = sorted({name for row in language for name in row if name.startswith(prefix)})
    training = [row for row in language if row.get("kind") == "train"]
    shown = (
        ({"training": _series(training, ["loss_nats"])["loss_nats"]}, "loss, nats a token"),
        (
            {name.removeprefix(prefix): v for name, v in _series(language, losses).items()},
            "held-out loss, nats a token",
        ),
        (_series(visual, ["psnr_db"]), "picture reconstruction, dB"),
        (_series(visual, ["codes_used"]), "visual codes used in a batch"),
        (_series(audio, ["loss"]), "sound reconstruction loss"),
        (
            _series(audio, sorted({k for row in audio for k in row if "codes_used" in k})),
            "audio codes used in a batch",
        ),
    )
    return (
        "<div class='charts'>"
        + "".join(f"<div>{charts.curves(series, y_label=label)}</div>" for series, label in shown)
        + "</div>"
    )


def _stage_table(stages: tuple[Stage, ...], records: dict[str, StageRecord]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(stage.title)}<br>"
        f"<code>{html.escape(records[stage.name].command)}</code></td>"
        f"<td>{records[stage.name].seconds:.0f}</td>"
        f"<td>{records[stage.name].peak_bytes / 2**30:.2f}</td></tr>"
        for stage in stages
        if stage.name in records
    )
    return f"<table><tr><th>stage and command</th><th>s</th><th>GiB at most</th></tr>{rows}</table>"


def _versions() -> str:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return f"Python {platform.python_version()}, " + ", ".join(found)


_HEADER = """<h1>Poet</h1>
<p class="lead">Poet is an open VideoPoet: one language model over the tokens of text, pictures,
clips and sound. Everything on this page was made on one machine, from nothing: a small world of
moving shapes was rendered, two tokenizers learned to turn its pictures and sounds into tokens,
one prefix language model learned six tasks over those tokens, and then it was asked.</p>
"""

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#222}
h1{margin-bottom:0}h2{margin-top:2em;border-bottom:1px solid #ddd}.lead{font-size:17px}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:18px}
figure{margin:0}video{width:100%;image-rendering:pixelated;background:#181818;border-radius:6px}
figcaption{font-size:13px;color:#444}.wave{width:100%;height:34px;display:block}
table{border-collapse:collapse;width:100%}td,th{padding:3px 10px;border-bottom:1px solid #eee;
text-align:left;vertical-align:top}small{color:#666}code{font-size:12px;color:#555;word-break:break-all}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(460px,1fr));gap:12px}
svg{width:100%;font:11px system-ui,sans-serif}.axis{stroke:#999;fill:none}
"""
