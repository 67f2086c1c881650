"""Figures of a training run; each function returns a matplotlib Figure and touches no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, float]]


def _series(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    held = [row for row in rows if name in row]
    return [row["step"] for row in held], [row[name] for row in held]


def _axes(figure: Figure, position: int, title: str, x_label: str) -> Any:
    axes = figure.add_subplot(1, 2, position)
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.grid(visible=True, alpha=0.3)
    return axes


def supervised_figure(rows: Rows, stop_at: float) -> Figure:
    """Draw the loss, and held-out greedy accuracy with the line at which training stops."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    loss = _axes(figure, 1, "Loss on responses", "step")
    loss.plot(*_series(rows, "loss"))
    loss.set_yscale("log")
    loss.set_ylabel("nats per token")
    accuracy = _axes(figure, 2, "Held-out greedy accuracy", "step")
    accuracy.plot(*_series(rows, "greedy_accuracy"), marker="o", markersize=3)
    accuracy.axhline(stop_at, linestyle="--", color="grey", label=f"stop at {stop_at:g}")
    accuracy.set_ylim(0, 1)
    accuracy.legend()
    return figure


def expert_figure(rows: Rows, before: float) -> Figure:
    """Draw greedy accuracy with its value before, the share of correct samples, and the shape of the groups."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    accuracy = _axes(figure, 1, "Accuracy", "round")
    accuracy.plot(*_series(rows, "greedy_accuracy"), marker="o", markersize=3, label="greedy, held out")
    accuracy.plot(*_series(rows, "reward"), label="sampled, training prompts")
    accuracy.axhline(before, linestyle="--", color="grey", label="greedy before")
    accuracy.set_ylim(0, 1)
    accuracy.legend()
    groups = _axes(figure, 2, "Samples", "round")
    groups.plot(*_series(rows, "mixed_share"), label="mixed groups")
    groups.plot(*_series(rows, "truncated_share"), label="truncated samples")
    groups.set_ylim(0, 1)
    groups.legend()
    return figure


def attempts_figure(before: Mapping[int, float], after: Mapping[int, float]) -> Figure:
    """Draw pass@k against k before and after: training moves what k attempts found into the first attempt."""
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for label, values in (("before", before), ("after", after)):
        axes.plot(list(values), list(values.values()), marker="o", markersize=3, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(before), [str(k) for k in before])
    axes.set_xlabel("attempts k")
    axes.set_ylabel("pass@k, held out, temperature 1")
    axes.set_ylim(0, 1)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    return figure
