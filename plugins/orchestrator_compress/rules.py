"""Rounding as a rule for the column solver: what a column becomes on the grid of its group."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .grid import Grid, QuantizedWeight, assemble, encode, fit, fit_range
from .order import ACT_ORDERS, ActOrder, act_ordered
from .solver import TILE, Columns


class GroupRounding:
    """Round each column to the grid of its group: with the column solver this is GPTQ.

    `act_order` is one of `order.ACT_ORDERS`. With "static" all grids are fitted to the original weights before the
    first column; otherwise a grid is fitted when its group begins, on values that carry every earlier correction.
    `group_fit="stale"` fits on values that lack those of the current block, as the GPTQ code does: the result then
    depends on the block size, and it is there for comparison.
    """

    alone = "rounded to nearest"

    def __init__(
        self, grid: Grid, act_order: ActOrder = "static", *, group_fit: Literal["current", "stale"] = "current"
    ):
        if act_order not in ACT_ORDERS:
            raise ValueError(f"act_order={act_order!r}; it is one of {', '.join(ACT_ORDERS)}")
        if group_fit not in ("current", "stale"):
            raise ValueError(f"group_fit={group_fit!r}; groups are fitted on 'current' or 'stale' values")
        self._grid = grid
        self._act_order = act_order
        self._stale = group_fit == "stale"

    def order(self, diagonal: Tensor) -> Tensor:
        """Return the columns in the order that `act_order` names."""
        return act_ordered(diagonal, self._act_order, self._grid.width(len(diagonal)))

    def begin(self, columns: Columns) -> None:
        """Fit the grids of all groups, or prepare to fit each when it begins."""
        self._columns, work, grid = columns, columns.work, self._grid
        self._tiles: tuple[Any, ...] | None = None
        total, rows = work.shape
        self._width = width = grid.width(total)
        self._codes = torch.empty((total, rows), dtype=torch.uint8, device=work.device)
        if self._act_order == "dynamic":
            self._group_of = [position // width for position in range(total)]
        else:
            self._group_of = [column // width for column in columns.order]
        if self._act_order == "static":
            low, high = (ends.to(work.dtype) for ends in columns.stack.ranges(width))
            self._scales, self._zeros = fit_range(low, high, grid)
            return
        starts = self._group_of[::width]
        if any(self._group_of[position] != starts[position // width] for position in range(total)):
            raise ValueError(
                "grids fitted as groups begin need the columns of a group together; use act_order='static' with "
                "another order"
            )
        self._scales = work.new_empty((total // width, rows))
        self._zeros = torch.empty_like(self._scales)

    def fix(self, position: int, values: Tensor) -> Tensor:
        """Return the nearest grid values, keeping their codes."""
        group = self._group_of[position]
        if self._act_order != "static" and position % self._width == 0:
            self._fit_group(position)
        scales, zeros = self._scales[group], self._zeros[group]
        codes = encode(values, scales, zeros, self._grid)
        self._codes[self._columns.order[position]] = codes
        return codes.sub_(zeros).mul_(scales)

    def _fit_group(self, position: int) -> None:
        group, look = self._group_of[position], self._columns.stale if self._stale else self._columns.current
        self._scales[group], self._zeros[group] = fit(look(position, position + self._width), self._grid, dim=0)

    def fix_tile(self, start: int, stop: int) -> bool:
        """Fix positions start..stop in one call of machine code, where that can be done with the same result."""
        columns, work = self._columns, self._columns.work
        if columns.factor is None or work.device.type != "cpu" or type(self).fix is not GroupRounding.fix:
            return False
        if self._act_order != "static" and (stop - 1) // self._width > start // self._width:
            return False  # a group that begins inside is fitted on values that the columns before it correct
        from .rounding_kernel import round_block, sums_as_products  # compiled code is loaded only where it is used

        if stop - start > TILE and not sums_as_products(stop - start, work.shape[1], work.dtype):
            return False
        if self._act_order != "static" and start % self._width == 0:
            self._fit_group(start)
        if self._tiles is None:
            tensors = work, columns.scaled_errors, self._codes, self._scales, self._zeros, columns.factor
            indices = np.array(columns.order), np.array(self._group_of)
            self._tiles = (*(tensor.numpy() for tensor in tensors), *indices)
        round_block(*self._tiles, start, stop, self._tiles[0].dtype.type(self._grid.max_code))
        return True

    def result(self) -> QuantizedWeight:
        """Return the codes of the last attempt with their scales, zero points and, where needed, group indices."""
        groups = None
        if self._act_order == "dynamic":
            groups = torch.empty(len(self._codes), dtype=torch.int32, device=self._codes.device)
            groups[self._columns.order] = torch.tensor(self._group_of, dtype=torch.int32, device=groups.device)
        return assemble(self._codes.T, self._scales.T, self._zeros.T, self._grid, groups)
