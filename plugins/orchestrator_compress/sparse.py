"""Pruning as rules for the column solver: SparseGPT, joint pruning and rounding, and masks that are given.

Source: Frantar and Alistarh 2023 (arXiv:2301.00774). Removing w_j costs w_j^2 / U_jj^2 after compensation (equation
4 there, with the residual inverse from the factor), on values that carry every earlier correction; what a removed
weight did is taken over by the columns to its right, which are also the ones that rounding errors go to, so that
pruning and rounding in one pass share the compensation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import PruningError
from .grid import QuantizedWeight
from .order import natural
from .rules import GroupRounding
from .selection import Pattern, layer_heights
from .solver import Columns


class SparseGPT:
    """Remove what `pattern` says of each run of columns when the first of them is solved, and round what stays.

    Without `rounding` kept weights stay in floating point. The natural order is the only one: a run of columns is
    then a range of inputs, as N:M needs. `heights` are the rows of the layers in a stack: each loses its own share.
    """

    alone = "pruned without compensation"

    def __init__(
        self, pattern: Pattern, rounding: GroupRounding | None = None, *, heights: Sequence[int] | None = None
    ):
        self._pattern = pattern
        self._rounding = rounding
        self._heights = heights

    @property
    def rounds(self) -> bool:
        """Tell whether weights that stay are rounded."""
        return self._rounding is not None

    def order(self, diagonal: Tensor) -> Tensor:
        """Return the columns as they stand."""
        self._pattern.check(len(diagonal))
        return natural(diagonal)

    def begin(self, columns: Columns) -> None:
        """Forget the mask; let the rounding rule begin."""
        total, rows = columns.work.shape
        if columns.order != list(range(total)):
            raise PruningError("pruning patterns are ranges of inputs: solve in the natural order")
        self._columns = columns
        self._layers = layer_heights(rows, self._heights)
        self._removed = torch.zeros((total, rows), dtype=torch.bool, device=columns.work.device)
        self._dead = columns.dead
        if self._rounding is not None:
            self._rounding.begin(columns)

    def fix(self, position: int, values: Tensor) -> Tensor:
        """Return zero for removed weights, and kept ones rounded or as they are."""
        if position % self._pattern.width == 0:
            stop = min(position + self._pattern.width, len(self._removed))
            costs = self._columns.current(position, stop).div_(self._columns.pivots[position:stop, None]).square_()
            # What calibration never saw goes before all else, the small weights of it first: a stand-in's pivot means nothing.
            dead = self._dead[position:stop]
            costs[dead] = -1 / (costs[dead] + torch.finfo(costs.dtype).tiny)
            self._removed[position:stop] = self._pattern.choose(costs, position, self._layers)
        kept = values.masked_fill(self._removed[position], 0)
        # Zero is a point of every grid, so that a removed weight gets the code of zero.
        return kept if self._rounding is None else self._rounding.fix(position, kept)

    def mask(self) -> Tensor:
        """Return which weights [R, C] the last attempt removed."""
        return self._removed.T.contiguous()

    def result(self) -> QuantizedWeight:
        """Return the codes of the last attempt; PruningError where nothing was rounded."""
        if self._rounding is None:
            raise PruningError("no rounding rule was given: the solution's weights are the result")
        return self._rounding.result()


class Masked:
    """Remove the weights of a given mask [R, C] and compensate in the kept ones: optimal brain surgeon in fixed order.

    Kept weights stay in floating point. Where in every row all removed columns come first in the order, the result
    is the exact least squares solution among weights with that mask (Hassibi and Stork 1992, applied once for each).
    """

    alone = "masked without compensation"

    def __init__(self, removed: Tensor):
        self._removed = removed

    def order(self, diagonal: Tensor) -> Tensor:
        """Return first the columns that most rows remove: the errors then meet the most weights that are kept."""
        removed = self._removed.sum(0).to(diagonal.device)
        return torch.argsort(removed, descending=True, stable=True)

    def begin(self, columns: Columns) -> None:
        """Check the mask against the weights and put it in solve order."""
        total, rows = columns.work.shape
        if self._removed.shape != (rows, total) or self._removed.dtype != torch.bool:
            raise PruningError(
                f"the mask is {self._removed.dtype} {list(self._removed.shape)}; the weights need bool [{rows}, {total}]"
            )
        self._in_order = self._removed.T.to(columns.work.device)[columns.order]

    def fix(self, position: int, values: Tensor) -> Tensor:
        """Return zero where the mask removes and the value elsewhere."""
        return values.masked_fill(self._in_order[position], 0)
