"""What a machine looks like in use and what it costs: utilisation, one allocated grid, prices beside published ones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from orchestrator_network.allocation import Allocation

LEGIBLE_BOARDS = 256
_FREE, _FAILED = "#ffffff", "#1b2733"
_JOBS = ("#4878a8", "#e08b3e", "#6aa56a", "#b65d60", "#8e7cb0", "#a08060", "#d59bc0", "#8f8f8f", "#bdb75a", "#5fb3bd")
_OURS, _PUBLISHED = "#4878a8", "#e08b3e"


def draw_utilizations(samples: Mapping[str, np.ndarray], title: str) -> Figure:
    """Draw the distribution of utilisation over trials for every set of options: median, quartiles, 5 to 95 %."""
    figure = Figure(figsize=(7, 1.2 + 0.45 * len(samples)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(samples), 0, -1)
    axes.boxplot(
        [100 * values for values in samples.values()],
        positions=list(places),
        orientation="horizontal",
        whis=(5, 95),
        widths=0.55,
        patch_artist=True,
        boxprops={"facecolor": "#c8d8e8", "edgecolor": _OURS},
        medianprops={"color": _PUBLISHED, "linewidth": 2},
        flierprops={"marker": ".", "markersize": 4, "markeredgecolor": "#8f8f8f"},
    )
    axes.set_yticks(list(places), [_caption(label) for label in samples], fontsize=8)
    lowest = min(float(values.min()) for values in samples.values())
    axes.set_xlim(100 * lowest - 3, 101)
    axes.set_xlabel("working boards in use (%)")
    axes.set_title(f"Utilization: {title}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _caption(label: str) -> str:
    """Break a long name before `sort`, so that the axis leaves room for the boxes."""
    return label if len(label) <= 32 else label.replace("-sort", "\n-sort", 1)


def draw_grid(found: Allocation, title: str) -> Figure:
    """Draw the boards of one allocation: a colour a job, on small grids its number, failed boards dark."""
    grid = found.grid
    cells = np.zeros((grid.rows, grid.columns), dtype=int)
    for order, (_, mesh) in enumerate(sorted(found.placed.items())):
        cells[np.ix_(mesh.rows, mesh.columns)] = 2 + order % len(_JOBS)
    for row, column in grid.failed:
        cells[row, column] = 1
    figure = Figure(figsize=(6, 1 + 5 * min(2.0, grid.rows / grid.columns)), layout="constrained")
    axes = figure.add_subplot()
    colours = ListedColormap([_FREE, _FAILED, *_JOBS])
    axes.imshow(cells, cmap=colours, vmin=0, vmax=len(_JOBS) + 1, interpolation="nearest")
    if grid.boards <= LEGIBLE_BOARDS:
        axes.set_xticks(np.arange(grid.columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(grid.rows + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=0.8)
        axes.tick_params(which="minor", length=0)
        for number, mesh in found.placed.items():
            for row, column in itertools.product(mesh.rows, mesh.columns):
                axes.text(column, row, str(number), ha="center", va="center", fontsize=6, color="white")
    axes.set_xlabel("board column (white: free, dark: failed)")
    axes.set_ylabel("board row")
    axes.set_title(f"{len(found.placed)} jobs, {100 * found.utilization:.1f} % in use: {title}", fontsize=10)
    return figure


def draw_costs(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the price of every machine, recomputed beside published, one panel a scale."""
    scales = list(dict.fromkeys(row["scale"] for row in rows))
    figure = Figure(figsize=(4.6 * len(scales), 3.4), layout="constrained")
    for panel, scale in enumerate(scales, start=1):
        shown = [row for row in rows if row["scale"] == scale]
        axes = figure.add_subplot(1, len(scales), panel)
        place = np.arange(len(shown))
        axes.bar(place - 0.2, [row["usd"] / 1e6 for row in shown], 0.4, color=_OURS, label="recomputed")
        axes.bar(place + 0.2, [row["published_usd"] / 1e6 for row in shown], 0.4, color=_PUBLISHED, label="published")
        for at, row in zip(place, shown, strict=True):
            top = max(row["usd"], row["published_usd"]) / 1e6
            axes.annotate(f"{row['usd'] / 1e6:.1f}", (at, top), ha="center", va="bottom", fontsize=7)
        axes.margins(y=0.12)
        axes.set_xticks(place, [row["topology"] for row in shown], rotation=40, ha="right", fontsize=8)
        axes.set_ylabel("network (million USD)")
        devices = sorted({row["devices"] for row in shown})
        span = f"{devices[0]}" if len(devices) == 1 else f"{devices[0]} to {devices[-1]}"
        axes.set_title(f"{scale}: {span} devices", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure
