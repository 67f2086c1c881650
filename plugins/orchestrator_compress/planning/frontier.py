"""What every budget would buy: objective against bytes from one pass, with one candidate for all layers beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .errors import PlanningError
from .knapsack import CellProgram, common_unit, cost_of, size_of
from .plan import CELLS, Problem, check_budget, problem
from .relaxation import Relaxation
from .terms import FREE, Terms, read_curves

if TYPE_CHECKING:
    import pyarrow as pa


def frontier(
    curves: pa.Table,
    points: int | Sequence[int] = 32,
    terms: Terms = FREE,
    *,
    cells: int = CELLS,
) -> pa.Table:
    """Return budget_bytes, bytes, bits_per_weight, objective, lower_bound and exact for a number of budgets, or those given.

    A number of budgets lies evenly between the fewest bytes that the terms allow and those above which nothing gets
    better. One dynamic program over `cells` cells serves them all: exact where cells so fine divide all sizes, otherwise
    sizes are rounded, and `lower_bound` says what that can have cost at most. `choose` is exact for one budget.
    """
    import pyarrow as pa

    asked = problem(curves, terms)
    budgets = _budgets(asked, points)
    capacity = min(max(budgets), asked.most_bytes)
    spare = capacity - asked.least_bytes
    unit = common_unit(asked.items)
    resolution = unit * max(1, -(-spare // (max(1, cells) * unit)))
    program = CellProgram(asked.items, capacity, resolution)
    relaxation = Relaxation(asked.items)
    rows = []
    for budget in budgets:
        picks = program.picks(min(budget, capacity))
        objective, size = cost_of(asked.items, picks), size_of(asked.items, picks)
        rows.append(
            {
                "budget_bytes": budget,
                "bytes": size,
                "bits_per_weight": 8 * size / asked.curves.weights,
                "objective": objective,
                "lower_bound": min(objective, float(relaxation.bound(budget))),
                "exact": resolution == unit,
            }
        )
    return pa.Table.from_pylist(rows)


def uniform_line(curves: pa.Table, terms: Terms = FREE) -> pa.Table:
    """Return candidate, bytes, bits_per_weight and objective of each candidate that every layer was measured at, by bytes.

    The terms say what is summed; their constraints do not apply.
    """
    import pyarrow as pa

    read = read_curves(curves, terms)
    shared = set.intersection(*(set(points) for points in read.points.values()))
    rows = []
    for candidate in shared:
        chosen = {layer: points[candidate] for layer, points in read.points.items()}
        size = sum(point.bytes for point in chosen.values())
        rows.append(
            {
                "candidate": candidate.name,
                "bytes": size,
                "bits_per_weight": 8 * size / read.weights,
                "objective": sum(read.factors[layer] * point.objective for layer, point in chosen.items()),
            }
        )
    rows.sort(key=lambda row: (row["bytes"], row["candidate"]))
    types = [pa.string(), pa.int64(), pa.float64(), pa.float64()]
    names = ["candidate", "bytes", "bits_per_weight", "objective"]
    return pa.Table.from_pylist(rows, schema=pa.schema(list(zip(names, types, strict=True))))


def _budgets(asked: Problem, points: int | Sequence[int]) -> list[int]:
    if isinstance(points, int):
        if points < 1:
            raise PlanningError(f"points={points}; a frontier has at least one budget")
        return [int(budget) for budget in np.linspace(asked.least_bytes, asked.most_bytes, points)]
    if not points:
        raise PlanningError("no budgets are given; a frontier has at least one")
    return [check_budget(budget, asked.least_bytes) for budget in points]
