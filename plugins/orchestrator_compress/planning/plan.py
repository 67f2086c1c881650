"""One candidate for each layer, the best within a budget of bytes, with a bound on how far it is from any other.

The objective is the sum over layers of factor times squared output error, which a choice for one layer changes by its
own term alone (a multiple-choice knapsack). It is solved exactly; the convex relaxation, which shares no code with
the dynamic programs beyond the Pareto fronts, stands beside it as a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .candidates import Candidate
from .errors import PlanningError
from .knapsack import CellProgram, common_unit, cost_of, exact, size_of
from .relaxation import Items, Relaxation, pareto
from .terms import FREE, Curves, Group, Terms, groups, read_curves

if TYPE_CHECKING:
    import pyarrow as pa

# States of one list: 24 candidates each are sorted in a second or so.
_MOST_STATES = 200_000
# Cells of an approximate program, and cells times choices of an exact one, which take seconds.
CELLS = 65_536
_MOST_CELL_STEPS = 2**31
_MOST_CELL_BYTES = 2**29


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Hold what a plan says of one layer [rows, columns]: its objective is the bare one, `factor` weighs it."""

    layer: str
    candidate: Candidate
    rows: int
    columns: int
    bytes: int
    objective: float
    factor: float

    @property
    def bits_per_weight(self) -> float:
        """Return the stored bits per weight, everything included."""
        return 8 * self.bytes / (self.rows * self.columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Hold a choice for each layer, the weighted sum of objectives, and what was asked.

    `lower_bound` is that of the convex relaxation: no choice within the budget has a lower objective. `exact` says
    that none is better than this one (to one part in 10^12); otherwise sizes were rounded to
    `resolution_bytes`, and none that leaves `groups x resolution_bytes` of the budget free is better.
    """

    layers: tuple[Choice, ...]
    objective: float
    lower_bound: float
    budget: int
    exact: bool
    resolution_bytes: int
    terms: Terms

    @property
    def choices(self) -> dict[str, Candidate]:
        """Return the candidate of each layer."""
        return {choice.layer: choice.candidate for choice in self.layers}

    @property
    def bytes(self) -> int:
        """Return the bytes of all layers."""
        return sum(choice.bytes for choice in self.layers)

    @property
    def gap(self) -> float:
        """Return how far the objective is above the lower bound, relative to it, at most what a better plan could save."""
        return (self.objective - self.lower_bound) / self.objective if self.objective > 0 else 0.0

    @property
    def bits_per_weight(self) -> float:
        """Return the stored bits per weight of all layers."""
        return 8 * self.bytes / sum(choice.rows * choice.columns for choice in self.layers)

    def to_table(self, dense: Mapping[str, tuple[int, int, int]] | None = None) -> pa.Table:
        """Return a row a layer with all settings, see `tables`."""
        from .tables import to_table

        return to_table(self, dense)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Hold the groups to choose for, and of each the Pareto front: `fronts` are its places, `items` sizes and costs."""

    curves: Curves
    groups: list[Group]
    fronts: list[np.ndarray]
    items: Items

    @property
    def least_bytes(self) -> int:
        """Return the fewest bytes that the constraints allow."""
        return sum(int(sizes[0]) for sizes, _ in self.items)

    @property
    def most_bytes(self) -> int:
        """Return the bytes above which nothing gets better."""
        return sum(int(sizes[-1]) for sizes, _ in self.items)

    def candidates(self, picks: list[int]) -> list[Candidate]:
        """Return the candidate of each group for its place on the front."""
        return [
            group.candidates[int(front[pick])]
            for group, front, pick in zip(self.groups, self.fronts, picks, strict=True)
        ]


def problem(curves: pa.Table, terms: Terms) -> Problem:
    """Read curves under the terms into groups with Pareto fronts; raises PlanningError as `terms` does."""
    read = read_curves(curves, terms)
    made = groups(read, terms)
    fronts = [pareto(group.sizes, group.costs) for group in made]
    items = [(group.sizes[front], group.costs[front]) for group, front in zip(made, fronts, strict=True)]
    return Problem(curves=read, groups=made, fronts=fronts, items=items)


def choose(
    curves: pa.Table,
    budget_bytes: int,
    terms: Terms = FREE,
    *,
    resolution_bytes: int | None = None,
) -> Plan:
    """Return the plan with the least objective whose layers take at most `budget_bytes`.

    Only layers of the curves count: not embeddings, not norms. Without `resolution_bytes` the plan is exact unless
    that takes too much, see `Plan.exact`; with it, sizes are rounded to so many bytes while plans are compared. Raises PlanningError for
    a budget below the fewest bytes that the constraints allow, which it names.
    """
    asked = problem(curves, terms)
    budget = check_budget(budget_bytes, asked.least_bytes)
    if resolution_bytes is not None and resolution_bytes < 1:
        raise PlanningError(f"resolution_bytes={resolution_bytes}; it is a number of bytes, at least 1")
    picks, proven, resolution = _solve(asked.items, min(budget, asked.most_bytes), resolution_bytes)
    assert size_of(asked.items, picks) <= budget
    return assemble(asked, terms, picks, budget=budget, exact=proven, resolution_bytes=resolution)


def budget_bytes(curves: pa.Table, bits_per_weight: float) -> int:
    """Return the bytes that all layers of the curves have at so many stored bits per weight."""
    return math.floor(read_curves(curves, FREE).weights * bits_per_weight / 8)


def uniform(curves: pa.Table, candidate: Candidate, terms: Terms = FREE) -> Plan:
    """Return the plan that gives every layer the same candidate, with the bound at its bytes; constraints do not apply.

    Raises PlanningError where a layer was not measured at the candidate.
    """
    free = Terms(sensitivity=terms.sensitivity, column=terms.column)
    asked = problem(curves, free)
    lacking = [group.layers[0] for group in asked.groups if candidate not in group.candidates]
    if lacking:
        raise PlanningError(
            f"{lacking[0]} was not measured at {candidate}, {len(lacking)} layers in all; it fits not all of them"
        )
    chosen = [candidate] * len(asked.groups)
    size = sum(asked.curves.points[layer][candidate].bytes for layer in asked.curves.points)
    return _plan(asked, free, chosen, budget=size, exact=False, resolution_bytes=1)


def check_budget(budget: float, least: int) -> int:
    """Return the budget in whole bytes; PlanningError where it is below the least bytes, or no finite number."""
    if not math.isfinite(budget):
        raise PlanningError(f"a budget of {budget} bytes is none; give a number of bytes, at least {least:,}")
    if budget < least:
        raise PlanningError(
            f"a budget of {budget:,} bytes is too small: the least that candidates and constraints allow is {least:,}; "
            "raise it, or measure smaller candidates"
        )
    return int(budget)


def assemble(
    asked: Problem, terms: Terms, picks: list[int], *, budget: int, exact: bool, resolution_bytes: int
) -> Plan:
    """Return the plan of a place on the front of each group."""
    return _plan(asked, terms, asked.candidates(picks), budget=budget, exact=exact, resolution_bytes=resolution_bytes)


def _plan(
    asked: Problem, terms: Terms, chosen: list[Candidate], *, budget: int, exact: bool, resolution_bytes: int
) -> Plan:
    by_layer = {layer: one for group, one in zip(asked.groups, chosen, strict=True) for layer in group.layers}
    layers = []
    for layer, points in asked.curves.points.items():
        point, (rows, columns) = points[by_layer[layer]], asked.curves.shapes[layer]
        factor = asked.curves.factors[layer]
        layers.append(
            Choice(
                layer=layer,
                candidate=point.candidate,
                rows=rows,
                columns=columns,
                bytes=point.bytes,
                objective=point.objective,
                factor=factor,
            )
        )
    objective = math.fsum(choice.factor * choice.objective for choice in layers)
    return Plan(
        layers=tuple(layers),
        objective=objective,
        # Sums in another order may end a rounding above the very same sum.
        lower_bound=min(objective, float(Relaxation(asked.items).bound(budget))),
        budget=budget,
        exact=exact,
        resolution_bytes=resolution_bytes,
        terms=terms,
    )


def _solve(items: Items, capacity: int, resolution: int | None) -> tuple[list[int], bool, int]:
    """Return a choice for each group, whether it is proven the best, and the bytes that sizes were rounded to."""
    unit = common_unit(items)
    if resolution is not None:
        cells = (capacity - size_of(items, [0] * len(items))) // resolution + 1
        if cells * len(items) > _MOST_CELL_BYTES:
            raise PlanningError(
                f"resolution_bytes={resolution} makes {cells:,} cells for each of {len(items)} groups; choose at least "
                f"{-(-resolution * cells * len(items) // _MOST_CELL_BYTES):,}, or none"
            )
        return CellProgram(items, capacity, resolution).picks(capacity), unit % resolution == 0, resolution
    best, proven = exact(items, capacity, _MOST_STATES)
    if proven:
        return best, True, 1
    spare = capacity - size_of(items, [0] * len(items))
    cells, steps = spare // unit + 1, sum(len(sizes) for sizes, _ in items)
    if cells * steps <= _MOST_CELL_STEPS and cells * len(items) <= _MOST_CELL_BYTES:
        return CellProgram(items, capacity, unit).picks(capacity), True, 1
    coarse = unit * max(1, -(-spare // (CELLS * unit)))
    rounded = CellProgram(items, capacity, coarse).picks(capacity)
    return (rounded if cost_of(items, rounded) <= cost_of(items, best) else best), False, coarse
