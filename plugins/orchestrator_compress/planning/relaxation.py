"""One choice from each group within a capacity, fractions allowed: the bound that exact solutions are held against.

Source: Sinha and Zoltners 1979, "The multiple-choice knapsack problem", Operations Research 27(3). A choice that is no
smaller and no cheaper than another never helps; of the rest, only those on the lower convex hull of cost over size
have a share in the relaxed optimum, which takes the steps along all hulls in the order of cost saved per byte until
the capacity is used up. The relaxed optimum is a convex, piecewise linear function of the capacity: one sort gives it for all of
them, and its slope at a capacity is the Lagrange multiplier, the price of a byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Items = Sequence[tuple[np.ndarray, np.ndarray]]


def pareto(sizes: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Return the places of choices that no other beats in size and cost, by rising size and falling cost."""
    order = np.lexsort((costs, sizes))
    least = np.minimum.accumulate(costs[order])
    first: np.ndarray = order[np.concatenate([[True], costs[order][1:] < least[:-1]])]
    return first


def hull(sizes: np.ndarray, costs: np.ndarray) -> list[int]:
    """Return which places of a Pareto front (sizes rising, costs falling) lie on its lower convex hull."""
    kept: list[int] = []
    for place in range(len(sizes)):
        while len(kept) > 1:
            first, middle = kept[-2], kept[-1]
            saved, more = costs[first] - costs[middle], costs[first] - costs[place]
            # Taken out unless the step to `middle` saves more per byte than the step past it.
            if saved * (sizes[place] - sizes[first]) > more * (sizes[middle] - sizes[first]):
                break
            kept.pop()
        kept.append(place)
    return kept


class Relaxation:
    """The steps along the hulls of groups, best first; every group (sizes int64 [K], costs float64 [K]) is a Pareto front."""

    def __init__(self, items: Items):
        hulls = [hull(sizes, costs) for sizes, costs in items]
        self.hulls = hulls
        self.least_size = sum(int(sizes[0]) for sizes, _ in items)
        self._last_costs = np.array([costs[-1] for _, costs in items])
        self._first_sizes = np.array([sizes[0] for sizes, _ in items], dtype=np.int64)
        steps = [np.diff(sizes[front]) for (sizes, _), front in zip(items, hulls, strict=True)]
        saved = [-np.diff(costs[front]) for (_, costs), front in zip(items, hulls, strict=True)]
        owners = np.repeat(np.arange(len(items)), [len(step) for step in steps])
        sizes, savings = np.concatenate(steps), np.concatenate(saved)
        # Stable: along one hull steps save less and less per byte, and keep their order where they are equal.
        order = np.argsort(-savings / sizes, kind="stable") if len(sizes) else np.empty(0, dtype=np.int64)
        self.sizes, self.savings, self.owners = sizes[order], savings[order], owners[order]

    def curve(self, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the corners (sizes, costs) of the bound over capacities for the groups from number `first` on."""
        of = self.owners >= first
        sizes = np.concatenate([[0], np.cumsum(self.sizes[of])]) + int(self._first_sizes[first:].sum())
        # Summed from the end where everything is at its cheapest: there costs are small and sums exact.
        above = np.concatenate([np.cumsum(self.savings[of][::-1])[::-1], [0.0]])
        return sizes, above + float(self._last_costs[first:].sum())

    def bound(self, capacity: np.ndarray | float) -> np.ndarray:
        """Return the least cost within each capacity with fractions allowed; infinity below the least size."""
        sizes, costs = self.curve()
        return np.where(np.asarray(capacity) < sizes[0], np.inf, np.interp(capacity, sizes, costs))

    def price(self, capacity: int) -> float:
        """Return the cost that another byte saves at a capacity, 0 where everything fits."""
        place = int(np.searchsorted(np.cumsum(self.sizes), capacity - self.least_size, side="right"))
        return float(self.savings[place] / self.sizes[place]) if place < len(self.sizes) else 0.0

    def greedy(self, capacity: int) -> list[int]:
        """Return the place in its group of a choice that fits for each group: the steps in order, those that fit.

        A group whose next step does not fit stays where it is.
        """
        at = [0] * len(self.hulls)
        stuck = [False] * len(self.hulls)
        free = capacity - self.least_size
        for size, owner in zip(self.sizes.tolist(), self.owners.tolist(), strict=True):
            if stuck[owner] or size > free:
                stuck[owner] = True
                continue
            at[owner] += 1
            free -= size
        return [front[place] for front, place in zip(self.hulls, at, strict=True)]
