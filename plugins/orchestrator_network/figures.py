"""What a simulated step looks like: who was busy when, and how busy the links were."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from orchestrator_network.step import StepResult

_COLOURS = {"compute": "#4878a8", "communication": "#e08b3e"}


def draw_step(step: StepResult, title: str) -> Figure:
    """Draw what the busiest rank does over the step, and where the step would end without a network."""
    figure = Figure(figsize=(8, 2.4), layout="constrained")
    axes = figure.add_subplot()
    for height, lane in enumerate(_COLOURS):
        bars = [
            (interval.start_ps / 1e9, (interval.end_ps - interval.start_ps) / 1e9)
            for interval in step.timeline
            if interval.lane == lane
        ]
        axes.broken_barh(bars, (height - 0.35, 0.7), facecolors=_COLOURS[lane], edgecolor="white", linewidth=0.5)
    axes.axvline(step.step_ps_infinite / 1e9, color="black", linestyle="--", linewidth=1)
    axes.annotate(
        " ends here without network ",
        (step.step_ps_infinite / 1e9, 1.45),
        ha="right" if 2 * step.step_ps_infinite > step.step_ps else "left",
        va="bottom",
        fontsize=8,
    )
    axes.set_yticks(range(len(_COLOURS)), list(_COLOURS))
    axes.set_ylim(-0.6, 1.9)
    axes.set_xlim(0, max(step.step_ps, 1) / 1e9)
    axes.set_xlabel("time (ms)")
    axes.set_title(f"One training step: {title}")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_utilization(step: StepResult, title: str) -> Figure:
    """Draw how many links were busy for which share of the step."""
    utilization = step.links.column("utilization").to_numpy()
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    top = max(float(utilization.max()), 1e-9)
    axes.hist(utilization, bins=np.linspace(0, top, 41).tolist(), color=_COLOURS["communication"])
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.set_xlabel("share of the step that a link is busy")
    axes.set_ylabel("links of one plane")
    axes.set_title(f"Link utilization: {title}")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
