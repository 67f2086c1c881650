"""What HammingMeshes save, workload by workload and network by network, ours beside published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_COLOURS = ("#4878a8", "#5fb3bd", "#8e7cb0", "#b65d60", "#8f8f8f", "#6aa56a", "#a08060", "#d59bc0")
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)


def draw_savings(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw rows of SAVINGS: a panel a mesh, a group a workload, a colour a network; a line joins ours and published."""
    meshes = list(dict.fromkeys(row["mesh"] for row in rows))
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    colours = dict(zip(machines, _COLOURS * len(machines), strict=False))
    figure = Figure(figsize=(9, 0.9 + 2.9 * len(meshes)), layout="constrained")
    panels = figure.subplots(len(meshes), 1, squeeze=False, sharex=True)[:, 0]
    for axes, mesh in zip(panels, meshes, strict=True):
        _draw_panel(axes, [row for row in rows if row["mesh"] == mesh], colours)
        axes.set_title(f"{mesh}: price x communication overhead, of another network over the mesh", fontsize=10)
    handles = [Line2D([], [], color=colour, linewidth=5, label=name) for name, colour in colours.items()]
    handles.append(Line2D([], [], color="black", marker="o", linestyle="none", label="ours"))
    handles.append(Line2D([], [], color="black", marker="D", fillstyle="none", linestyle="none", label="published"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    return figure


def _draw_panel(axes: Axes, rows: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> None:
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    order = list(colours)
    width = 0.8 / len(order)
    for row in rows:
        at = workloads.index(row["workload"]) + (order.index(row["machine"]) - (len(order) - 1) / 2) * width
        colour, published = colours[row["machine"]], row["published_saving"]
        if published is not None:
            axes.plot([at, at], [row["saving"], published], color=colour, linewidth=1.2, alpha=0.6)
            axes.plot(at, published, "D", color=colour, fillstyle="none", markersize=6)
        axes.plot(at, row["saving"], "o", color=colour, markersize=5.5)
    for edge in range(1, len(workloads)):
        axes.axvline(edge - 0.5, color="#e0e0e0", linewidth=0.8)
    axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_yscale("log")
    values = [value for row in rows for value in (row["saving"], row["published_saving"]) if value]
    axes.set_ylim(min(values) / 1.3, max(values) * 1.3)
    axes.set_yticks([tick for tick in _TICKS if min(values) / 1.3 <= tick <= max(values) * 1.3])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlim(-0.5, len(workloads) - 0.5)
    axes.set_xticks(range(len(workloads)), workloads, fontsize=9)
    axes.set_ylabel("relative cost saving", fontsize=9)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
