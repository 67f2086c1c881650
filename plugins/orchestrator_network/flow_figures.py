"""What a carried workload looks like: completion times against the bound, and how busy and how full the links were."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS, BOUND, SOFT = "#4878a8", "#b65d60", "#b9c7d6"
_DIGITS = re.compile(r"\d+")
TIERS = ("#4878a8", "#6aa56a", "#e08b3e", "#b65d60", "#8e7cb0", "#a08060", "#5fb3bd", "#8f8f8f")


def draw_fct(flows: pa.Table, rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw the distribution of completion times, a thin line a seed and all together, and where the bound is.

    ``flows`` as FLOWS, ``rows`` as FLOW_RESULT, one a seed.
    """
    figure = Figure(figsize=(6.6, 3.5))
    axes = figure.add_subplot()
    took_us = (flows["finish_ps"].to_numpy() - flows["start_ps"].to_numpy()) / 1e6
    seeds = flows["seed"].to_numpy()
    if len(rows) > 1:
        for place, row in enumerate(rows):
            label = f"each of {len(rows)} seeds" if place == 0 else None
            _cdf(axes, took_us[seeds == row["seed"]], color=SOFT, linewidth=1, label=label)
    _cdf(axes, took_us, color=OURS, linewidth=2, label=f"{len(took_us)} flows")
    slowest = float(np.median([row["end_us"] for row in rows]))
    bound_us = float(np.median([row["bound_us"] for row in rows]))
    label = f"the last cannot finish before {bound_us:,.0f} us"
    axes.axvline(bound_us, color=BOUND, linestyle="--", linewidth=1.2, label=label)
    axes.set_xlim(0, max(float(took_us.max()), bound_us) * 1.04)
    axes.set_ylim(0, 102)
    axes.set_xlabel(
        f"flow completion time (us); the last flow ends at {slowest:,.0f} us, {slowest / bound_us:.2f} x the bound"
    )
    axes.set_ylabel("flows finished (%)")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _cdf(axes: Axes, values: np.ndarray, **style: Any) -> None:
    ordered = np.sort(values)
    share = 100 * np.arange(1, len(ordered) + 1) / len(ordered)
    axes.plot(np.append(ordered[0], ordered), np.append(0, share), drawstyle="steps-post", **style)


def tiers(links: pa.Table) -> dict[str, np.ndarray]:
    """Return the rows of every tier of links, by the kinds of their ends, in the order of the table: `host to tor`."""
    columns = (links[name].to_pylist() for name in ("src", "dst"))
    names = np.array([_DIGITS.sub("", f"{source} to {target}") for source, target in zip(*columns, strict=True)])
    order = list(dict.fromkeys(names.tolist()))
    if len(order) > len(TIERS):  # names of a network of its own say nothing of tiers
        return {"all links": np.arange(len(names))}
    return {name: np.flatnonzero(names == name) for name in sorted(order, key=_height)}


def _height(name: str) -> tuple[int, int]:
    """Order tiers on the way of a packet: up from the hosts, then down to them."""
    rank = {"host": 0, "nvswitch": 1, "leaf": 1, "tor": 1, "agg": 2, "spine": 3, "core": 3}
    source, target = (rank.get(end, 2) for end in name.split(" to "))
    return (0, source) if source < target else (1, -source)


def draw_utilization(links: pa.Table, title: str) -> Figure:
    """Draw the share of the time that links are busy, tier by tier: quartiles, extremes and the mean."""
    found = tiers(links)
    busy = 100 * links["utilization"].to_numpy()
    figure = Figure(figsize=(6.6, 1.3 + 0.42 * len(found)))
    axes = figure.add_subplot()
    places = list(range(len(found), 0, -1))
    axes.boxplot(
        [busy[rows] for rows in found.values()],
        positions=places,
        orientation="horizontal",
        whis=(0, 100),
        widths=0.5,
        patch_artist=True,
        showmeans=True,
        boxprops={"facecolor": "#c8d8e8", "edgecolor": OURS},
        medianprops={"color": OURS, "linewidth": 1.5},
        meanprops={"marker": "D", "markersize": 4, "markerfacecolor": BOUND, "markeredgecolor": "none"},
    )
    link = links["link"].to_numpy()
    axes.set_yticks(places, [f"{name} ({len(np.unique(link[rows]))})" for name, rows in found.items()], fontsize=8)
    # At fidelity analytic flows do not see one another, so a link may be asked for more than it has.
    axes.set_xlim(0, max(102, 1.04 * float(busy.max())))
    axes.set_xlabel("share of the time that a link is busy (%), diamond: mean of the tier")
    axes.set_title(f"Link utilization: {title}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_queues(links: pa.Table, title: str) -> Figure:
    """Draw the most data that every port held, tier by tier, fullest ports first."""
    figure = Figure(figsize=(6.6, 3.3))
    axes = figure.add_subplot()
    most_kb = links["max_queue_bytes"].to_numpy() / 1e3
    found = {name: np.sort(most_kb[rows])[::-1] for name, rows in tiers(links).items()}
    for colour, (name, values) in zip(TIERS, found.items(), strict=False):
        if values[0] == 0:  # hosts pace themselves and hold nothing
            continue
        share = 100 * np.arange(len(values) + 1) / len(values)
        axes.plot(share, np.append(values, values[-1]), drawstyle="steps-post", color=colour, label=name, linewidth=1.6)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, max(float(most_kb.max()), 1e-3) * 1.08)
    axes.set_xlabel("ports of the tier, fullest first (%)")
    axes.set_ylabel("most data held (kB)")
    axes.set_title(f"Queues: {title}", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure
