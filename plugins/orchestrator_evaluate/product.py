"""The product of factors along a ladder: what each technique buys, jointly and alone, and what does not count.

A ladder is an ordered list of changes to the baseline's coordinates. Each rung is a real variant: the baseline with all
counted changes so far and this one. Its factor is cost(last counted rung) / cost(this rung), so the product of the counted
factors is cost(baseline) / cost(last counted rung) by construction. A rung that does not count is not carried on, so taking
it off the ladder changes nothing else. The two scopes walk the ladder separately and never meet in a factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orchestrator_evaluate.amounts import HEARSAY, Amount, weakest
from orchestrator_evaluate.bootstrap import quantile, resample
from orchestrator_evaluate.columns import UNITS
from orchestrator_evaluate.ledger import Variant
from orchestrator_evaluate.members import written
from orchestrator_evaluate.pricing import solved_ratio
from orchestrator_evaluate.selection import Change, baseline_of, find, refuse_unknown_axes

COSTS = ("usd_per_solved_at_volume", "usd_per_solved", "usd_per_attempt", "usd_per_mtok_out", "train_usd")


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One step of a ladder in one scope; ``state`` is ``baseline``, ``counted``, ``excluded`` or ``idle`` (acts elsewhere)."""

    change: Change
    variant: Variant
    state: str
    reason: str = ""
    before: float | None = None
    cost: float | None = None
    factor: float | None = None
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
    origin: dict[str, Any] = {**baseline, **start.axes}
    current, everything, last, cumulative = origin, origin, start, 1.0
    first = start.figure(metric)
    rungs = [Rung(change={}, variant=start, state="baseline", cost=first.value, basis=first.basis)]
    acting = {axis for variant in variants if variant.scope == scope for axis in variant.axes}
    for change in ladder:
        refuse_unknown_axes(variants, change)
        everything = {**everything, **change}
        if acting.isdisjoint(change):
            rungs.append(_idle(change, last, metric, cumulative))
            continue
        here = _try_find(variants, scope, {**current, **change}, change)
        alone = _try_find(variants, scope, {**origin, **change}, change)
        # A change can need another one that did not count (bits need a compressed model): shown as it would stand with it.
        rung = (
            _judged(change, last, here, metric)
            if here is not None
            else _dependent(change, last, find(variants, scope, everything, change), metric)
        )
        low, high = factor_interval((last, rung.variant), metric, volume, seed) if rung.factor else (None, None)
        if rung.state == "counted":
            assert rung.factor is not None
            cumulative *= rung.factor
            current, last = {**current, **change}, rung.variant
        by_itself = None if alone is None else _ratio(start, alone, metric)
        rungs.append(replace(rung, cumulative=cumulative, alone=by_itself, low=low, high=high))
    return _product(scope, metric, rungs)


def _try_find(variants: Sequence[Variant], scope: str, wanted: Change, change: Change) -> Variant | None:
    """Return the variant with these coordinates, None where there is none."""
    try:
        return find(variants, scope, wanted, change)
    except ValueError:
        return None


def _measured_against(change: Change, last: Variant, here: Variant, metric: str) -> Rung:
    """Return a rung with its costs and factor, not yet judged."""
    before, cost = last.figure(metric), here.figure(metric)
    return Rung(
        change=change,
        variant=here,
        state="counted",
        before=before.value,
        cost=cost.value,
        factor=_ratio(last, here, metric),
        basis=weakest(before.basis, cost.basis),
    )


def _idle(change: Change, last: Variant, metric: str, cumulative: float) -> Rung:
    """Return the rung of a change that acts in the other scope only."""
    rung = _measured_against(change, last, last, metric)
    return replace(
        rung, state="idle", reason="does not act in this scope", factor=1.0, alone=1.0, cumulative=cumulative
    )


def _dependent(change: Change, last: Variant, here: Variant, metric: str) -> Rung:
    """Return the rung of a change that exists only together with one that did not count."""
    rung = _measured_against(change, last, here, metric)
    return replace(rung, state="excluded", reason="exists only with a rung that is excluded")


def _judged(change: Change, last: Variant, here: Variant, metric: str) -> Rung:
    """Judge one rung against the last counted one: it counts unless its cost or its quality speaks against it."""
    rung = _measured_against(change, last, here, metric)
    if rung.factor is None:
        nothing = here.solved_cost is not None and here.solved_cost.value is None
        unknown = "the rung before has no finite cost" if rung.cost is not None else f"{metric} is not available"
        reason = "nothing solved: the cost is only bounded" if nothing else unknown
    elif not here.matched:
        reason = f"quality may be inferior (paired lower bound {here.figure('delta_low').value:+.3f})"
    elif rung.basis in HEARSAY:
        reason = f"the cost is {rung.basis}, not modelled from a timed kernel"
    else:
        return rung
    return replace(rung, state="excluded", reason=reason)


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
