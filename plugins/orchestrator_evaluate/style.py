"""The look of every figure: one palette, one set of sizes, quiet axes. Import it inside functions that draw.

Figures are built as ``matplotlib.figure.Figure`` objects, never through pyplot, so no backend is chosen and nothing global
changes. Colours are safe for the common colour blindnesses and keep their order of lightness in grey.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INK = "#1b2733"
MUTED = "#6b7885"
GRID = "#e3e8ed"
PAPER = "#ffffff"
#: Series colours in the order of use.
SERIES = ("#1f5fa8", "#e07b39", "#2a9d8f", "#8e5ea2", "#c44e52", "#7a8b99", "#b5a642", "#4c9be8")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GOOD, COSTLY, NEUTRAL, REFUSED = "#1f5fa8", "#e07b39", "#9aa7b5", "#c9d1d9"

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "hatch.linewidth": 0.8,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}


@contextmanager
def drawing(width_in: float, height_in: float) -> Iterator[Any]:
    """Yield an empty Figure of the given size under the project's settings; draw inside the block."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(RC):
        yield Figure(figsize=(width_in, height_in), layout="constrained")


def note(figure: Any, text: str) -> None:
    """Write a small line of conditions below a figure."""
    figure.supxlabel(text, fontsize=7.5, color=MUTED, x=0.01, ha="left")


def plain_log(axis: Any) -> None:
    """Label a logarithmic axis with short plain numbers where its range is small, and powers of ten where it is not."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    narrow = high / low < 30
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format(value, ".3g")))
    axis.set_minor_formatter(NullFormatter())
