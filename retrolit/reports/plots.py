"""Lines and bars as inline SVG: no library, no script; colours are the page's variables and suit light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 74, 16, 14, 44
ROW = 34
"""Height of a bar with the space around it."""
NAMES = 150
"""Room for the names of bars."""
NUM_COLOURS = 6
MOST_DOTS = 60
"""A line with more points is drawn without dots."""

Interval = Sequence[float] | None


@dataclass(frozen=True)
class Line:
    """Points in order of x."""

    name: str
    points: list[tuple[float, float]]
    colour: int = 0
    """Number of its colour; they repeat after NUM_COLOURS."""
    faint: bool = False
    """Thin and pale, for what is noisy."""
    intervals: list[Interval] = field(default_factory=list)
    """Whiskers (low, high) of the points; none when empty."""


@dataclass(frozen=True)
class LinePlot:
    """Lines over a common axis."""

    title: str
    x: str
    y: str
    lines: list[Line]
    ticks: dict[float, str] = field(default_factory=dict)
    """Names of places on the x axis, for what is no number; round numbers when empty."""
    with_zero: bool = False
    """The y axis goes to zero, with a line there."""


@dataclass(frozen=True)
class Bar:
    """One bar."""

    name: str
    value: float
    interval: Interval = None
    colour: int = 0


@dataclass(frozen=True)
class BarPlot:
    """Horizontal bars from zero, with whiskers."""

    title: str
    unit: str
    bars: list[Bar]


def draw(plot: LinePlot | BarPlot) -> str:
    """The <svg> element."""
    return _draw_lines(plot) if isinstance(plot, LinePlot) else _draw_bars(plot)


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers within low to high, at most so many: steps of 1, 2 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if span / (factor * power) <= most - 1 + 1e-9)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis: 0.25, 1,200, 35k, 1.2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{0 if abs(value) < 1e-12 else value:,.6g}"


def _draw_lines(plot: LinePlot) -> str:
    xs = [x for line in plot.lines for x, _ in line.points] + list(plot.ticks)
    ys = [y for line in plot.lines for _, y in line.points]
    ys += [end for line in plot.lines for interval in line.intervals if interval is not None for end in interval]
    ys += [0.0] if plot.with_zero else []
    (x_low, x_high), (y_low, y_high) = _widened(min(xs), max(xs), 0.02), _widened(min(ys), max(ys), 0.06)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        up = (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(LEFT + across, 1), round(HEIGHT - BOTTOM - up, 1)

    parts = []
    for y in round_ticks(y_low, y_high):
        height = at(x_low, y)[1]
        kind = "zero" if plot.with_zero and y == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height}" y2="{height}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{height + 4}" text-anchor="end">{short(y)}</text>')
    for x, name in (plot.ticks or {x: short(x) for x in round_ticks(x_low, x_high, 8)}).items():
        place = at(x, y_low)[0]
        parts.append(f'<line class="grid" x1="{place}" x2="{place}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text class="tick" x="{place}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{escape(name)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(plot.x)}</text>')
    half = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="axis" x="14" y="{half}" text-anchor="middle" transform="rotate(-90 14 {half})">'
        f"{escape(plot.y)}</text>"
    )
    for line in plot.lines:
        parts += _line(line, at)
    return _svg(plot.title, HEIGHT, parts)


def _line(line: Line, at: Callable[[float, float], tuple[float, float]]) -> list[str]:
    """A polyline, whiskers, and dots that tell their numbers under the pointer."""
    kind = f"c{line.colour % NUM_COLOURS}" + (" faint" if line.faint else "")
    path = " ".join(f"{x},{y}" for x, y in (at(*point) for point in line.points))
    parts = [f'<polyline class="line {kind}" points="{path}"/>']
    for (x, _), interval in zip(line.points, line.intervals or [None] * len(line.points), strict=True):
        if interval is not None:
            (place, low), (_, high) = at(x, interval[0]), at(x, interval[1])
            parts.append(f'<line class="whisker {kind}" x1="{place}" x2="{place}" y1="{low}" y2="{high}"/>')
    if not line.faint and len(line.points) <= MOST_DOTS:
        for x, y in line.points:
            place, height = at(x, y)
            told = f"{escape(line.name)}: {y:.4f}"
            parts.append(f'<circle class="dot {kind}" cx="{place}" cy="{height}" r="3"><title>{told}</title></circle>')
    return parts


def _draw_bars(plot: BarPlot) -> str:
    ends = [0.0, *(bar.value for bar in plot.bars)]
    ends += [end for bar in plot.bars if bar.interval is not None for end in bar.interval]
    low, high = _widened(min(ends), max(ends), 0.04)
    bottom = TOP + ROW * len(plot.bars)

    def at(value: float) -> float:
        return round(NAMES + (value - low) / (high - low) * (WIDTH - NAMES - RIGHT), 1)

    parts = []
    for value in round_ticks(low, high, 8):
        kind, place = ("zero" if value == 0 else "grid"), at(value)
        parts.append(f'<line class="{kind}" x1="{place}" x2="{place}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{place}" y="{bottom + 17}" text-anchor="middle">{short(value)}</text>')
    for number, bar in enumerate(plot.bars):
        middle = TOP + ROW * number + ROW / 2
        left, right = sorted((at(0), at(bar.value)))
        told = f"{escape(bar.name)}: {bar.value:.4f}"
        parts.append(
            f'<rect class="bar c{bar.colour % NUM_COLOURS}" x="{left}" y="{middle - 9}" height="18" '
            f'width="{max(1.0, round(right - left, 1))}"><title>{told}</title></rect>'
        )
        if bar.interval is not None:
            begin, end = at(bar.interval[0]), at(bar.interval[1])
            parts.append(f'<line class="whisker" x1="{begin}" x2="{end}" y1="{middle}" y2="{middle}"/>')
        parts.append(
            f'<text class="name" x="{NAMES - 10}" y="{middle + 4}" text-anchor="end">{escape(bar.name)}</text>'
        )
    place = (NAMES + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{place}" y="{bottom + 38}" text-anchor="middle">{escape(plot.unit)}</text>')
    return _svg(plot.title, bottom + BOTTOM, parts)


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    """A range with a margin; never empty."""
    margin = (high - low) * share or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _svg(title: str, height: float, parts: list[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"
