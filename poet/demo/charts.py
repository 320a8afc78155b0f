"""Small SVG pictures for the report: curves and waveforms. No library, no script in the page."""

import html
import math
from collections.abc import Sequence

import numpy as np

_COLOURS = ("#3b6fd4", "#d4553b", "#3ba55d", "#a05bc2", "#c98a1b", "#2aa3b8", "#888888")


def curves(
    series: dict[str, Sequence[tuple[float, float]]], *, y_label: str, x_label: str = "step"
) -> str:
    """An SVG with one line a series of (x, y) points; non-finite points are left out.

    Args:
      series: Name to points, in drawing order.
      y_label: What is drawn, with its unit.
      x_label: What runs along the page.
    """
    kept = {
        name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()
    }
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return f"<p>No {html.escape(y_label)} was recorded.</p>"
    xs = [x for points in kept.values() for x, _ in points]
    ys = [y for points in kept.values() for _, y in points]
    frame = _Frame(min(xs), max(xs), min(ys), max(ys))
    lines = "".join(
        _line(frame, points, _COLOURS[i % len(_COLOURS)]) for i, points in enumerate(kept.values())
    )
    legend = "".join(
        f'<text x="{frame.right + 8}" y="{24 + 15 * i}" fill="{_COLOURS[i % len(_COLOURS)]}">'
        f"{html.escape(name)}</text>"
        for i, name in enumerate(kept)
    )
    return (
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img"'
        f' aria-label="{html.escape(y_label)}">{frame.axes(x_label, y_label)}{lines}{legend}</svg>'
    )


def waveform(sound: np.ndarray, *, width_px: int = 256, height_px: int = 40) -> str:
    """An SVG of the loudest sample in each column of a sound [S] in [-1, 1]."""
    columns = np.array_split(np.abs(np.asarray(sound, np.float64)), width_px)
    heights = [min(1.0, float(column.max(initial=0.0))) * height_px / 2 for column in columns]
    middle = height_px / 2
    bars = "".join(
        f"M{x} {middle - max(h, 0.5):.1f}V{middle + max(h, 0.5):.1f}" for x, h in enumerate(heights)
    )
    return (
        f'<svg class="wave" viewBox="0 0 {width_px} {height_px}" role="img"'
        f' aria-label="waveform"><path d="{bars}" stroke="#3b6fd4"/></svg>'
    )


class _Frame:
    """Maps data to the picture and draws the axes."""

    width, height = 640, 260
    left, right, top, bottom = 56, 480, 28, 226

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float):
        self.x_low, self.x_high = x_low, max(x_high, x_low + 1e-9)
        self.y_low, self.y_high = y_low, max(y_high, y_low + 1e-9)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Data to picture units."""
        across = (x - self.x_low) / (self.x_high - self.x_low)
        up = (y - self.y_low) / (self.y_high - self.y_low)
        return (
            self.left + across * (self.right - self.left),
            self.bottom - up * (self.bottom - self.top),
        )

    def axes(self, x_label: str, y_label: str) -> str:
        """Two axes with three numbers each, and their labels."""
        parts = [
            f'<path d="M{self.left} {self.top}V{self.bottom}H{self.right}" class="axis"/>',
            f'<text x="{self.right + 34}" y="{self.bottom + 14}">{html.escape(x_label)}</text>',
            f'<text x="{self.left}" y="{self.top - 13}" font-weight="bold">'
            f"{html.escape(y_label)}</text>",
        ]
        for part in (0.0, 0.5, 1.0):
            x = self.x_low + part * (self.x_high - self.x_low)
            y = self.y_low + part * (self.y_high - self.y_low)
            across, up = self.place(x, y)
            parts.append(f'<text x="{across:.0f}" y="{self.bottom + 14}">{x:.0f}</text>')
            parts.append(
                f'<text x="{self.left - 6}" y="{up + 4:.0f}" text-anchor="end">{y:.3g}</text>'
            )
        return "".join(parts)


def _line(frame: _Frame, points: Sequence[tuple[float, float]], colour: str) -> str:
    placed = (frame.place(x, y) for x, y in points)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    if len(points) == 1:
        x, y = frame.place(*points[0])
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
