"""The ledger's pictures: quality against cost, the product as a waterfall, and the topologies side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator_evaluate.columns import UNITS
from orchestrator_evaluate.ledger import Variant
from orchestrator_evaluate.members import written
from orchestrator_evaluate.product import Product
from orchestrator_evaluate.style import (
    COSTLY,
    GOOD,
    INK,
    MARKERS,
    MUTED,
    NEUTRAL,
    REFUSED,
    SERIES,
    drawing,
    note,
    plain_log,
)

TITLES = {"here": "measured here", "target": "modelled at"}


def pareto(variants: Sequence[Variant], metric: str = "usd_per_solved") -> Any:
    """Draw accuracy (Wilson interval) over cost (bootstrap interval), a panel per scope, with the Pareto front.

    Colour is the first axis of the quality members, the marker the second. Points without a finite cost are named below.
    """
    scopes = [scope for scope in ("here", "target") if any(one.scope == scope for one in variants)]
    styles = _styles(variants)
    with drawing(4.3 * len(scopes) + 1.3, 3.7) as figure:
        panels = figure.subplots(1, len(scopes), sharey=True, squeeze=False)[0]
        for panel, scope in zip(panels, scopes, strict=True):
            shown = _one_per_quality(variants, scope)
            priced = [one for one in shown if one.figure(metric).value]
            scale, unit = _scale(max((one.known(metric) for one in priced), default=1.0), UNITS[metric])
            _pareto_panel(panel, priced, styles, metric, scale)
            title = TITLES[scope] + (f" {shown[0].hardware}" if scope == "target" else "")
            panel.set_title(title)
            missing = [_short(one.quality.axes, one.quality.label) for one in shown if not one.figure(metric).value]
            if missing:
                named = "; ".join(missing) if len(missing) < 3 else f"{len(missing)} variants"
                panel.text(0.02, 0.02, f"no finite cost: {named}", transform=panel.transAxes, fontsize=7.5, color=MUTED)
            panel.set_xlabel(unit)
        panels[0].set_ylabel("accuracy on held-out problems")
        figure.legend(handles=_legend(variants, styles), loc="outside right center")
        note(figure, "bars: 95 % intervals over problems; line: Pareto front; hollow: cost rests on an assumption")
    return figure


def _one_per_quality(variants: Sequence[Variant], scope: str) -> list[Variant]:
    """Return one variant a quality member: what serving costs does not depend on how training was networked."""
    seen: dict[str, Variant] = {}
    for variant in variants:
        if variant.scope == scope:
            seen.setdefault(variant.quality.label, variant)
    return list(seen.values())


def _pareto_panel(
    panel: Any, shown: Sequence[Variant], styles: dict[str, tuple[str, str]], metric: str, scale: float
) -> None:
    panel.grid(visible=True)
    panel.set_xscale("log")
    for variant in shown:
        colour, marker = styles[variant.quality.label]
        x, y = variant.known(metric) * scale, variant.known("value")
        low, high = variant.known("low"), variant.known("high")
        left, right = variant.figure(f"{metric}_low").value, variant.figure(f"{metric}_high").value
        across = (
            None if left is None or right is None else [[max(0.0, x - left * scale)], [max(0.0, right * scale - x)]]
        )
        hollow = variant.figure(metric).basis == "assumed"
        panel.errorbar(
            x,
            y,
            yerr=[[y - low], [high - y]],
            xerr=across,
            fmt=marker,
            markersize=6.5,
            color=colour,
            elinewidth=1.1,
            markerfacecolor="white" if hollow else colour,
            markeredgecolor=colour,
            markeredgewidth=1.4,
            alpha=0.95,
            zorder=3,
        )
    front = _front([(one.known(metric) * scale, one.known("value")) for one in shown])
    if len(front) > 1:
        panel.step(*zip(*front, strict=True), where="post", color=INK, linewidth=1.0, alpha=0.45, zorder=2)
    if shown:
        panel.autoscale_view()
        plain_log(panel.xaxis)


def _front(points: Sequence[tuple[Any, Any]]) -> list[tuple[float, float]]:
    """Return the points that no cheaper point reaches, from cheap to dear."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def _styles(variants: Sequence[Variant]) -> dict[str, tuple[str, str]]:
    """Give each quality member a colour by its first axis and a marker by its others."""
    colours: dict[Any, str] = {}
    markers: dict[str, str] = {}
    styles = {}
    for variant in variants:
        first, rest = _split(variant)
        colour = colours.setdefault(first, SERIES[len(colours) % len(SERIES)])
        styles[variant.quality.label] = (colour, markers.setdefault(rest, MARKERS[len(markers) % len(MARKERS)]))
    return styles


