"""The product of factors along a ladder: what each technique buys, jointly and alone, and what does not count.

A ladder is an ordered list of changes to the baseline's coordinates. Each rung is a real variant: the baseline with all
counted changes so far and this one. Its factor is cost(last counted rung) / cost(this rung), so the product of the counted
factors is cost(baseline) / cost(last counted rung) by construction. A rung that does not count is not carried on, so taking
it off the ladder changes nothing else. The two scopes walk the ladder separately and never meet in a factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orchestrator_evaluate.amounts import HEARSAY, Amount, weakest
from orchestrator_evaluate.bootstrap import quantile, resample
from orchestrator_evaluate.columns import UNITS
from orchestrator_evaluate.ledger import Variant
from orchestrator_evaluate.members import written
from orchestrator_evaluate.pricing import solved_ratio

Change = Mapping[str, Any]
COSTS = ("usd_per_solved_at_volume", "usd_per_solved", "usd_per_attempt", "usd_per_mtok_out", "train_usd")


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One step of a ladder in one scope; ``state`` is ``baseline``, ``counted``, ``excluded`` or ``idle`` (acts elsewhere)."""

    change: Change
    variant: Variant
    state: str
    reason: str
    before: float | None
    cost: float | None
    factor: float | None
    low: float | None = None
    high: float | None = None
    cumulative: float = 1.0
    alone: float | None = None
    basis: str | None = None


@dataclass(frozen=True, kw_only=True)
class Product:
    """A walked ladder: ``value`` is the product of the counted factors, ``excluded`` that of the excluded ones."""

    scope: str
    metric: str
    rungs: tuple[Rung, ...]
    value: float
    excluded: float
    interaction: float | None

    @property
    def counted(self) -> tuple[Rung, ...]:
        """The rungs whose factors entered the product."""
        return tuple(rung for rung in self.rungs if rung.state == "counted")

    @property
    def final(self) -> Variant:
        """The variant that the counted changes lead to."""
        return self.counted[-1].variant if self.counted else self.rungs[0].variant


def baseline_of(variants: Sequence[Variant], scope: str, chosen: Change) -> Variant:
    """Return the first variant of a scope that agrees with the chosen coordinates; axes left out take the first value.

    Raises:
        ValueError: no variant agrees; lists those that there are.
    """
    mine = [variant for variant in variants if variant.scope == scope]
    relevant = {axis: value for axis, value in chosen.items() if any(axis in variant.axes for variant in mine)}
    _refuse_unknown_axes(variants, chosen)
    for variant in mine:
        if all(variant.axes.get(axis) == value for axis, value in relevant.items()):
            return variant
    raise ValueError(f"no variant of scope {scope} is {written(chosen)}; there are {_names(mine)}")


def find(variants: Sequence[Variant], scope: str, wanted: Change, changed: Change) -> Variant:
    """Return the variant with the wanted coordinates.

    A member of a ragged family lacks some axes (an uncompressed model has no bits): it agrees if all axes it has agree and
    it has those that were just changed. A change to ``null`` takes an axis away.

    Raises:
        ValueError: none or several agree.
    """
    mine = [variant for variant in variants if variant.scope == scope]
    present = {axis: value for axis, value in wanted.items() if value is not None}
    needed = {axis for axis, value in changed.items() if value is not None and any(axis in one.axes for one in mine)}
    agreeing = [
        variant
        for variant in mine
        if all(axis in present and present[axis] == value for axis, value in variant.axes.items())
        and needed <= variant.axes.keys()
    ]
    widest = max((len(variant.axes) for variant in agreeing), default=0)
    agreeing = [variant for variant in agreeing if len(variant.axes) == widest]
    if len(agreeing) != 1:
        found = f"{len(agreeing)} variants are" if agreeing else "no variant is"
        raise ValueError(f"{found} {written(present)} in scope {scope}; there are {_names(mine)}")
    return agreeing[0]


def _refuse_unknown_axes(variants: Sequence[Variant], change: Change) -> None:
    axes = {axis for variant in variants for axis in variant.axes}
    for axis in change:
        if axis not in axes:
            raise ValueError(
                f"axis {axis!r} of baseline or ladder is not an axis of any variant: {', '.join(sorted(axes)) or 'none'}"
            )


def _names(variants: Sequence[Variant]) -> str:
    shown = [variant.name for variant in variants[:8]]
    return ", ".join(shown) + (f", ... ({len(variants)} in all)" if len(variants) > 8 else "")


def walk(
    variants: Sequence[Variant],
    scope: str,
    baseline: Change,
    ladder: Sequence[Change],
    *,
    metric: str = COSTS[0],
    volume: float = math.inf,
    seed: int = 0,
) -> Product:
    """Walk a ladder in one scope.

    Args:
        variants: compared variants (``matched`` is set).
        scope: ``here`` or ``target``.
        baseline: coordinates of the baseline; axes left out take the first variant's value.
        ladder: changes in order, each a mapping from axis to value.
        metric: the cost column; lower is better.
        volume: the volume at which one-off costs are spread, for the intervals of the at-volume metric.
        seed: of the bootstrap that gives each factor its interval.

    Raises:
        ValueError: the metric is none of :data:`COSTS`, or a rung names no single variant.
    """
    if metric not in COSTS:
        raise ValueError(f"cost metric {metric!r} is not one of {', '.join(COSTS)}")
    start = baseline_of(variants, scope, baseline)
    current: dict[str, Any] = {**baseline, **start.axes}
    last, cumulative = start, 1.0
    rungs = [
        Rung(
            change={},
            variant=start,
            state="baseline",
            reason="",
            before=None,
            cost=start.figure(metric).value,
            factor=None,
            basis=start.figure(metric).basis,
        )
    ]
    for change in ladder:
        _refuse_unknown_axes(variants, change)
        idle = not any(axis in variant.axes for variant in variants if variant.scope == scope for axis in change)
        here = last if idle else find(variants, scope, {**current, **change}, change)
        alone = start if idle else find(variants, scope, {**baseline, **start.axes, **change}, change)
        rung = _rung(change, last, here, metric, idle=idle)
        if rung.state == "counted":
            assert rung.factor is not None
            cumulative *= rung.factor
            current, last = {**current, **change}, here
        low, high = (
            (None, None)
            if idle or rung.factor is None
            else factor_interval(rung_pair(rungs, rung), metric, volume, seed)
        )
        rungs.append(replace(rung, cumulative=cumulative, alone=_ratio(start, alone, metric), low=low, high=high))
    return _product(scope, metric, rungs)


