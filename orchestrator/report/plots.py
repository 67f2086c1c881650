"""Small drawings in SVG, in the colours of the page: a timeline, curves, a frontier and an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.observers.words import duration, number
from orchestrator.report.markup import Markup, join, tag

_POINTS_DRAWN = 400
_WIDTH, _HEIGHT = 520.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 16.0, 12.0, 38.0
_CHARACTER = 6.6
_TIME_STEPS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 21600)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One stage of the timeline, in seconds since the start of the run."""

    label: str
    status: str
    start_s: float
    end_s: float
    href: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One member of a family on a frontier plot."""

    label: str
    x: float
    y: float
    best: bool = False


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers between ``low`` and ``high``: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _time_ticks(total_s: float) -> list[float]:
    """Return at most nine round times: people count in seconds, minutes and hours, not in powers of ten."""
    step = next((step for step in _TIME_STEPS_S if total_s / step <= 8), 3600.0 * math.ceil(total_s / 8 / 3600))
    return [index * step for index in range(math.floor(total_s / step) + 1)]


def timeline(bars: Sequence[Bar], width: float = 1040.0) -> Markup:
    """Draw what ran when, one row for each bar."""
    row, top = 24.0, 26.0
    left = min(300.0, 16 + _CHARACTER * max(len(bar.label) for bar in bars))
    right = 64.0
    total_s = max([0.001, *(bar.end_s for bar in bars)])
    height = top + row * len(bars) + 6

    def x(seconds: float) -> float:
        return left + (width - left - right) * seconds / total_s

    parts = []
    for tick in _time_ticks(total_s):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=top - 6, y2=height - 4, class_="grid"))
        parts.append(tag("text", _time(tick), x=x(tick), y=14, class_="tick mid"))
    for place, bar in enumerate(bars):
        y = top + place * row
        length = max(2.0, x(bar.end_s) - x(bar.start_s))
        parts.append(
            tag(
                "a",
                tag("text", bar.label, x=left - 10, y=y + 15, class_="row-name"),
                tag(
                    "rect", x=x(bar.start_s), y=y + 4, width=length, height=row - 9, rx=3, class_=f"bar s-{bar.status}"
                ),
                tag("text", duration(bar.end_s - bar.start_s), x=x(bar.start_s) + length + 6, y=y + 15, class_="tick"),
                href=bar.href,
            )
        )
    return _figure(parts, width, height, "Which stage ran when", "timeline")


def curves(series: Mapping[str, Sequence[tuple[int, float]]], x_label: str = "step") -> Markup:
    """Draw metrics of one unit over steps; values that span more than a factor of 20 are drawn on a logarithmic scale."""
    drawn = {name: _thin(points) for name, points in series.items()}
    xs = [float(step) for points in drawn.values() for step, _ in points]
    ys = [value for points in drawn.values() for _, value in points]
    frame = _Frame(xs, ys, x_label, "")
    parts = [frame.axes()]
    for place, (name, points) in enumerate(drawn.items()):
        path = "M" + " L".join(f"{frame.x(step):.1f} {frame.y(value):.1f}" for step, value in points)
        parts.append(tag("path", d=path, class_=f"curve c{place % 6}"))
        if len(drawn) > 1:
            y = _TOP + 8 + 16 * place
            parts.append(tag("line", x1=_WIDTH - 40, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_=f"curve c{place % 6}"))
            parts.append(tag("text", name, x=_WIDTH - 46, y=y + 4, class_="tick end"))
    return _figure(parts, _WIDTH, _HEIGHT, f"{', '.join(series)} over {x_label}", "plot")


def frontier(dots: Sequence[Dot], x_label: str, y_label: str) -> Markup:
    """Draw members as dots, with a line through those that no other member beats on both axes."""
    frame = _Frame([dot.x for dot in dots], [dot.y for dot in dots], x_label, y_label, pad=0.12)
    best = sorted((dot for dot in dots if dot.best), key=lambda dot: dot.x)
    parts = [frame.axes()]
    if len(best) > 1:
        path = "M" + " L".join(f"{frame.x(dot.x):.1f} {frame.y(dot.y):.1f}" for dot in best)
        parts.append(tag("path", d=path, class_="curve c0 dashed"))
    for dot in dots:
        x, y = frame.x(dot.x), frame.y(dot.y)
        end = x > _WIDTH * 0.7
        title = tag("title", f"{dot.label}: {x_label} {number(dot.x)}, {y_label} {number(dot.y)}")
        parts.append(tag("circle", title, cx=x, cy=y, r=5, class_="dot best" if dot.best else "dot"))
        if len(dots) <= 16:
            parts.append(
                tag("text", dot.label, x=x - 9 if end else x + 9, y=y - 7, class_="tick end" if end else "tick")
            )
    return _figure(parts, _WIDTH, _HEIGHT, f"{y_label} against {x_label}", "plot")


def interval(value: float, low: float | None, high: float | None, span: tuple[float, float]) -> Markup:
    """Draw a value with its interval on the scale that all rows of a table share."""
    width, height = 120.0, 18.0
    size = (span[1] - span[0]) or 1.0

    def x(at: float) -> float:
        return 6 + (width - 12) * (at - span[0]) / size

    parts = [tag("line", x1=6, x2=width - 6, y1=9, y2=9, class_="grid")]
    if low is not None and high is not None:
        parts.append(tag("line", x1=x(low), x2=x(high), y1=9, y2=9, class_="whisker"))
    parts.append(tag("circle", cx=x(value), cy=9, r=4, class_="dot best"))
    return _figure(parts, width, height, "interval", "interval")


class _Frame:
    """The scales and axes of a plot."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], x_label: str, y_label: str, pad: float = 0.05) -> None:
        self._log = min(ys) > 0 and max(ys) / min(ys) > 20
        scaled = [self._scale(value) for value in ys]
        self._x_low, self._x_high = _padded(min(xs), max(xs), pad if len(set(xs)) > 1 else 1.0)
        self._y_low, self._y_high = _padded(min(scaled), max(scaled), max(pad, 0.08))
        self._labels = (x_label, y_label)

    def _scale(self, value: float) -> float:
        return math.log10(value) if self._log else value

    def x(self, value: float) -> float:
        """Return the place of a value on the horizontal axis."""
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - self._x_low) / (self._x_high - self._x_low)

    def y(self, value: float) -> float:
        """Return the place of a value on the vertical axis."""
        share = (self._scale(value) - self._y_low) / (self._y_high - self._y_low)
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share)

    def axes(self) -> Markup:
        """Draw grid lines, ticks and labels."""
        if self._log:
            powers = range(math.floor(self._y_low), math.ceil(self._y_high) + 1)
            y_ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
            y_ticks = [value for value in y_ticks if self._y_low <= math.log10(value) <= self._y_high]
        else:
            y_ticks = ticks(self._y_low, self._y_high, 4)
        bottom = _HEIGHT - _BOTTOM
        parts = []
        for value in y_ticks:
            parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=self.y(value), y2=self.y(value), class_="grid"))
            parts.append(tag("text", _tick(value), x=_LEFT - 7, y=self.y(value) + 4, class_="tick end"))
        parts += [
            tag("text", _tick(value), x=self.x(value), y=bottom + 16, class_="tick mid")
            for value in ticks(self._x_low, self._x_high, 6)
        ]
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
        parts.append(
            tag("text", self._labels[0], x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 5, class_="axis-name mid")
        )
        if self._labels[1]:
            at = (_TOP + bottom) / 2
            parts.append(
                tag("text", self._labels[1], x=12, y=at, class_="axis-name mid", transform=f"rotate(-90 12 {at:.0f})")
            )
        return join(parts)


def _time(seconds: float) -> str:
    """Write a round time without the digits that it does not have."""
    if seconds < 60:
        return f"{seconds:g}s" if seconds else "0"
    return duration(seconds).removesuffix("00s").removesuffix("00m")


def _tick(value: float) -> str:
    if abs(value) >= 1e5:
        for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= factor:
                return f"{value / factor:.4g}{letter}"
    return number(round(value, 10))


def _padded(low: float, high: float, pad: float) -> tuple[float, float]:
    extent = (high - low) or abs(high) or 1.0
    return low - extent * pad, high + extent * pad


def _thin(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Keep the last value of each step and at most a few hundred steps, the last among them."""
    held = sorted(dict(points).items())
    stride = max(1, math.ceil(len(held) / _POINTS_DRAWN))
    return held[:-1:stride] + held[-1:]


def _figure(parts: Sequence[Markup], width: float, height: float, name: str, class_: str) -> Markup:
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=width,
        height=height,
        class_=class_,
        role="img",
        aria_label=name,
    )