def _split(variant: Variant) -> tuple[str, str]:
    """Return the member's first coordinate and the others, as text."""
    axes = list(variant.quality.axes.items())
    if not axes:
        return variant.quality.label, ""
    return str(axes[0][1]), ", ".join(f"{axis} {value}" for axis, value in axes[1:])


def _short(axes: dict[str, Any], label: str) -> str:
    """Write coordinates for a figure: ``gptq4, samples 8``."""
    parts = [f"{axis} {value}" if isinstance(value, (int, float)) else str(value) for axis, value in axes.items()]
    return ", ".join(parts) or label


def _legend(variants: Sequence[Variant], styles: dict[str, tuple[str, str]]) -> list[Any]:
    from matplotlib.lines import Line2D

    colours: dict[str, str] = {}
    markers: dict[str, str] = {}
    for variant in variants:
        first, rest = _split(variant)
        colours[first], markers[rest] = styles[variant.quality.label]
    handles = [Line2D([], [], color=colour, linewidth=4, label=name) for name, colour in colours.items()]
    if len(markers) > 1:
        handles += [
            Line2D([], [], color=MUTED, marker=marker, linestyle="", label=name) for name, marker in markers.items()
        ]
    return handles


def waterfall(products: Sequence[Product]) -> Any:
    """Draw each product as bars of the cost along its ladder; excluded rungs are hatched and do not carry on."""
    rungs = max(len(product.rungs) for product in products)
    with drawing(max(4.6, 1.15 * rungs + 1.6) * len(products), 3.8) as figure:
        panels = figure.subplots(1, len(products), squeeze=False)[0]
        for panel, product in zip(panels, products, strict=True):
            _waterfall_panel(panel, product)
        note(
            figure,
            f"{products[0].metric.replace('_', ' ').replace('usd', 'USD')}; a factor is the cost of the last counted rung over "
            "this one's; orange: dearer; hatched: excluded; intervals: 95 % over problems",
        )
    return figure


def _waterfall_panel(panel: Any, product: Product) -> None:
    costs = [rung.cost for rung in product.rungs if rung.cost]
    scale, unit = _scale(max(costs) if costs else 1.0, UNITS[product.metric])
    top = max(costs) * scale if costs else 1.0
    for position, rung in enumerate(product.rungs):
        if not rung.cost:
            panel.text(
                position,
                0.02 * top,
                "unbounded" if rung.state == "excluded" else "none",
                ha="center",
                color=MUTED,
                fontsize=7.5,
            )
            continue
        height = rung.cost * scale
        excluded = rung.state == "excluded"
        colour = {"baseline": NEUTRAL, "counted": GOOD, "idle": REFUSED, "excluded": "white"}[rung.state]
        colour = COSTLY if rung.state == "counted" and (rung.factor or 1.0) < 1 else colour
        panel.bar(
            position,
            height,
            width=0.62,
            color=colour,
            edgecolor=MUTED if excluded else colour,
            hatch="////" if excluded else None,
        )
        if rung.before and not excluded and position:
            panel.plot(
                [position - 1.31 + 0.62, position - 0.31],
                [rung.before * scale] * 2,
                color=MUTED,
                linewidth=0.8,
                linestyle=":",
            )
        panel.text(
            position,
            height + 0.02 * top,
            _factor_text(rung),
            ha="center",
            va="bottom",
            fontsize=8,
            color=MUTED if excluded else INK,
        )
    panel.set_xticks(range(len(product.rungs)), [_rung_label(rung) for rung in product.rungs])
    panel.set_ylim(0, top * 1.28)
    panel.grid(visible=True, axis="y")
    panel.tick_params(axis="x", length=0)
    panel.set_ylabel(unit)
    where = TITLES[product.scope] + (f" {product.rungs[0].variant.hardware}" if product.scope == "target" else "")
    left_out = any(rung.state == "excluded" and rung.factor for rung in product.rungs)
    panel.set_title(f"{where}: {product.value:.3g} x" + (f" (excluded: {product.excluded:.3g} x)" if left_out else ""))