def rung_pair(done: Sequence[Rung], rung: Rung) -> tuple[Variant, Variant]:
    """Return the variants whose costs make a rung's factor: the last counted one and its own."""
    before = next(one.variant for one in reversed(done) if one.state in {"baseline", "counted"})
    return before, rung.variant


def _rung(change: Change, last: Variant, here: Variant, metric: str, *, idle: bool) -> Rung:
    """Judge one rung against the last counted one."""
    before, cost = last.figure(metric), here.figure(metric)
    factor = _ratio(last, here, metric)
    basis = weakest(before.basis, cost.basis)
    common = {"change": change, "variant": here, "before": before.value, "cost": cost.value, "basis": basis}
    if idle:
        return Rung(state="idle", reason="does not act in this scope", factor=1.0, **common)
    if factor is None:
        nothing = here.solved_cost is not None and here.solved_cost.value is None
        reason = "nothing solved: the cost is only bounded" if nothing else f"{metric} is not available"
        return Rung(state="excluded", reason=reason, factor=None, **common)
    if not here.matched:
        delta = here.figure("delta_low").value
        return Rung(
            state="excluded",
            reason=f"quality may be inferior (paired lower bound {delta:+.3f})",
            factor=factor,
            **common,
        )
    if basis in HEARSAY:
        return Rung(
            state="excluded", reason=f"the cost is {basis}, not modelled from a timed kernel", factor=factor, **common
        )
    return Rung(state="counted", reason="", factor=factor, **common)


def _ratio(before: Variant, after: Variant, metric: str) -> float | None:
    """Return cost(before) / cost(after), None where either is not available."""
    first, second = before.figure(metric).value, after.figure(metric).value
    return None if first is None or not second else first / second


def factor_interval(
    pair: tuple[Variant, Variant], metric: str, volume: float, seed: int
) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a factor from resampling problems, the same ones on both sides.

    Only costs per solved problem vary with the problems; the ends are None for others and where they are unbounded.
    """
    if metric not in {"usd_per_solved", "usd_per_solved_at_volume"}:
        return None, None
    ratios = [solved_ratio(one.attempt_usd, one.quality.solved) for one in pair]
    fixed = [one.fixed_usd / volume if metric == "usd_per_solved_at_volume" else 0.0 for one in pair]

    def factor(indices: Any) -> Any:
        first, second = (ratio(indices) + share for ratio, share in zip(ratios, fixed, strict=True))
        both = np.isinf(first) & np.isinf(second)
        return np.divide(first, second, out=np.ones(len(indices)), where=~both)

    values = resample(factor, len(pair[0].quality.problem_ids), seed=seed)
    low, high = quantile(values, 0.025), quantile(values, 0.975)
    return low, high if math.isfinite(high) else None


def _product(scope: str, metric: str, rungs: Sequence[Rung]) -> Product:
    counted = [rung for rung in rungs if rung.state == "counted"]
    alone = [rung.alone for rung in counted]
    value = math.prod(rung.factor for rung in counted if rung.factor is not None)
    known = [one for one in alone if one is not None]
    interaction = value / math.prod(known) if counted and len(known) == len(alone) else None
    excluded = math.prod(rung.factor for rung in rungs if rung.state == "excluded" and rung.factor is not None)
    return Product(
        scope=scope, metric=metric, rungs=tuple(rungs), value=value, excluded=excluded, interaction=interaction
    )


def product_rows(product: Product) -> list[dict[str, Any]]:
    """Return a product as rows of the published schema."""
    made = []
    running = product.rungs[0].basis
    for number, rung in enumerate(product.rungs):
        running = weakest(running, rung.basis) if rung.state == "counted" else running
        delta_basis = "measured" if rung.variant.figure("paired_delta").value is not None else None
        amounts = {
            "cost_before": Amount(rung.before, rung.basis),
            "cost": Amount(rung.cost, rung.basis),
            "factor": Amount(rung.factor, rung.basis),
            "factor_low": Amount(rung.low, rung.basis),
            "factor_high": Amount(rung.high, rung.basis),
            "cumulative": Amount(rung.cumulative, running),
            "alone": Amount(rung.alone, rung.basis),
            **{
                name: Amount(rung.variant.figure(name).value, delta_basis)
                for name in ("paired_delta", "delta_low", "delta_high")
            },
        }
        row: dict[str, Any] = {
            "scope": product.scope,
            "hardware": rung.variant.hardware,
            "rung": number,
            "change": written(rung.change) or "baseline",
            "variant": rung.variant.name,
            "cost_metric": product.metric,
            "unit": UNITS[product.metric],
            "state": rung.state,
            "reason": rung.reason,
            "matched": rung.variant.matched,
        }
        for name, amount in amounts.items():
            row[name] = amount.value
            row[f"{name}_basis"] = None if amount.value is None else amount.basis
        made.append(row)
    return made
