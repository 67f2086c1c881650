"""SpQR: sensitive weights kept apart, the rest in tiny groups whose statistics are quantized too.

Source: Dettmers et al. 2023 (arXiv:2306.03078), algorithm 1, as a rule for the column solver: largest inputs first,
groups of what is solved together. The code of an outlier is that of the grid value nearest to it rather than that of
zero, which leaves the smallest residual to round to float16; any code would do, since the residual is added.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .bilevel import Bilevel, Levels, fit_unrounded, levelled
from .errors import GridError
from .grid import Grid, encode, fit_range
from .order import by_diagonal, natural
from .outliers import Outliers, check_residuals, leave_one_out_gain, threshold, without
from .selection import layer_heights
from .solver import Columns
from .spqr_weight import SpQRWeight


class SpQR:
    """Round to bilevel groups, and keep exactly (to float16) what would cost more than the threshold.

    `tau` scales the threshold (infinity: no outliers); `bilevel=None` stores statistics as `grid` does, with which
    and without outliers this is asymmetric GPTQ. The published settings go with `damp=1`. `heights` are the rows of the layers in a stack: thresholds and
    tiles are then those of each layer.
    """

    alone = "rounded to nearest beside outliers"

    def __init__(
        self,
        bits: int = 3,
        group_size: int = 16,
        *,
        tau: float = 0.2,
        bilevel: Bilevel | None = Bilevel(),  # noqa: B008 (frozen)
        act_order: bool = True,
        heights: Sequence[int] | None = None,
    ):
        if not tau >= 0:
            raise GridError(f"tau={tau}; the outlier threshold is relative and at least 0 (usual: 0.2; inf: none)")
        self._grid = Grid(bits=bits, group_size=group_size, symmetric=False)
        self._tau = tau
        self._bilevel = bilevel
        self._act_order = act_order
        self._heights = heights

    def order(self, diagonal: Tensor) -> Tensor:
        """Return the columns with the most energy first, or as they stand."""
        return by_diagonal(diagonal) if self._act_order else natural(diagonal)

    def begin(self, columns: Columns) -> None:
        """Set the threshold from the original weights and forget all groups."""
        total, rows = columns.work.shape
        self._columns, device = columns, columns.work.device
        self._width = self._grid.width(total)
        self._layers = layer_heights(rows, self._heights)
        self._limit = threshold(columns.work, columns.pivots, self._tau, self._layers)
        self._tiles = (self._bilevel or Bilevel()).tiles(self._layers).to(device)
        self._codes = torch.empty((total, rows), dtype=torch.uint8, device=device)
        self._present = torch.zeros((total, rows), dtype=torch.bool, device=device)
        self._residuals = torch.zeros((total, rows), dtype=torch.float16, device=device)
        self._kept: list[tuple[Levels, Levels] | tuple[Tensor, Tensor]] = []

    def fix(self, position: int, values: Tensor) -> Tensor:
        """Return what will be served: the nearest grid value, plus the stored residual of an outlier."""
        if position % self._width == 0:
            self._begin_group(position)
        codes = self._encode(values, self._scales, self._zeros)
        # Float32 from here on, whatever the solver computes in: this is the arithmetic of `SpQRWeight.dequantize`.
        served = (codes.float() - self._zeros.float()).mul_(self._scales.float())
        gap = values - served
        pivot = self._columns.pivots[position]
        outlier = (gap / pivot).square_() > self._limit
        residual = gap.masked_fill_(~outlier, 0).to(torch.float16)
        self._codes[position] = codes
        self._present[position] = outlier
        self._residuals[position] = residual
        if (position + 1) % self._width == 0:
            check_residuals(self._residuals[position + 1 - self._width : position + 1])
        return served.add_(residual).to(values.dtype)

    def results(self) -> list[SpQRWeight]:
        """Return one weight for each layer of the stack."""
        weights, start, tile = [], 0, 0
        per_tile = (self._bilevel or Bilevel()).rows
        residuals = Outliers.gather(self._present.T, self._residuals.T)
        for height in self._layers:
            rows, tiles = slice(start, start + height), slice(tile, tile + -(-height // per_tile))
            scales, zeros = (_joined([group[which] for group in self._kept], rows, tiles) for which in (0, 1))
            weights.append(
                SpQRWeight(
                    bits=self._grid.bits,
                    bilevel=self._bilevel,
                    codes=self._codes.T[rows].contiguous(),
                    scales=scales,
                    zeros=zeros,
                    outliers=residuals.rows(rows.start, rows.stop),
                    order=torch.tensor(self._columns.order, device=self._codes.device),
                )
            )
            start, tile = rows.stop, tiles.stop
        return weights

    def result(self) -> SpQRWeight:
        """Return the weight of the only layer; ValueError for a stack."""
        if len(self._layers) != 1:
            raise ValueError(f"{len(self._layers)} layers were solved stacked; take `results()`")
        return self.results()[0]

    def _begin_group(self, position: int) -> None:
        stop = position + self._width
        values = self._columns.current(position, stop)
        if self._tau < torch.inf:
            gain = leave_one_out_gain(values, self._columns.pivots[position:stop], self._fit, self._nearest)
            values = without(values, gain > self._limit)
        scales, zeros = self._fit(values.amin(0), values.amax(0))
        if self._bilevel is None:
            self._kept.append((scales.float(), zeros.float()))
        else:
            stored = (
                levelled(scales, self._bilevel.scale_bits, self._tiles),
                levelled(zeros, self._bilevel.zero_bits, self._tiles),
            )
            self._kept.append(stored)
            scales, zeros = (part.restored(self._tiles).to(values.dtype) for part in stored)
        self._scales, self._zeros = scales, zeros

    def _fit(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        if self._bilevel is None:
            return fit_range(low, high, self._grid)
        return fit_unrounded(low, high, self._grid.bits)

    def _encode(self, values: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        if self._bilevel is None:
            return encode(values, scales, zeros, self._grid)
        return values.div(scales).add_(zeros).round_().clamp_(0, self._grid.max_code)

    def _nearest(self, values: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return self._encode(values, scales, zeros).sub_(zeros).mul_(scales)


def _joined(groups: Sequence[Levels | Tensor], rows: slice, tiles: slice) -> Levels | Tensor:
    """Put the statistics of all groups side by side, for the rows and tiles of one layer."""
    levels = [group for group in groups if isinstance(group, Levels)]
    if not levels:
        return torch.stack([group[rows] for group in groups if isinstance(group, Tensor)], dim=1)
    return Levels(
        codes=torch.stack([group.codes[rows] for group in levels], dim=1),
        steps=torch.stack([group.steps[tiles] for group in levels], dim=1),
        origins=torch.stack([group.origins[tiles] for group in levels], dim=1),
    )
