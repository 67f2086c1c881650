"""Hamiltonian cycles of a torus, so that ring collectives can use all four ports of an accelerator at once.

Let the torus have r rows and c columns with c dividing r. Cycle 1 walks c - 1 steps right in row i, starting at
column -i mod c, then one step down; since c divides r it closes after r rows. What it leaves over is 2-regular: c -
1 steps down, one step right, r times; that is one cycle iff gcd(r, c - 1) = 1, for then r of its segments are
needed to return. The two share no edge. Otherwise a single cycle is taken, or a snake where one side is even.
"""

from __future__ import annotations

from math import gcd

import numpy as np


def hamiltonian_cycles(rows: int, columns: int) -> list[np.ndarray]:
    """Return the edge-disjoint Hamiltonian cycles that we can construct: two, one or none.

    Each is int64 [rows * columns, 2] of (row, column), in the order of the cycle. A line counts as one cycle.
    """
    if rows < 2 or columns < 2:
        return [np.stack(np.divmod(np.arange(rows * columns), columns), axis=1)]
    if rows % columns == 0:
        return _diagonal_cycles(rows, columns)
    if columns % rows == 0:
        return [cycle[:, ::-1] for cycle in _diagonal_cycles(columns, rows)]
    if rows % 2 == 0:
        return [_snake(rows, columns)]
    if columns % 2 == 0:
        return [_snake(columns, rows)[:, ::-1]]
    return []


def _diagonal_cycles(rows: int, columns: int) -> list[np.ndarray]:
    step = np.arange(rows * columns)
    row, inside = np.divmod(step, columns)
    first = np.stack([row, (inside - row) % columns], axis=1)
    if gcd(rows, columns - 1) != 1:
        return [first]
    segment, inside = np.divmod(step, columns)
    # Column 0 lacks its edge down in row -1, so its first segment begins in row 0.
    second = np.stack([(segment * (columns - 1) + inside) % rows, segment % columns], axis=1)
    return [first, second]


def _snake(rows: int, columns: int) -> np.ndarray:
    """Return a cycle of a torus with an even number of rows: up column 0, and back and forth through the rest."""
    path = [(row, column) for row in range(rows) for column in _sweep(row, columns)]
    return np.array(path + [(row, 0) for row in range(rows - 1, -1, -1)])


def _sweep(row: int, columns: int) -> range:
    return range(1, columns) if row % 2 == 0 else range(columns - 1, 0, -1)
