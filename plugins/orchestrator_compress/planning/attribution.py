"""Where the error of a plan sits and what changing one choice would buy, and how predictions compare with measurements."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import PlanningError
from .plan import Choice, Plan, problem
from .terms import Group

if TYPE_CHECKING:
    import pyarrow as pa

_MEGABYTE = 1e6


def suggest(plan: Plan, curves: pa.Table) -> pa.Table:
    """Return what one step up and one step down costs in bytes and buys in objective, for each layer or tied group.

    A step goes to the candidate that changes the objective most per byte (up) or least per byte (down), within the
    plan's constraints. Steps up come first, those that buy most per byte at the top, then steps down, the cheapest
    per byte at the top. `objective_change` is weighted; `relative_change` is its share of the plan's objective.
    Raises PlanningError for curves that are not the plan's.
    """
    import pyarrow as pa

    asked = problem(curves, plan.terms)
    choices = plan.choices
    if set(asked.curves.points) != set(choices):
        raise PlanningError("the curves are of other layers than the plan; give those that it was chosen from")
    steps = [step for group in asked.groups for step in _steps(group, plan)]
    steps.sort(key=lambda step: (step["direction"] != "up", step["objective_change"] / abs(step["bytes_change"])))
    text, integer, number = pa.string(), pa.int64(), pa.float64()
    schema = {
        "layer": text,
        "direction": text,
        "current": text,
        "suggested": text,
        "bytes_change": integer,
        "objective_change": number,
        "relative_change": number,
        "suggestion": text,
    }
    return pa.Table.from_pylist(steps, schema=pa.schema(list(schema.items())))


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Hold predicted and measured objectives of layers, their sums, and how well their order agrees.

    `layers` has a row a layer: predicted, measured, ratio (null where nothing was predicted), the greatest ratios first.
    `rank_correlation` is Spearman's over layers, NaN where all are equal.
    """

    layers: pa.Table
    predicted: float
    measured: float
    rank_correlation: float

    @property
    def ratio(self) -> float:
        """Return measured over predicted, infinity where nothing was predicted and something measured."""
        if self.predicted > 0:
            return self.measured / self.predicted
        return math.inf if self.measured > 0 else 1.0


def compare(plan: Plan, measured_objectives: Mapping[str, float]) -> Comparison:
    """Return how objectives measured on the executed plan compare with those that it was chosen by.

    Predictions are errors on inputs of the dense model. Measured on the compressed model, a layer's error also holds
    what changed inputs do to it, and the solver has compensated for those inputs: ratios above 1 that grow with depth
    are the sign of that. Raises PlanningError for layers that were not measured or are not in the plan.
    """
    return compare_choices(plan.layers, measured_objectives)


def compare_choices(choices: Sequence[Choice], measured_objectives: Mapping[str, float]) -> Comparison:
    """Return the same for choices that were read from the table of a plan."""
    import pyarrow as pa
    from scipy.stats import rankdata

    names = [choice.layer for choice in choices]
    missing, unknown = sorted(set(names) - set(measured_objectives)), sorted(set(measured_objectives) - set(names))
    if missing or unknown:
        raise PlanningError(
            f"measured objectives lack {missing} and have {unknown} that the plan does not; give one a layer"
        )
    predicted = [choice.objective for choice in choices]
    measured = [float(measured_objectives[name]) for name in names]
    if not all(map(math.isfinite, measured)):
        raise PlanningError("measured objectives are not all finite numbers")
    ratios = [found / said if said > 0 else None for said, found in zip(predicted, measured, strict=True)]
    order = sorted(range(len(names)), key=lambda place: -(ratios[place] or 0.0))
    ranks = [rankdata(values) for values in (predicted, measured)]
    spread = all(np.ptp(one) > 0 for one in ranks)
    schema = pa.schema(
        [
            ("layer", pa.string()),
            ("candidate", pa.string()),
            *((name, pa.float64()) for name in ("predicted", "measured", "ratio")),
        ]
    )
    rows = [
        {
            "layer": names[place],
            "candidate": choices[place].candidate.name,
            "predicted": predicted[place],
            "measured": measured[place],
            "ratio": ratios[place],
        }
        for place in order
    ]
    return Comparison(
        layers=pa.Table.from_pylist(rows, schema=schema),
        predicted=math.fsum(choice.factor * value for choice, value in zip(choices, predicted, strict=True)),
        measured=math.fsum(choice.factor * value for choice, value in zip(choices, measured, strict=True)),
        rank_correlation=float(np.corrcoef(*ranks)[0, 1]) if spread else math.nan,
    )


def _steps(group: Group, plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield the best step up and the best step down of a group, where there are any."""
    now = plan.choices[group.layers[0]]
    if now not in group.candidates:
        raise PlanningError(
            f"{group.layers[0]} has {now} in the plan and not in the curves; give those it was chosen from"
        )
    place = group.candidates.index(now)
    sizes, costs = group.sizes - group.sizes[place], group.costs - group.costs[place]
    for direction, possible in (("up", (sizes > 0) & (costs < 0)), ("down", sizes < 0)):
        steps = np.flatnonzero(possible)
        if len(steps):
            # The change of cost per byte: most negative going up, least positive coming down.
            best = int(steps[np.argmin(costs[steps] / np.abs(sizes[steps]))])
            size, cost = int(sizes[best]), float(costs[best])
            share = cost / plan.objective if plan.objective > 0 else math.nan
            yield {
                "layer": ", ".join(group.layers),
                "direction": direction,
                "current": now.name,
                "suggested": group.candidates[best].name,
                "bytes_change": size,
                "objective_change": cost,
                "relative_change": share,
                "suggestion": _sentence(group, now.name, group.candidates[best].name, size, share),
            }


def _sentence(group: Group, now: str, then: str, size: int, share: float) -> str:
    name = group.layers[0] + (f" and {len(group.layers) - 1} tied layers" if len(group.layers) > 1 else "")
    return f"{name}: {now} to {then}: {size / _MEGABYTE:+.3g} MB, {100 * share:+.2g} % of the objective"
