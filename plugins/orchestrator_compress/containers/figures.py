"""The picture of sparse storage: bits per parameter against density, a line for each container."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.figure import Figure

from .formulas import CONTAINERS, best, bits_per_parameter, crossovers, entropy_floor

_LOWEST = 3e-7
#: Of labels from their marks in points, from the highest density down.
_OFFSETS = ((10.0, -34.0), (-10.0, -62.0), (44.0, -12.0))


def storage_by_density(value_bits: int, rows: int = 4096, columns: int = 4096) -> Figure:
    """Draw the size of every container for random places, the entropy floor, and where another container is the smallest."""
    lowest = max(_LOWEST, 1 / (rows * columns))
    densities = np.geomspace(lowest, 1.0, 600)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name in CONTAINERS:
        sizes = [bits_per_parameter(name, density, rows, columns, value_bits) for density in densities]
        axes.plot(densities, sizes, label=name, linewidth=1.6)
    floor = [entropy_floor(density, value_bits) for density in densities]
    axes.plot(densities, floor, label="entropy floor", color="black", linestyle=":", linewidth=1.2)
    marks = [
        (below.container, above.container, above.low)
        for below, above in itertools.pairwise(crossovers(value_bits, rows, columns))
        if above.low >= lowest
    ]
    for place, (below, above, density) in enumerate(reversed(marks)):
        bits = best(density, rows, columns, value_bits)[1]
        axes.plot([density], [bits], marker="o", markersize=6, color="black", fillstyle="none", linestyle="none")
        axes.annotate(
            f"{below} | {above}\n{density:.2g}",
            (density, bits),
            textcoords="offset points",
            # Marks lie close together at high densities; below the lines there is room for one label under the other.
            xytext=_OFFSETS[min(place, len(_OFFSETS) - 1)],
            ha="center",
            fontsize="x-small",
            arrowprops={"arrowstyle": "-", "linewidth": 0.6},
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(lowest, 5.0)
    axes.set_xlabel("density: share of weights that are kept")
    axes.set_ylabel("bits per parameter")
    axes.set_title(f"values of {value_bits} bits, {rows} x {columns} weights at random places")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
    return figure
