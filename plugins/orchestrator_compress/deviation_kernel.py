"""What `deviations` measures, in one pass over the weights instead of one for each figure."""

from __future__ import annotations

from typing import Any

import numpy as np

from .deviations import GROUPS  # also the numbers that a loop below handles at once
from .machine_code import compiled

# Rows of a column that are gone through before the next column: what their sums take stays in the nearest cache.
_STRIP = 2048


@compiled(fastmath={"contract"})
def _fold(before: Any, after: Any, errors: Any, signs: Any, sums: Any) -> None:
    """Add up differences, errors and squares of differences of as many rows as make whole runs of groups."""
    for start in range(0, len(before) // GROUPS * GROUPS, GROUPS):
        for group in range(GROUPS):
            difference = before[start + group] - after[start + group]
            sums[group] += signs[start + group] * difference
            sums[GROUPS + group] += signs[start + group] * errors[start + group]
            sums[2 * GROUPS + group] += difference * difference


@compiled(fastmath={"contract"})
def _fold_some(before: Any, after: Any, errors: Any, signs: Any, first: int, sums: Any) -> None:
    """Do so for any rows, of which the first is number `first`."""
    for row in range(len(before)):
        group = (first + row) % GROUPS
        difference = before[row] - after[row]
        sums[group] += signs[row] * difference
        sums[GROUPS + group] += signs[row] * errors[row]
        sums[2 * GROUPS + group] += difference * difference


@compiled(fastmath={"contract"})
def _add_squares(errors: Any, rows: Any) -> None:
    for row in range(len(errors)):
        error = np.float64(errors[row])
        rows[row] += error * error


@compiled()
def measure(
    before: Any,
    after: Any,
    errors: Any,
    order: Any,
    signs: Any,
    bounds: Any,
    sums: Any,
    probed: Any,
    rows: Any,
    columns: Any,
) -> float:
    """Fill in the figures of `Deviations` and return its `total`.

    `before` [C, R] is in the original order of columns, `after` and `errors` [C, R] in `order` int64 [C]; `signs` [R];
    `bounds` [L + 1] are the rows between layers; `sums` [3 * GROUPS] is room, in the widest type of them all.
    """
    total = 0.0
    folded = np.zeros(GROUPS)
    for position in range(len(order)):
        column = order[position]
        folded[:] = 0
        for layer in range(len(bounds) - 1):
            for low in range(bounds[layer], bounds[layer + 1], _STRIP):
                high = min(low + _STRIP, bounds[layer + 1])
                old, new, error = before[column, low:high], after[position, low:high], errors[position, low:high]
                sign = signs[low:high]
                head = min(-low % GROUPS, high - low)
                tail = head + (high - low - head) // GROUPS * GROUPS
                sums[:] = 0
                _fold_some(old[:head], new[:head], error[:head], sign[:head], low, sums)
                _fold(old[head:tail], new[head:tail], error[head:tail], sign[head:tail], sums)
                _fold_some(old[tail:], new[tail:], error[tail:], sign[tail:], low + tail, sums)
                _add_squares(error, rows[low:high])
                square = 0.0
                for group in range(GROUPS):
                    probed[column, group] += sums[group]
                    folded[group] += sums[GROUPS + group]
                    square += sums[2 * GROUPS + group]
                columns[layer, column] += square
        for group in range(GROUPS):
            total += folded[group] * folded[group]
    return total
