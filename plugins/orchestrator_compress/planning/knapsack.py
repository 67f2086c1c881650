"""One choice from each group within a capacity at the least cost, by dynamic programming: over cells, and over states.

`CellProgram` knows the least cost for every number of cells of `unit` bytes, with sizes rounded to whole cells and the
true bytes of what it found beside: exact where the unit divides all sizes, otherwise at least as good as anything that
is `groups x unit` bytes smaller than the capacity, and usually far nearer, as roundings up and down cancel. One pass
serves every capacity.

`exact` keeps lists of undominated (size, cost) states (Nemhauser and Ullmann 1969, Management Science 15(9)) of one
capacity and whatever sizes, and drops states and choices that the relaxation shows cannot beat what is known already
(Pisinger 1995, European Journal of Operational Research 83(2)). Costs are compared to one part in 10^12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .relaxation import Items, Relaxation, pareto

# Relative: what rounding in sums of costs may make of equal ones.
_TOLERANCE = 1e-12
# Cells of the passes that look for a first good solution.
_COARSE_CELLS = 2048


class CellProgram:
    """Hold the least cost within 0..cells cells above the least size, and the choices that reach it.

    `items` are Pareto fronts and `capacity` is at least their least size.
    """

    def __init__(self, items: Items, capacity: int, unit: int):
        self._least = sum(int(sizes[0]) for sizes, _ in items)
        self._unit = unit
        self.cells = (capacity - self._least) // unit
        self._items = items
        self._widths = [(sizes - sizes[0] + unit // 2) // unit for sizes, _ in items]
        kind = np.min_scalar_type(max(len(sizes) for sizes, _ in items) - 1)
        self._choices = np.zeros((len(items), self.cells + 1), dtype=kind)
        costs, taken = np.zeros(self.cells + 1), np.zeros(self.cells + 1, dtype=np.int64)
        for group in range(len(items)):
            costs, taken = self._add(group, costs, taken)
        self.costs, self._taken = costs, taken

    def _add(self, group: int, before: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes, group_costs = self._items[group]
        after, after_taken = before + group_costs[0], taken + sizes[0]
        scratch, better = np.empty_like(before), np.empty(len(before), dtype=bool)
        for choice, width in enumerate(self._widths[group].tolist()):
            if choice == 0 or width > self.cells:
                continue
            count = self.cells + 1 - width
            np.add(before[:count], group_costs[choice], out=scratch[:count])
            np.less(scratch[:count], after[width:], out=better[:count])
            np.copyto(after[width:], scratch[:count], where=better[:count])
            np.copyto(after_taken[width:], taken[:count] + sizes[choice], where=better[:count])
            np.copyto(self._choices[group, width:], choice, where=better[:count])
        return after, after_taken

    def picks(self, capacity: int) -> list[int]:
        """Return the choice of each group at the least cost within a capacity of at most that of the program."""
        # Costs fall with cells, so that the last one that fits is the best.
        fitting = np.flatnonzero(self._taken <= capacity)
        if not len(fitting):
            return [0] * len(self._widths)
        cell, chosen = int(fitting[-1]), []
        for group in range(len(self._widths) - 1, -1, -1):
            choice = int(self._choices[group, cell])
            chosen.append(choice)
            cell -= int(self._widths[group][choice])
        return chosen[::-1]


def common_unit(items: Items) -> int:
    """Return the greatest number of bytes that divides all differences of sizes within groups (1 where none differ)."""
    differences = np.concatenate([np.diff(sizes) for sizes, _ in items])
    return int(np.gcd.reduce(differences)) if len(differences) else 1


def cost_of(items: Items, picks: Sequence[int]) -> float:
    """Return the cost of a choice for each group, rounded once."""
    return math.fsum(float(costs[pick]) for (_, costs), pick in zip(items, picks, strict=True))


def size_of(items: Items, picks: Sequence[int]) -> int:
    """Return the bytes of a choice for each group."""
    return sum(int(sizes[pick]) for (sizes, _), pick in zip(items, picks, strict=True))


def exact(items: Items, capacity: int, most_states: int) -> tuple[list[int], bool]:
    """Return the cheapest choice within a capacity that holds the least sizes, and whether it is proven.

    It is not where more than `most_states` states were alive at once: the choice is then the best that was met.
    Groups are Pareto fronts.
    """
    relaxation = Relaxation(items)
    best = relaxation.greedy(capacity)
    kept, best = _reduced(items, capacity, relaxation, best)
    reduced = [(sizes[keep], costs[keep]) for (sizes, costs), keep in zip(items, kept, strict=True)]
    # Groups with much to decide come last: until then their fractions make the bound of all states alike and tight.
    order = sorted(range(len(items)), key=lambda group: len(kept[group]))
    found, proven = _search([reduced[group] for group in order], capacity, cost_of(items, best), most_states)
    if found is not None:
        for group, pick in zip(order, found, strict=True):
            best[group] = int(kept[group][pick])
    return best, proven


def _reduced(
    items: Items, capacity: int, relaxation: Relaxation, best: list[int]
) -> tuple[list[np.ndarray], list[int]]:
    """Return the places in each group that a better choice than the best one known may have, and the best one known."""
    kept = [np.arange(len(sizes)) for sizes, _ in items]
    price = relaxation.price(capacity)
    priced = [costs + price * sizes for sizes, costs in items]
    floors = [float(values.min()) for values in priced]
    floor = math.fsum(floors) - price * capacity
    for _ in range(2):
        # What rounding may hide in a difference of numbers of that size.
        slack = _TOLERANCE * (abs(cost_of(items, best)) + price * capacity)
        room = cost_of(items, best) - floor + slack
        kept = [
            np.flatnonzero((values - lowest <= room) | (np.arange(len(values)) == pick))
            for values, lowest, pick in zip(priced, floors, best, strict=True)
        ]
        reduced = [(sizes[keep], costs[keep]) for (sizes, costs), keep in zip(items, kept, strict=True)]
        spare = capacity - sum(int(sizes[0]) for sizes, _ in reduced)
        program = CellProgram(reduced, capacity, max(1, -(-spare // _COARSE_CELLS)))
        other = [int(keep[pick]) for keep, pick in zip(kept, program.picks(capacity), strict=True)]
        if not cost_of(items, other) < cost_of(items, best):
            break
        best = other
    return kept, best


def _search(items: Items, capacity: int, known: float, most_states: int) -> tuple[list[int] | None, bool]:
    """Return the cheapest choice that costs less than `known`, None for none, and whether all were looked at."""
    relaxation = Relaxation(items)
    sizes, costs = np.zeros(1, dtype=np.int64), np.zeros(1)
    history: list[tuple[np.ndarray, np.ndarray]] = []
    for group, (group_sizes, group_costs) in enumerate(items):
        all_sizes = (sizes[:, None] + group_sizes).ravel()
        all_costs = (costs[:, None] + group_costs).ravel()
        corners, bounds = relaxation.curve(group + 1)
        left = capacity - all_sizes
        bound = all_costs + np.interp(left, corners, bounds)
        alive = np.flatnonzero((left >= corners[0]) & (bound < known - _TOLERANCE * abs(known)))
        if not len(alive):
            return None, True
        alive = alive[pareto(all_sizes[alive], all_costs[alive])]
        if len(alive) > most_states:
            return None, False
        history.append((alive // len(group_sizes), alive % len(group_sizes)))
        sizes, costs = all_sizes[alive], all_costs[alive]
    # Undominated states by rising size: the last is the cheapest.
    state, picks = len(costs) - 1, []
    for parents, choices in reversed(history):
        picks.append(int(choices[state]))
        state = int(parents[state])
    return picks[::-1], True
