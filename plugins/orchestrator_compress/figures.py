"""The picture of a compression: error by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    import pyarrow as pa


def error_by_layer(layers: pa.Table, title: str) -> Figure:
    """Draw each kind of layer as a line over blocks: relative output error, or weight error without tokens."""
    rows = layers.to_pylist()
    measured = all(row["relative_dense"] is not None for row in rows)
    column, label = (
        ("relative_dense", "output error / output") if measured else ("weight_error", "weight error / weight")
    )
    kinds: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        kinds.setdefault(row["layer"].rpartition(".")[2], []).append((row["block"], row[column]))
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for kind, points in kinds.items():
        axes.plot([block for block, _ in points], [value for _, value in points], marker="o", markersize=4, label=kind)
    if any(value > 0 for points in kinds.values() for _, value in points):
        axes.set_yscale("log")  # a layer that lost nothing, such as one whose zeros were removed, has no logarithm
    axes.set_xticks(sorted({row["block"] for row in rows}))
    axes.set_xlabel("transformer block")
    axes.set_ylabel(f"squared {label}")
    axes.set_title(title)
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    return figure
