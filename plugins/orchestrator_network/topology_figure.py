"""A drawing of a network with its links coloured and widened by how busy they were."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from orchestrator_network.sketch import Sketch
from orchestrator_network.sketch_families import sketch
from orchestrator_network.topology import Topology

BUSY = LinearSegmentedColormap.from_list("busy", ["#dcdfe3", "#f0cf9c", "#e08b3e", "#b9443f", "#611a2c"])
_RASTER_FROM = 4000  # lines that a vector file should not hold one by one


@dataclass(frozen=True, kw_only=True, eq=False)
class Lines:
    """Links with the same two ends, one line: ``ends`` float64 [lines, 2, 2], ``busy`` in per cent, ``links`` a line."""

    ends: np.ndarray
    busy: np.ndarray
    links: np.ndarray


def bundle(drawing: Sketch, busy: np.ndarray) -> Lines:
    """Join links that would be drawn over each other: the mean of those of one direction, and the busier direction.

    Links both of whose ends share a mark have no line.
    """
    # Rounded, so that equal places are equal; the lower end first, so that both directions meet.
    both = np.round(np.stack([drawing.start, drawing.end], axis=1), 9) + 0.0
    swap = (both[:, 0, 0] > both[:, 1, 0]) | ((both[:, 0, 0] == both[:, 1, 0]) & (both[:, 0, 1] > both[:, 1, 1]))
    lines = np.where(swap[:, None, None], both[:, ::-1], both)
    shown = np.any(lines[:, 0] != lines[:, 1], axis=1)
    ends, line = np.unique(lines[shown].reshape(-1, 4), axis=0, return_inverse=True)
    line, swap, busy = line.ravel(), swap[shown].astype(int), busy[shown]
    sums, counts = np.zeros((2, len(ends), 2))
    np.add.at(sums, (line, swap), busy)
    np.add.at(counts, (line, swap), 1)
    mean = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    return Lines(ends=ends.reshape(-1, 2, 2), busy=mean.max(axis=1), links=counts.max(axis=1).astype(np.int64))


def draw_topology(topology: Topology, links: pa.Table, title: str) -> Figure:
    """Draw one plane; ``links`` has the columns ``link`` and ``utilization``, once or once a seed, of which it is the mean."""
    number, share = (links[name].to_numpy() for name in ("link", "utilization"))
    busy = 100 * np.bincount(number, share) / np.bincount(number)
    drawing = sketch(topology)
    lines = bundle(drawing, busy)
    figure = Figure(figsize=drawing.size, layout="constrained")
    axes = figure.add_subplot()
    for (x, y), (right, top) in drawing.boxes:
        frame = Rectangle((x, y), right - x, top - y, facecolor="#f4f4f4", edgecolor="#c4c4c4", linewidth=0.6, zorder=0)
        axes.add_patch(frame)
    bars = [np.array(bar) for bar in drawing.bars]
    axes.add_collection(LineCollection(bars, colors="#cccccc", linewidths=0.6, zorder=1))
    norm = Normalize(0, max(100.0, float(busy.max())))
    _draw_lines(axes, lines, norm)
    _draw_marks(axes, drawing, topology.hosts)
    for x, y, text in drawing.labels:
        axes.annotate(
            text,
            (x, y),
            xytext=(-6, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
    for x, y, text in drawing.above:
        axes.text(x, y, text, ha="center", va="center", fontsize=7, color="#555555")
    if drawing.above:
        axes.update_datalim([(x, y) for x, y, _ in drawing.above])
    axes.margins(0.03)
    if drawing.square:
        axes.set_aspect("equal")
    axes.set_axis_off()
    bar = figure.colorbar(ScalarMappable(norm, BUSY), ax=axes, shrink=0.75, pad=0.02)
    bar.set_label("share of the time that a link is busy (%), also its width", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    axes.set_title(f"Link utilization: {title}", fontsize=10)
    caption = textwrap.fill(_caption(drawing, lines, topology.hosts), round(15 * drawing.size[0]))
    figure.supxlabel(caption, fontsize=7.5, color="#444444")
    return figure


def _draw_lines(axes: Axes, lines: Lines, norm: Normalize) -> None:
    """Draw idle lines first, so that busy ones are seen where many cross."""
    order = np.argsort(lines.busy, kind="stable")
    share = lines.busy[order] / norm.vmax
    widest = float(np.clip(45 / np.sqrt(len(order)), 1.6, 4.5))
    made = LineCollection(
        list(lines.ends[order]), cmap=BUSY, norm=norm, linewidths=0.3 + widest * share, capstyle="round", zorder=2
    )
    made.set_array(lines.busy[order])
    made.set_rasterized(len(order) > _RASTER_FROM)
    axes.add_collection(made)


def _draw_marks(axes: Axes, drawing: Sketch, hosts: int) -> None:
    """Draw switches as squares and hosts as small dots, one where several share a place."""
    is_host = np.arange(len(drawing.place)) < hosts
    for chosen, marker, colour, largest in ((is_host, "o", "#777777", 16.0), (~is_host, "s", "#333333", 30.0)):
        places = np.unique(np.round(drawing.place[chosen & drawing.drawn], 9), axis=0)
        if len(places):
            area = float(np.clip(1600 / len(places), 2.5, largest))
            axes.scatter(places[:, 0], places[:, 1], s=area, marker=marker, color=colour, linewidths=0, zorder=3)


def _caption(drawing: Sketch, lines: Lines, hosts: int) -> str:
    """Say what marks and lines stand for."""
    most = int(lines.links.max())
    joined = f"a line is the mean of up to {most} links of one direction, " if most > 1 else "of a cable, "
    parts = ["dots: hosts", "squares: switches"] if drawing.drawn[hosts:].any() else ["dots: accelerators"]
    return "; ".join([*parts, *drawing.notes, f"{joined}the busier direction"])
