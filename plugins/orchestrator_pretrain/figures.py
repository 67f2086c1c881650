"""The learning curve of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_pretrain.saved import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve(history: History, tokens_per_step: int) -> Figure:
    """Draw training loss (each step, thin) and held-out loss (marked) in nats a token over training tokens."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for label, points, width, color, marker in (
        ("train", history.train, 0.8, "#9aa7b5", ""),
        ("held-out", history.heldout, 1.6, "#1f5fa8", "o"),
    ):
        tokens, losses = [step * tokens_per_step for step, _ in points], [loss for _, loss in points]
        axes.plot(tokens, losses, label=label, linewidth=width, color=color, marker=marker, markersize=3.5)
    axes.set_xlabel("training tokens")
    axes.set_ylabel("loss (nats / token)")
    axes.grid(visible=True, linewidth=0.3)
    axes.legend(frameon=False)
    return figure
