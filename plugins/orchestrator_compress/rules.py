"""Rules for the column solver: what a column becomes when its turn comes."""

from __future__ import annotations

import torch
from torch import Tensor

from .grid import Grid, QuantizedWeight, assemble, encode, fit
from .solver import Columns


class GroupRounding:
    """Round each column to the grid of its group: with the column solver this is GPTQ.

    `static`: all grids are fitted to the original weights before the first column, so columns may be solved in any
    order and a group remains a range of
    input features. Otherwise a grid is fitted when its group begins, on values that carry every earlier correction;
    that needs the natural order.
    """

    def __init__(self, grid: Grid, static: bool = True):
        self._grid = grid
        self._static = static

    def begin(self, columns: Columns) -> None:
        """Fit the grids of all groups, or prepare to fit each when it begins."""
        self._columns, work, grid = columns, columns.work, self._grid
        total, rows = work.shape
        self._width = grid.width(total)
        self._codes = torch.empty((total, rows), dtype=torch.uint8, device=work.device)
        if self._static:
            original = torch.empty_like(work)
            original[columns.order] = work
            self._scales, self._zeros = fit(original.view(-1, self._width, rows), grid, dim=1)
            return
        if columns.order != list(range(total)):
            raise ValueError(
                "grids fitted as groups begin need the natural column order; use static groups with another order"
            )
        self._scales = work.new_empty((total // self._width, rows))
        self._zeros = torch.empty_like(self._scales)

    def fix(self, position: int, values: Tensor) -> Tensor:
        """Return the nearest grid values, keeping their codes."""
        column = self._columns.order[position]
        group = column // self._width
        if not self._static and column % self._width == 0:
            current = self._columns.current(position, position + self._width)
            self._scales[group], self._zeros[group] = fit(current, self._grid, dim=0)
        scales, zeros = self._scales[group], self._zeros[group]
        codes = encode(values, scales, zeros, self._grid)
        self._codes[column] = codes
        return codes.sub_(zeros).mul_(scales)

    def result(self) -> QuantizedWeight:
        """Return the codes of the last attempt with their scales and zero points."""
        return assemble(self._codes.T, self._scales.T, self._zeros.T, self._grid)
