"""One figure for all variants: how far each is from the bound, and how its flows finish, a row a panel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator_network.comparison import Metric, Variant, bound, ours
from orchestrator_network.flow_figures import BOUND, OURS

_LINES = (
    "#4878a8",
    "#e08b3e",
    "#6aa56a",
    "#b65d60",
    "#8e7cb0",
    "#a08060",
    "#d59bc0",
    "#5fb3bd",
    "#bdb75a",
    "#3d3d3d",
    "#8f8f8f",
)
_LEGEND = ("published", "ours", "mean", "99 %", "last flow", "bound")
_WIDTHS = (2.8, 1.1)  # of the first line and of the last, so that those below others are seen
_MOST_LINES = 11  # more colours cannot be told apart
_GRID_FROM = 13  # variants that make a grid rather than a list
_DARK_FROM = 0.6  # of the colour scale; text on it is white
_LOGARITHMIC_FROM = 20  # slowest over quickest of a list of times
_WORST_SHOWN = 2.0  # quotient to the bound at which the colour scale ends


def draw_comparison(made: Sequence[Variant], metric: Metric) -> Figure:
    """Draw every panel in a row: variants against the bound on the left, completion times on the right."""
    panels: dict[str, list[Variant]] = {}
    for one in made:
        panels.setdefault(one.panel, []).append(one)
    heights = [1.5 + 0.26 * _lines(members) for members in panels.values()]
    figure = Figure(figsize=(12.5, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(panels), 2, height_ratios=heights, width_ratios=(1.15, 1))
    for row, (name, members) in enumerate(panels.items()):
        left, right = figure.add_subplot(grid[row, 0]), figure.add_subplot(grid[row, 1])
        if _is_grid(members):
            _draw_grid(left, members, metric)
        elif metric == "end_us":
            _draw_times(left, members)
        else:
            _draw_goodput(left, members)
        _draw_cdfs(right, members, metric)
        left.set_title(name or str(members[0].values["workload"]), fontsize=10, loc="left", fontweight="bold")
    return figure


def draw_rerouting(made: Sequence[Variant]) -> Figure:
    """Draw for how long every variant sent to a port that had gone down, a panel beside the other; what knows nothing of it is left out."""
    panels: dict[str, list[Variant]] = {}
    for one in made:
        if one.values["reroute_us"] is not None:
            panels.setdefault(one.panel, []).append(one)
    height = 1.3 + 0.3 * max(len(members) for members in panels.values())
    figure = Figure(figsize=(max(4.2 * len(panels), 6.4), height), layout="constrained")
    for axes, (name, members) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        named = next((one for one in members if one.published_reroute_us is not None), None)
        for place, one in enumerate(members):
            took_us = one.values["reroute_us"]
            axes.barh(place, took_us, height=0.55, color="#9db8d2", label="ours" if place == 0 else None)
            if one.published_reroute_us is not None:
                label = "published" if one is named else None
                axes.plot(one.published_reroute_us, place, "D", color="black", markersize=5, zorder=4, label=label)
            axes.annotate(
                f"{took_us:,.0f}", (took_us, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8
            )
        _finish_list(axes, members)
        axes.set_xlim(
            0, 1.18 * max(max(one.values["reroute_us"], one.published_reroute_us or 0) for one in members) or 1.0
        )
        axes.set_xlabel("the median flow sent to the dead port for (us)", fontsize=9)
        axes.set_title(name or str(members[0].values["workload"]), fontsize=10, loc="left", fontweight="bold")
    return figure


def _is_grid(members: Sequence[Variant]) -> bool:
    """Return whether the variants fill a table of two axes that is too long for a list."""
    if len(members) < _GRID_FROM or {len(one.parts) for one in members} != {2}:
        return False
    rows, columns = ({one.parts[place] for one in members} for place in (0, 1))
    return len(rows) * len(columns) == len(members)


def _lines(members: Sequence[Variant]) -> int:
    shown = {one.parts[0] for one in members} if _is_grid(members) else members
    return max(len(shown), 6)


def _draw_grid(axes: Axes, members: Sequence[Variant], metric: Metric) -> None:
    """Write the quotient of every variant and its bound into a table, darker where it is worse."""
    rows = list(dict.fromkeys(one.parts[0] for one in members))
    columns = list(dict.fromkeys(one.parts[1] for one in members))
    values = np.empty((len(rows), len(columns)))
    for one in members:
        values[rows.index(one.parts[0]), columns.index(one.parts[1])] = ours(one, metric) / bound(one, metric)
    worse = values if metric == "end_us" else 1 / values
    axes.imshow(worse, cmap="OrRd", vmin=1.0, vmax=_WORST_SHOWN, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        dark = worse[row, column] - 1 > _DARK_FROM * (_WORST_SHOWN - 1)
        axes.text(
            column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "#222222"
        )
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.tick_params(length=0)
    what = "end of the last flow" if metric == "end_us" else "goodput of the busiest receiver"
    axes.set_xlabel(f"{what} / bound", fontsize=9)
    axes.spines[:].set_visible(False)


def _draw_times(axes: Axes, members: Sequence[Variant]) -> None:
    """Draw mean, 99th percentile and end of every variant on one line each, and its bound."""
    first = next((one for one in members if one.published is not None), None)
    for place, one in enumerate(members):
        mean, late, end = (one.values[name] for name in ("fct_mean_us", "fct_p99_us", "end_us"))
        axes.plot([mean, end], [place, place], color="#b9c7d6", linewidth=3, solid_capstyle="round", zorder=1)
        named = place == 0
        axes.plot(mean, place, "o", color="white", markeredgecolor=OURS, markersize=6, label="mean" if named else None)
        axes.plot(late, place, "|", color=OURS, markersize=11, label="99 %" if named else None)
        axes.plot(end, place, "o", color=OURS, markersize=6, label="last flow" if named else None)
        _mark_bound(axes, bound(one, "end_us"), place, named)
        if one.published is not None:
            label = "published" if one is first else None
            axes.plot(one.published, place, "D", color="black", markersize=5, zorder=4, label=label)
        axes.annotate(
            f" {end / bound(one, 'end_us'):.2f} x",
            (max(end, bound(one, "end_us")), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    _finish_list(axes, members)
    most = max(max(one.values["end_us"], bound(one, "end_us")) for one in members)
    least = min(min(one.values["fct_mean_us"], bound(one, "end_us")) for one in members)
    scale = ""
    if most > _LOGARITHMIC_FROM * least:  # else one straggler presses all others into a corner
        axes.set_xscale("log")
        axes.set_xlim(least / 1.3, most * (most / least) ** 0.14)
        scale = ", logarithmic"
    else:
        axes.set_xlim(0, 1.14 * most)
    axes.set_xlabel(f"flow completion time (us{scale}), and the last flow / bound", fontsize=9)


def _draw_goodput(axes: Axes, members: Sequence[Variant]) -> None:
    """Draw the goodput of every variant, its bound, and what was published."""
    first = next((one for one in members if one.published is not None), None)
    for place, one in enumerate(members):
        mine, named = ours(one, "goodput_share"), place == 0
        axes.barh(place, mine, height=0.55, color="#9db8d2", label="ours" if named else None)
        _mark_bound(axes, bound(one, "goodput_share"), place, named)
        if one.published is not None:
            label = "published" if one is first else None
            axes.plot(one.published, place, "D", color="black", markersize=5, zorder=4, label=label)
        axes.annotate(f" {mine:.3f}", (0, place), va="center", fontsize=8)
    _finish_list(axes, members)
    axes.set_xlim(0, 1.0)
    axes.set_xlabel("goodput of the busiest receiver / its link", fontsize=9)


def _mark_bound(axes: Axes, value: float, place: int, named: bool) -> None:
    label = "bound" if named else None
    axes.plot([value, value], [place - 0.45, place + 0.45], color=BOUND, linewidth=1.6, zorder=3, label=label)


def _finish_list(axes: Axes, members: Sequence[Variant]) -> None:
    axes.set_yticks(range(len(members)), [one.name for one in members], fontsize=8)
    axes.set_ylim(len(members) - 0.4, -0.6)
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    order = [label for label in _LEGEND if label in named]
    axes.legend(
        [named[label] for label in order],
        order,
        frameon=False,
        fontsize=8,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=5,
        borderaxespad=0,
    )
    axes.spines[["top", "right"]].set_visible(False)


def _draw_cdfs(axes: Axes, members: Sequence[Variant], metric: Metric) -> None:
    """Draw how the flows of every variant finish; of too many, those like the best in colour and all others grey."""
    chosen = _coloured(members, metric)
    share = np.arange(101)
    others = [one for one in members if one not in chosen]
    for place, one in enumerate(others):
        label = "all others" if place == len(others) - 1 else None
        axes.plot(one.member.quantiles_us, share, color="#d4d4d4", linewidth=0.8, zorder=1, label=label)
    for colour, width, one in zip(_LINES, np.linspace(*_WIDTHS, len(chosen)), chosen, strict=False):
        axes.plot(one.member.quantiles_us, share, color=colour, linewidth=width, label=one.name, zorder=2)
    least = sorted({round(bound(one, "end_us"), 3) for one in members})
    axes.axvline(least[0], color=BOUND, linestyle="--", linewidth=1.2, label="bound of the last", zorder=3)
    # One far straggler must not press all others together; its line leaves the picture.
    ends = sorted(one.values["end_us"] for one in members)
    axes.set_xlim(0, 1.04 * max(min(ends[-1], 2.5 * ends[len(ends) // 2]), least[-1]))
    axes.set_ylim(0, 102)
    axes.set_xlabel("flow completion time (us)", fontsize=9)
    axes.set_ylabel("flows finished (%)", fontsize=9)
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)


def _coloured(members: Sequence[Variant], metric: Metric) -> list[Variant]:
    """Return all, or those that share the first part with the best."""
    if len(members) <= _MOST_LINES:
        return list(members)
    worse = 1 if metric == "end_us" else -1
    best = min(members, key=lambda one: worse * ours(one, metric))
    return [one for one in members if one.parts[0] == best.parts[0]][:_MOST_LINES]
