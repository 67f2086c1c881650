"""Three pictures: dense, pruned and retrained side by side; accuracy against parameters; and what networks are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, PercentFormatter

from .glyphs import CHARACTERS, Pictures
from .networks import KINDS
from .tables import PUBLISHED

_COLORS = {"mlp": "#b65d60", "locally_connected": "#c79a3c", "convolution": "#4878a8"}
_NAMES = {"mlp": "MLP", "locally_connected": "locally connected", "convolution": "convolution"}
_LINES = {"pruned": (":", "x"), "retrained": ("-", "o"), "gradual": ("--", "^")}
_GREY = "#9aa3ad"


def panels(table: Sequence[dict[str, Any]], sparsity: float, epochs: int) -> Figure:
    """Draw accuracy as bars in three panels: dense, pruned to `sparsity`, retrained; rows are those of `tables.rows`.

    Where there is a published value of ResNet-50 on ImageNet, it stands beside as an empty bar.
    """
    titles = {
        "dense": "dense",
        "pruned": f"{sparsity:.0%} of weights removed",
        "retrained": f"retrained for {epochs} epoch{'s' if epochs > 1 else ''}",
    }
    figure = Figure(figsize=(9.2, 3.9), layout="constrained")
    every: Sequence[Axes] = figure.subplots(1, 3, sharey=True)
    held = {(row["network"], row["phase"], row["sparsity"]): row for row in table}
    for axes, (phase, title) in zip(every, titles.items(), strict=True):
        at = 0.0 if phase == "dense" else sparsity
        for place, kind in enumerate(KINDS):
            row = held[kind, phase, at]
            accuracy, low, high = (100 * row[name] for name in ("accuracy", "low", "high"))
            axes.bar(place, accuracy, width=0.66, color=_COLORS[kind])
            axes.errorbar(
                place, accuracy, [[accuracy - low], [high - accuracy]], color="black", capsize=4, linewidth=1.1
            )
            _write(axes, place, high, accuracy)
        published = PUBLISHED.get((phase, at))
        # Every name has two lines, so that the first ones stand at one height.
        names = [_NAMES[kind].replace(" ", "\n") if " " in _NAMES[kind] else _NAMES[kind] + "\n" for kind in KINDS]
        if published is not None:
            axes.bar(len(KINDS), 100 * published, width=0.66, color="white", edgecolor=_GREY, hatch="////")
            _write(axes, len(KINDS), 100 * published, 100 * published)
            names.append("ResNet-50\n(published)")
        axes.set_xticks(range(len(names)), names, fontsize=7.5)
        axes.set_title(title, fontsize=10)
        # Above 100 % there is room for the numbers of intervals that end there.
        axes.set_ylim(0, 108)
        axes.set_yticks(range(0, 101, 20))
        axes.grid(visible=True, axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    every[0].set_ylabel("right answers")
    every[0].yaxis.set_major_formatter(PercentFormatter(decimals=0))
    figure.supxlabel(
        "Characters in fonts that were not learnt from, 95 % intervals. Published: ImageNet, another network and other "
        "data.",
        fontsize=8,
        color="#5c6670",
    )
    return figure


def accuracy_against_parameters(table: Sequence[dict[str, Any]]) -> Figure:
    """Draw every network from dense to sparse: parameters that are left on a logarithmic axis, accuracy above it.

    The dotted line joins the dense networks: structure that was known beforehand. The others come from them by pruning.
    """
    figure = Figure(figsize=(7.6, 4.8), layout="constrained")
    axes = figure.add_subplot()
    dense = [row for kind in KINDS for row in table if row["network"] == kind and row["phase"] == "dense"]
    axes.plot(
        [row["parameters"] for row in dense],
        [100 * row["accuracy"] for row in dense],
        color="black",
        linestyle=(0, (1, 2)),
        linewidth=1.4,
        zorder=1,
    )
    for start in dense:
        color = _COLORS[start["network"]]
        for phase, (line, marker) in _LINES.items():
            own = [start] + [
                row
                for row in table
                if row["network"] == start["network"] and row["phase"] == phase and row["sparsity"] > 0
            ]
            own.sort(key=lambda row: -row["parameters"])
            accuracy = [100 * row["accuracy"] for row in own]
            spread = [
                [100 * (row["accuracy"] - row["low"]) for row in own],
                [100 * (row["high"] - row["accuracy"]) for row in own],
            ]
            axes.errorbar(
                [row["parameters"] for row in own],
                accuracy,
                spread if phase == "retrained" else None,
                color=color,
                linestyle=line,
                marker=marker,
                markersize=4.5,
                linewidth=1.5 if phase == "retrained" else 1.1,
                elinewidth=0.8,
                alpha=1.0 if phase == "retrained" else 0.75,
                capsize=2,
            )
            if phase == "retrained":
                _sparsities(axes, own[1:], color)
        axes.plot(start["parameters"], 100 * start["accuracy"], marker="s", markersize=10, color=color, zorder=5)
        axes.annotate(
            f"{_NAMES[start['network']]}\n{start['parameters']:,.0f}",
            (start["parameters"], 101),
            ha="center",
            va="bottom",
            fontsize=8.5,
            color=color,
            annotation_clip=False,
        )
        axes.axvline(start["parameters"], color=color, linewidth=0.6, alpha=0.5, zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_ylim(0, 100)
    axes.set_xlabel("parameters that are left, biases included")
    axes.set_ylabel("right answers on fonts that were not learnt from")
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    _explain(axes)
    return figure


def samples(known: Pictures, unseen: Pictures, rows: int = 4) -> Figure:
    """Draw some pictures of every character, those to learn from above those of fonts that are kept for the test."""
    figure = Figure(figsize=(9.2, 2.8), layout="constrained")
    every: Sequence[Axes] = figure.subplots(2, 1)
    titles = ("fonts to learn from", "fonts that are kept for the test")
    for axes, title, held in zip(every, titles, (known, unseen), strict=True):
        lines = []
        for row in range(rows):
            # Another font for each character, so that a row shows many.
            chosen = []
            for label in range(len(CHARACTERS)):
                own = (held.labels == label).nonzero()[:, 0]
                chosen.append(held.images[own[(7 * row + 5 * label) % len(own)], 0])
            lines.append([picture.numpy() for picture in chosen])
        side = lines[0][0].shape[0]
        sheet = [[value for picture in line for value in picture[y]] for line in lines for y in range(side)]
        axes.imshow(sheet, cmap="gray_r", interpolation="nearest", aspect="equal")
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    return figure


def _write(axes: Axes, place: float, top: float, value: float) -> None:
    axes.annotate(f"{value:.1f}", (place, top), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8)


def _sparsities(axes: Axes, own: Sequence[dict[str, Any]], color: str) -> None:
    for row in own:
        axes.annotate(
            f"{row['sparsity']:.0%}",
            (row["parameters"], 100 * row["accuracy"]),
            xytext=(-5, 3),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color=color,
            # A margin, so that numbers can be read where lines pass.
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )


def _explain(axes: Axes) -> None:
    words = {
        "retrained": "pruned at once, retrained",
        "gradual": "pruned while it trains on",
        "pruned": "pruned, not retrained",
    }
    for phase, text in words.items():
        line, marker = _LINES[phase]
        axes.plot([], [], color="#5c6670", linestyle=line, marker=marker, markersize=4.5, label=text)
    axes.plot([], [], color="black", linestyle=(0, (1, 2)), label="structure: locality, then sharing")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
