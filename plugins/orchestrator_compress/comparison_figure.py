"""One figure of a comparison: how much worse than dense against what is stored or computed, and published values beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from .comparison import Variant, shown, word_of
from .comparison_tables import quantities

_COLOURS = ("#1f5fa8", "#e07b39", "#2a9d8f", "#8e5ea2", "#c44e52", "#7a8b99", "#b5a642", "#4c9be8")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_INK, _MUTED, _GRID = "#1b2733", "#6b7885", "#e3e8ed"
_TITLES = {
    "bits_per_weight": "stored bits a weight of the compressed layers",
    "layer_bytes": "stored bytes of the compressed layers",
    "kept": "share of weights left",
    "fewer_bytes": "times fewer bytes than {dense_bits} bits a weight",
    "fewer_macs": "times fewer multiply-accumulates",
    "decode_ms": "one token, ms",
}
# Where a name may stand: points to the right and up of its point, and which of its edges is there.
_SIDES = tuple(
    (right * far, up * far, horizontal, vertical)
    for far in (1, 2.5)
    for right, up, horizontal, vertical in (
        *((4, 3, "left", "bottom"), (4, -3, "left", "top"), (-4, 3, "right", "bottom"), (-4, -3, "right", "top")),
        *((0, 5, "center", "bottom"), (0, -5, "center", "top"), (6, 0, "left", "center"), (-6, 0, "right", "center")),
    )
)
_MOST_NAMED = 40  # points that can still be told apart by a word beside each


def draw_comparison(
    variants: Sequence[Variant],
    published: Sequence[Mapping[str, Any]],
    *,
    against: Sequence[str],
    series: str,
    panels: str | None,
    dense_bits: int,
) -> Figure:
    """Draw a row a value of the axis `panels` and a column a quantity of `against`; published ratios come last.

    Variants that agree on the axis `series` share a colour, and those that differ in a last axis of numbers alone a line.
    Error bars are the intervals of the ratio to the reference.
    """
    groups = _groups(variants, panels)
    # What every panel has, such as one dense reference of all, has no panel of its own.
    everywhere = groups.pop("", []) if len(groups) > 1 else []
    beside = [row for row in published if row["variant"] is not None]
    columns = len(against) + bool(beside)
    figure = Figure(figsize=(0.4 + 5.1 * columns, 0.5 + 3.7 * len(groups)), layout="constrained")
    grid = figure.add_gridspec(len(groups), columns)
    colours = _assigned([str(one.member.axes.get(series, "")) for one in variants if not one.is_reference])
    to_name: list[tuple[Axes, list[tuple[float, Variant]]]] = []
    for row, (name, members) in enumerate(groups.items()):
        for column, quantity in enumerate(against):
            axes = figure.add_subplot(grid[row, column])
            points = _draw_panel(axes, [*everywhere, *members], quantity, series, colours, dense_bits)
            to_name += [(axes, points)] if len(points) <= _MOST_NAMED else []
            axes.set_title(name, fontsize=10, loc="left", fontweight="bold", color=_INK)
    if beside:
        _draw_published(figure.add_subplot(grid[0, -1]), variants, beside)
    figure.draw_without_rendering()  # from here on it is known where names meet
    for axes, points in to_name:
        _name_points(axes, points, series)
    return figure


def _groups(variants: Sequence[Variant], panels: str | None) -> dict[str, list[Variant]]:
    found: dict[str, list[Variant]] = {}
    for one in variants:
        value = None if panels is None else one.member.axes.get(panels)
        found.setdefault("" if value is None else f"{panels}: {value}", []).append(one)
    return found


def _assigned(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Give every series a colour and a marker, in order."""
    unique = list(dict.fromkeys(names))
    return {
        name: (_COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]) for place, name in enumerate(unique)
    }


def _draw_panel(
    axes: Axes,
    members: Sequence[Variant],
    quantity: str,
    series: str,
    colours: Mapping[str, tuple[str, str]],
    dense_bits: int,
) -> list[tuple[float, Variant]]:
    """Draw one quantity, and return the points that are shown: places and variants."""
    lines: dict[tuple[str, str], list[tuple[float, Variant]]] = {}
    for one in members:
        place = quantities(one, dense_bits)[quantity]
        if place is not None and not one.is_reference:
            lines.setdefault(_line(one, series), []).append((place, one))
    named: set[str] = set()
    for (group, _), points in lines.items():
        colour, marker = colours[group]
        points.sort(key=lambda point: point[0])
        places = [place for place, _ in points]
        ratios = [one.ratio.value for _, one in points]
        axes.errorbar(
            places,
            ratios,
            yerr=[_below(points), _above(points)],
            xerr=_spread_ms([one for _, one in points]) if quantity == "decode_ms" else None,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.1 if _ordered(points[0][1], series) else 0.0,
            elinewidth=1.1,
            capsize=2.5,
            label=group if group not in named else None,
        )
        named.add(group)
    axes.axhline(1.0, color=_MUTED, linewidth=1.0, linestyle="--", zorder=0)
    for one in members:
        if quantity == "decode_ms" and one.is_reference and one.member.decode_ms is not None:
            axes.axvline(one.member.decode_ms.value, color=_MUTED, linewidth=1.0, linestyle=":", label="dense")
    axes.set_xlabel(_TITLES[quantity].format(dense_bits=dense_bits), color=_INK, fontsize=9)
    axes.set_ylabel("perplexity / dense", color=_INK, fontsize=9)
    if quantity in ("fewer_bytes", "fewer_macs", "layer_bytes", "decode_ms"):
        axes.set_xscale("log")
        _plain(axes.xaxis)
    axes.set_yscale("log")
    _plain(axes.yaxis)
    axes.margins(x=0.09, y=0.1)
    _quiet(axes)
    axes.legend(frameon=False, fontsize=8)
    return [point for points in lines.values() for point in points]


