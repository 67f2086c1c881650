"""Pictures of a plan: what bytes buy, planned and uniform, how many bits each layer got, and what became of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .plan import Plan

if TYPE_CHECKING:
    import pyarrow as pa

    from .attribution import Comparison

_PLANNED, _UNIFORM, _SOFT = "#4878a8", "#b65d60", "#b9c7d6"
# Points of the names beside candidates, and pixels of a point at the resolution that figures are laid out in.
_FONT = 7
_PIXELS = 100 / 72
# Numbers are written into cells while they can be read.
_MOST_LABELS = 400


def quality_against_bytes(frontier: pa.Table, uniform: pa.Table, plan: Plan | None = None) -> Figure:
    """Draw the frontier with its lower bound, candidates that all layers share as points, and a plan if given.

    Tables are those of `frontier` and `uniform_line`, made under the same terms. Objectives of zero (all dense) have no
    place on the logarithmic axis.
    """
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    bits, planned = (np.array(frontier[name]) for name in ("bits_per_weight", "objective"))
    # A bound between budgets is that of the budget itself, not of the bytes that its plan takes.
    per_byte = 8 / _weights(frontier)
    axes.plot(
        np.array(frontier["budget_bytes"]) * per_byte,
        _positive(frontier["lower_bound"]),
        color=_SOFT,
        linewidth=4,
        label="lower bound",
    )
    axes.plot(bits, _positive(planned), color=_PLANNED, marker="o", markersize=3, label="planned layer by layer")
    rows = [row for row in uniform.to_pylist() if row["objective"] > 0]
    axes.plot(
        [row["bits_per_weight"] for row in rows],
        [row["objective"] for row in rows],
        linestyle="none",
        marker="s",
        markersize=5,
        color=_UNIFORM,
        label="the same for all layers",
    )
    if plan is not None and plan.objective > 0:
        label = f"chosen: {plan.bits_per_weight:.2f} bits, {plan.bytes / 1e6:,.2f} MB"
        axes.plot(
            [plan.bits_per_weight],
            [plan.objective],
            marker="*",
            markersize=14,
            linestyle="none",
            color=_PLANNED,
            label=label,
        )
    axes.set_yscale("log")
    axes.set_xlabel("stored bits per weight, everything included")
    axes.set_ylabel("weighted sum of squared output errors")
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.margins(x=0.08, y=0.08)
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    places = [(row["candidate"], row["bits_per_weight"], row["objective"]) for row in rows]
    _label(axes, figure, places, np.concatenate([np.array(line.get_xydata()) for line in axes.lines]))
    return figure


def bits_by_layer(plan: Plan) -> Figure:
    """Draw the stored bits per weight of each layer: a row for each kind of layer, a column for each block."""
    cells = {choice.layer: _place(choice.layer) for choice in plan.layers}
    kinds = list(dict.fromkeys(kind for kind, _ in cells.values()))
    blocks = sorted({block for _, block in cells.values()})
    values = np.full((len(kinds), len(blocks)), np.nan)
    for choice in plan.layers:
        kind, block = cells[choice.layer]
        values[kinds.index(kind), blocks.index(block)] = choice.bits_per_weight
    figure = Figure(figsize=(min(14.0, 3.2 + 0.45 * len(blocks)), 1.6 + 0.36 * len(kinds)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, aspect="auto", cmap="viridis")
    if values.size <= _MOST_LABELS:
        middle = (np.nanmin(values) + np.nanmax(values)) / 2
        for (row, column), bits in np.ndenumerate(values):
            if np.isfinite(bits):
                color = "black" if bits > middle else "white"
                axes.text(column, row, f"{bits:.1f}", ha="center", va="center", fontsize=7, color=color)
    axes.set_yticks(range(len(kinds)), kinds)
    step = max(1, len(blocks) // 16)
    axes.set_xticks(
        range(0, len(blocks), step), ["" if blocks[at] < 0 else str(blocks[at]) for at in range(0, len(blocks), step)]
    )
    axes.set_xlabel("transformer block")
    axes.set_title(f"{plan.bits_per_weight:.2f} bits per weight, {plan.bytes / 1e6:,.2f} MB", fontsize=10)
    figure.colorbar(image, ax=axes, label="stored bits per weight")
    return figure


def measured_against_planned(comparison: Comparison) -> Figure:
    """Draw the measured objective of each layer over the one that the plan was chosen by, a point a layer."""
    figure = Figure(figsize=(5.0, 4.4), layout="constrained")
    axes = figure.add_subplot()
    rows = [row for row in comparison.layers.to_pylist() if row["predicted"] > 0 and row["measured"] > 0]
    for name in sorted({row["candidate"] for row in rows}):
        own = [row for row in rows if row["candidate"] == name]
        axes.plot(
            [row["predicted"] for row in own],
            [row["measured"] for row in own],
            linestyle="none",
            marker="o",
            markersize=4,
            alpha=0.8,
            label=name,
        )
    ends = [value for row in rows for value in (row["predicted"], row["measured"])]
    if ends:
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=_SOFT, linewidth=1, zorder=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("planned squared output error of a layer")
    axes.set_ylabel("measured")
    axes.set_title(f"measured over planned, all layers: {comparison.ratio:.3g}", fontsize=10)
    return figure


def _place(layer: str) -> tuple[str, int]:
    """Return the kind of a layer and its block: the name behind the first number, and that number (-1 for none)."""
    found = re.search(r"(?:^|\.)(\d+)\.(.+)$", layer)
    return (found[2], int(found[1])) if found else (layer, -1)


def _label(axes: Axes, figure: Figure, points: list[tuple[str, float, float]], drawn: np.ndarray) -> None:
    """Write names beside points, first those that no other point beats, where they cover neither each other nor `drawn` [N, 2].

    A name without such a place is left out.
    """
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    marks = axes.transData.transform(drawn)
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in marks[np.isfinite(marks).all(1)].tolist()]
    height = 1.2 * _FONT * _PIXELS
    for name, *place in sorted(points, key=lambda one: any(x <= one[1] and y < one[2] for _, x, y in points)):
        width = 0.62 * _FONT * len(name) * _PIXELS
        x, y = axes.transData.transform(place)
        for side, rise in ((1, 0), (-1, 0), (0, 1.1), (0, -1.1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            left, low = x + 6 * side + width * (side - 1) / 2, y + (rise - 0.5) * height
            box = (left, low, left + width, low + height)
            inside = frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                axes.annotate(
                    name,
                    (place[0], place[1]),
                    xytext=(6 * side / _PIXELS, rise * height / _PIXELS),
                    textcoords="offset points",
                    ha=("right", "center", "left")[side + 1],
                    va="center",
                    fontsize=_FONT,
                    color=_UNIFORM,
                )
                break


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _weights(frontier: pa.Table) -> float:
    return 8.0 * float(frontier["bytes"][0].as_py()) / float(frontier["bits_per_weight"][0].as_py())


def _positive(values: object) -> np.ndarray:
    array = np.array(values, dtype=np.float64)
    return np.where(array > 0, array, np.nan)
