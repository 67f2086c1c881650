"""What a packet run looked like over time: queues, goodput, and windows of chosen flows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from orchestrator_network.flow_figures import BOUND, OURS, SOFT, tiers
from orchestrator_network.graph import Network
from orchestrator_network.samples import Samples, goodput_bps
from orchestrator_network.wire import PS_PER_S

FULL = LinearSegmentedColormap.from_list("full", ["#ffffff", "#f0cf9c", "#e08b3e", "#b9443f", "#611a2c"])
_MOST_ROWS = 64
_NAMED_ROWS = 24  # rows that have a label each
_MOST_COLUMNS = 400
_BINS = (10, 80)  # fewest and most
_PACKETS_A_BIN = 50  # at line rate, so that one more or less does not matter
_MOST_PANELS = 8
_PS_PER_US = 1e6


def draw_queue_map(samples: Samples, links: pa.Table, title: str, changes_us: Sequence[float] = ()) -> Figure | None:
    """Draw what the ports of switches hold over time, a row a port, tier by tier; None if nothing ever waited.

    ``links`` as the table of links of one run; ``changes_us``: when links changed.
    """
    rows = _queue_rows(samples, links)
    if rows is None:
        return None
    share, labels, borders, each = rows
    width = -(-share.shape[1] // _MOST_COLUMNS)
    columns = np.maximum.reduceat(share, np.arange(0, share.shape[1], width), axis=1)
    span_us = columns.shape[1] * width * samples.every_ps / _PS_PER_US
    named = len(share) <= _NAMED_ROWS and each == 1
    height = (0.2 if named else 0.085) * len(share)
    figure = Figure(figsize=(8.4, 1.7 + max(height, 1.2)), layout="constrained")
    axes = figure.add_subplot()
    most = max(100.0, float(columns.max()))
    image = axes.imshow(
        columns,
        aspect="auto",
        cmap=FULL,
        vmin=0,
        vmax=most,
        extent=(0, span_us, len(share), 0),
        interpolation="nearest",
    )
    for border in borders[1:]:
        axes.axhline(border, color="#888888", linewidth=0.6)
    for at in changes_us:
        axes.axvline(at, color=OURS, linestyle=":", linewidth=1.2)
    if named:
        axes.set_yticks(np.arange(len(share)) + 0.5, labels, fontsize=7)
    else:
        ends = [*borders[1:], len(share)]
        names = list(dict.fromkeys(labels))
        axes.set_yticks([(a + b) / 2 for a, b in zip(borders, ends, strict=True)], names, fontsize=8)
    axes.tick_params(axis="y", length=0)
    what = "a row is a port" if each == 1 else f"a row is the fullest of up to {each} ports"
    what += " that ever held more than a packet"
    every_us = width * samples.every_ps / _PS_PER_US
    sampled = f"every {every_us:.3g} us" if width == 1 else f"fullest sample of each {every_us:.3g} us"
    changed = "; dotted: a link changes" if changes_us else ""
    marks = _mark_thresholds(figure.colorbar(image, ax=axes, pad=0.02), samples.ports)
    axes.set_xlabel(f"time (us)\n{what}; {sampled}{changed}{marks}", fontsize=8)
    axes.set_title(f"Queues over time: {title}", fontsize=10)
    return figure


def _queue_rows(samples: Samples, links: pa.Table) -> tuple[np.ndarray, list[str], list[int], int] | None:
    """Return (share of capacity in per cent [rows, samples], a label a row, first row of every tier, ports a row)."""
    number, held = (samples.queues[name].to_numpy() for name in ("link", "queue_bytes"))
    # The last sample is of the end, at no multiple of the interval.
    count = max(len(samples.received) - 1, 1)
    sample = samples.queues["time_ps"].to_numpy() // samples.every_ps
    inside = sample < count
    number, held, sample = number[inside], held[inside], sample[inside]
    waited = np.unique(number[held > samples.packet_bytes])
    if len(waited) == 0:
        return None
    capacity = np.ones(len(links))
    capacity[samples.ports["link"].to_numpy()] = samples.ports["capacity_bytes"].to_numpy()
    groups = {name: rows[np.isin(rows, waited)] for name, rows in tiers(links).items()}
    groups = {name: rows for name, rows in groups.items() if len(rows)}
    each = 1
    while sum(-(-len(rows) // each) for rows in groups.values()) > max(_MOST_ROWS, len(groups)):
        each += 1
    row_of = np.full(len(links), -1)
    labels: list[str] = []
    borders: list[int] = []
    names = [f"{a} to {b}" for a, b in zip(links["src"].to_pylist(), links["dst"].to_pylist(), strict=True)]
    for name, rows in groups.items():
        borders.append(len(labels))
        row_of[rows] = len(labels) + np.arange(len(rows)) // each
        many = -(-len(rows) // each)
        labels += (
            [names[row] for row in rows] if each == 1 and len(waited) <= _NAMED_ROWS else [_label(name, rows)] * many
        )
    share = np.zeros((len(labels), count))
    kept = row_of[number] >= 0
    np.maximum.at(share, (row_of[number[kept]], sample[kept]), 100 * held[kept] / capacity[number[kept]])
    return share, labels, borders, each


def _label(tier: str, rows: np.ndarray) -> str:
    return f"{tier}\n({len(rows)} ports)"


def _mark_thresholds(bar: Colorbar, ports: pa.Table) -> str:
    """Mark in the bar where ports begin to mark packets and from where on they mark all, and return what that means."""
    bar.set_label("data held\n(% of the port's capacity)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_linewidth(0.4)
    capacity = ports["capacity_bytes"].to_numpy()
    found = []
    for name in ("mark_from_bytes", "mark_all_bytes"):
        limits = ports[name].to_numpy(zero_copy_only=False).astype(float)
        if np.isfinite(limits).any():
            found.append(100 * float(np.nanmedian(limits / capacity)))
            bar.ax.axhline(found[-1], color="white", linewidth=2.4)
            bar.ax.axhline(found[-1], color="#222222", linewidth=1.2)
    return f"\nlines in the colour bar: ECN marks from {found[0]:.0f} %, and all from {found[1]:.0f} %" if found else ""


def draw_goodput(
    samples: Samples, flows: pa.Table, network: Network, title: str, changes_us: Sequence[float] = ()
) -> Figure:
    """Draw the payload that arrives over time at all hosts against what the links of the receivers carry."""
    times, rate = goodput_bps(samples.received)
    receivers = np.unique(flows["dst"].to_numpy())
    into = np.isin(network.target, receivers)
    line = float(network.capacity_bps[into].sum())
    packets = line * times[-1] / PS_PER_S / (8 * samples.packet_bytes)
    width = -(-len(rate) // int(np.clip(packets / _PACKETS_A_BIN, *_BINS)))
    edges = np.unique(np.append(np.arange(0, len(rate), width), len(rate)))
    arrived = np.append(0, np.cumsum(rate * np.diff(times)))[edges]
    rate, times = np.diff(arrived) / np.diff(times[edges]), times[edges]
    unit, name = (1e12, "Tb/s") if line >= 2e12 else (1e9, "Gb/s")
    figure = Figure(figsize=(6.6, 3.3))
    axes = figure.add_subplot()
    axes.stairs(rate / unit, times / _PS_PER_US, fill=True, color=SOFT)
    axes.stairs(rate / unit, times / _PS_PER_US, color=OURS, linewidth=1.4, label="payload arriving")
    label = "line rate of the receiver" if len(receivers) == 1 else f"line rate of {len(receivers)} receivers"
    axes.axhline(line / unit, color=BOUND, linestyle="--", linewidth=1.2, label=label)
    for place, at in enumerate(changes_us):
        axes.axvline(at, color="#444444", linestyle=":", linewidth=1.2, label="a link changes" if place == 0 else None)
    axes.set_xlim(0, times[-1] / _PS_PER_US)
    axes.set_ylim(0, 1.08 * max(line, float(rate.max())) / unit)
    axes.set_xlabel(f"time (us), means over {np.median(np.diff(times)) / _PS_PER_US:.3g} us")
    axes.set_ylabel(f"goodput of one plane ({name})")
    axes.set_title(f"Goodput: {title}", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_windows(samples: Samples, flows: pa.Table, title: str, changes_us: Sequence[float] = ()) -> Figure | None:
    """Draw window and bytes in flight of the traced flows, a panel each, of at most eight; None if none is traced."""
    traced = np.unique(samples.windows["flow"].to_numpy())
    if len(traced) == 0:
        return None
    shown = traced[np.unique(np.linspace(0, len(traced) - 1, min(len(traced), _MOST_PANELS)).round().astype(int))]
    columns = 1 if len(shown) == 1 else 2
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(4.6 * columns + 1.4, 1.1 + 1.75 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes, flow in zip(panels.flat, shown, strict=False):
        _draw_window(axes, samples, flows, int(flow), changes_us)
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    # The last panel of every column carries the times, also where the last line is not full.
    for column in range(columns):
        last = [axes for axes in panels[:, column] if axes.axison][-1]
        last.set_xlabel("time (us)", fontsize=9)
        last.tick_params(labelbottom=True)
    figure.supylabel("bytes on the wire (kB)", fontsize=9)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=len(labels))
    few = "" if len(shown) == len(traced) else f" ({len(shown)} of {len(traced)} traced flows)"
    figure.suptitle(f"Windows{few}: {title}", fontsize=10)
    return figure


def _draw_window(axes: Axes, samples: Samples, flows: pa.Table, flow: int, changes_us: Sequence[float]) -> None:
    of_flow = samples.windows["flow"].to_numpy() == flow
    times_us, cwnd, in_flight = (
        samples.windows[name].to_numpy(zero_copy_only=False)[of_flow].astype(float)
        for name in ("time_ps", "cwnd_bytes", "in_flight_bytes")
    )
    times_us = times_us / _PS_PER_US
    row = flows["flow"].to_pylist().index(flow)
    start, finish = (flows[name][row].as_py() / _PS_PER_US for name in ("start_ps", "finish_ps"))
    lives = (times_us >= start) & (times_us <= finish)
    axes.fill_between(times_us, in_flight / 1e3, step="post", color=SOFT, linewidth=0, label="in flight")
    if np.isfinite(cwnd).any():
        axes.plot(times_us[lives], cwnd[lives] / 1e3, color=OURS, linewidth=1.3, drawstyle="steps-post", label="window")
    bdp = samples.bdp_bytes / 1e3
    axes.axhline(bdp, color=BOUND, linestyle="--", linewidth=1.1, label="bandwidth-delay product of the longest path")
    for place, at in enumerate(changes_us):
        axes.axvline(at, color="#444444", linestyle=":", linewidth=1, label="a link changes" if place == 0 else None)
    ends = f"host {flows['src'][row].as_py()} to host {flows['dst'][row].as_py()}"
    axes.set_title(f"flow {flow}: {ends}", fontsize=8, loc="left")
    axes.set_xlim(0, times_us[-1])
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