def _line(one: Variant, series: str) -> tuple[str, str]:
    rest = [axis for axis in one.member.axes if axis != series]
    fixed = "/".join(shown(axis, one.member.axes[axis]) for axis in rest[:-1])
    return str(one.member.axes.get(series, "")), fixed


def _ordered(one: Variant, series: str) -> bool:
    """Whether the last axis is of numbers: words have no order that a line could follow."""
    rest = [axis for axis in one.member.axes if axis != series]
    return not rest or not isinstance(one.member.axes[rest[-1]], str)


def _below(points: Sequence[tuple[float, Variant]]) -> list[float]:
    return [0.0 if one.ratio.low is None else max(0.0, one.ratio.value - one.ratio.low) for _, one in points]


def _above(points: Sequence[tuple[float, Variant]]) -> list[float]:
    return [0.0 if one.ratio.high is None else max(0.0, one.ratio.high - one.ratio.value) for _, one in points]


def _spread_ms(variants: Sequence[Variant]) -> list[list[float]]:
    """Return how far the interval of each decode time reaches below and above it."""
    times = [one.member.decode_ms for one in variants if one.member.decode_ms is not None]
    return [
        [time.value - (time.value if time.low is None else time.low) for time in times],
        [(time.value if time.high is None else time.high) - time.value for time in times],
    ]


def _name_points(axes: Axes, points: Sequence[tuple[float, Variant]], series: str) -> None:
    """Name the points beside them, each on the side where its name covers least of other names and points."""
    marks = [
        Bbox.from_extents(*(at - 3), *(at + 3))
        for at in axes.transData.transform([(place, one.ratio.value) for place, one in points])
    ]
    taken: list[Bbox] = []
    for number, (place, one) in enumerate(points):
        rest = [axis for axis in one.member.axes if axis != series]
        if not rest:
            continue
        word = word_of(rest[-1], one.member.axes[rest[-1]])
        others = [*taken, *marks[:number], *marks[number + 1 :]]
        label = axes.annotate(
            word, (place, one.ratio.value), xytext=(0, 0), textcoords="offset points", fontsize=6.5, color=_MUTED
        )
        label.set_in_layout(False)
        best, box = min(
            ((side, _box(label, side)) for side in _SIDES), key=lambda choice: _covered(choice[1], others, axes.bbox)
        )
        _put(label, best)
        taken.append(box)


def _put(label: Annotation, side: tuple[float, float, str, str]) -> None:
    right, up, horizontal, vertical = side
    label.xyann = (right, up)
    label.set(ha=horizontal, va=vertical)


def _box(label: Annotation, side: tuple[float, float, str, str]) -> Bbox:
    _put(label, side)
    return label.get_window_extent()


def _covered(box: Bbox, others: Sequence[Bbox], inside: Bbox) -> float:
    """Return how much of a name lies on other things or outside of the panel, in pixels squared."""
    met = [Bbox.intersection(box, other) for other in others]
    within = Bbox.intersection(box, inside)
    outside = box.width * box.height - (0.0 if within is None else within.width * within.height)
    return outside + sum(0.0 if one is None else one.width * one.height for one in met)


def _draw_published(axes: Axes, variants: Sequence[Variant], rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw ratios to dense, one line a variant: ours with its interval, and every published model."""
    by_name = {one.name: one for one in variants}
    names = [name for name in dict.fromkeys(row["variant"] for row in rows) if not by_name[name].is_reference]
    models = _assigned([row["model"] for row in rows])
    for place, name in enumerate(names):
        ours = by_name[name]
        axes.errorbar(
            [ours.ratio.value],
            [place],
            xerr=[_below([(0, ours)]), _above([(0, ours)])],
            color=_INK,
            marker="o",
            markersize=7,
            capsize=3,
            zorder=3,
            linestyle="none",
            label="ours" if place == 0 else None,
        )
    for model, (colour, marker) in models.items():
        own = [row for row in rows if row["model"] == model and row["variant"] in names]
        axes.plot(
            [row["published_ratio"] for row in own],
            [names.index(row["variant"]) for row in own],
            linestyle="none",
            marker=marker,
            markersize=6,
            markerfacecolor="none",
            color=colour,
            label=model,
        )
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xscale("log")
    _plain(axes.xaxis)
    axes.axvline(1.0, color=_MUTED, linewidth=1.0, linestyle="--", zorder=0)
    axes.set_xlabel("perplexity / dense, ours beside published (other models, other text)", color=_INK, fontsize=9)
    _quiet(axes)
    axes.legend(frameon=False, fontsize=7.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _plain(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers, more of them where its range is small."""
    low, high = axis.get_view_interval()
    if high / low < 4:
        from matplotlib.ticker import MaxNLocator

        axis.set_major_locator(MaxNLocator(nbins=6))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,), numticks=14))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format(value, ".6g")))
    axis.set_minor_formatter(NullFormatter())


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_MUTED, labelsize=8, labelcolor=_INK)
    axes.grid(visible=True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
