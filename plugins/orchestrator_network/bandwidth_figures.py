"""Bandwidth of machines as a dot a machine, ours beside published, with the range between routing models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_OURS, _PUBLISHED, _RANGE = "#4878a8", "#e08b3e", "#b8c4d0"
_TITLES = {"global": "all-to-all (share of injection)", "all_reduce": "all-reduce (share of half of injection)"}


def draw_bandwidths(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw rows of BANDWIDTHS: a panel for every quantity and scale, a line for every machine."""
    quantities = list(dict.fromkeys(row["quantity"] for row in rows))
    scales = list(dict.fromkeys(row["scale"] for row in rows))
    machines = list(dict.fromkeys(row["topology"] for row in rows))
    figure = Figure(
        figsize=(5.4 * len(scales), 1.2 + (0.4 + 0.3 * len(machines)) * len(quantities)), layout="constrained"
    )
    panels = figure.subplots(len(quantities), len(scales), squeeze=False)
    for line, quantity in enumerate(quantities):
        for column, scale in enumerate(scales):
            shown = [row for row in rows if (row["quantity"], row["scale"]) == (quantity, scale)]
            _draw_panel(panels[line, column], shown, quantity == "global")
            panels[line, column].set_title(f"{scale}: {_TITLES[quantity]}", fontsize=10)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    return figure


def _draw_panel(axes: Axes, rows: Sequence[Mapping[str, Any]], logarithmic: bool) -> None:
    place = list(range(len(rows), 0, -1))
    ours = [100 * row["share"] for row in rows]
    published = [100 * row["published_share"] for row in rows]
    if logarithmic:
        others = [[row[name] for name in ("even_share", "detour_share", "stepwise_share")] for row in rows]
        lowest = [
            100 * min([row["share"], *(one for one in found if one)]) for row, found in zip(rows, others, strict=True)
        ]
        axes.hlines(
            place, lowest, ours, color=_RANGE, linewidth=6, label="ours with even or Valiant routes, or in steps"
        )
        axes.set_xscale("log")
        axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        axes.set_xlim(0.8, 260)
    else:
        axes.set_xlim(80, 104)
    axes.plot(published, place, "D", color=_PUBLISHED, markersize=6, label="published")
    axes.plot(ours, place, "o", color=_OURS, markersize=5, label="ours, best split")
    for at, row in zip(place, rows, strict=True):
        text = f"{100 * row['difference_share']:+.0f} %"
        bold = "bold" if row["note"] else "normal"
        axes.annotate(
            text, (0.99, at), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=7, weight=bold
        )
    axes.set_yticks(place, [row["topology"] for row in rows], fontsize=8)
    axes.set_ylim(0.4, len(rows) + 0.6)
    axes.set_xlabel("%", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.minorticks_off()
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