def _factor_text(rung: Any) -> str:
    """Write a rung's factor with its interval."""
    if rung.state == "baseline":
        return "baseline"
    if rung.state == "idle":
        return "no effect\nin this scope"
    interval = "" if rung.low is None or rung.high is None else f"\n[{rung.low:.3g}, {rung.high:.3g}]"
    return f"{rung.factor:.3g} x{interval}"


def _rung_label(rung: Any) -> str:
    if rung.state == "baseline":
        return _short(rung.variant.axes, rung.variant.quality.label).replace(", ", "\n")
    label = "\n".join(f"{axis} {value}" for axis, value in rung.change.items())
    return f"{label}\n(excluded)" if rung.state == "excluded" else label


def _scale(largest: float, unit: str) -> tuple[float, str]:
    """Return a factor that brings costs near 1, and how to write the unit then."""
    for scale, how_many in ((1.0, ""), (1e3, "1,000 "), (1e6, "million "), (1e9, "billion ")):
        if largest * scale >= 1:
            return scale, unit.replace("/", f" per {how_many}") + (
                f" (x {scale:g})" if "/" not in unit and scale > 1 else ""
            )
    return 1e12, unit.replace("/", " per trillion ")


def topologies(variants: Sequence[Variant]) -> Any:
    """Draw what training costs on each network: step time split into compute and network, and USD beside it."""
    rows = _one_per_training(variants)
    names = [_short(one.training.axes, one.training.label) for one in rows if one.training is not None]
    with drawing(8.6, 0.5 * len(rows) + 1.7) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.25, 1])
        positions = range(len(rows))
        totals = [(one.figure("step_s").value or 0.0) * 1e3 for one in rows]
        exposed = [
            total * (one.figure("network_time_share").value or 0.0) for total, one in zip(totals, rows, strict=True)
        ]
        ideal = [total - hidden for total, hidden in zip(totals, exposed, strict=True)]
        left.barh(positions, ideal, height=0.55, color=NEUTRAL, label="without network cost")
        left.barh(positions, exposed, left=ideal, height=0.55, color=SERIES[1], label="added by the network")
        for position, (whole, part) in enumerate(zip(totals, exposed, strict=True)):
            share = part / whole if whole else 0.0
            left.text(whole, position, f" {share:.1%} network", va="center", fontsize=8)
        dollars = [one.figure("train_usd").value or 0.0 for one in rows]
        right.barh(positions, dollars, height=0.55, color=GOOD)
        for position, value in enumerate(dollars):
            right.text(value, position, f" {value:,.4g} USD", va="center", fontsize=8)
        left.set_yticks(positions, names)
        left.invert_yaxis()
        for panel, largest in ((left, max(totals)), (right, max(dollars))):
            panel.grid(visible=True, axis="x")
            panel.tick_params(axis="y", length=0)
            panel.set_xlim(0, (largest or 1.0) * 1.35)
        left.set_xlabel("simulated step (ms)")
        right.set_xlabel("training (USD)")
        left.set_title("step time")
        right.set_title("training bill")
        figure.legend(loc="outside upper right", ncols=2)
        note(figure, f"modelled at {rows[0].hardware}; rent includes the network, so a topology acts through time only")
    return figure


def _one_per_training(variants: Sequence[Variant]) -> list[Variant]:
    """Return one variant a simulated step."""
    seen: dict[str, Variant] = {}
    for variant in variants:
        if variant.training is not None:
            seen.setdefault(variant.training.label + written(variant.training.axes), variant)
    return list(seen.values())
