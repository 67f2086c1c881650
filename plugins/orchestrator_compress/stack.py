"""Layers that read one input, on top of each other, and what solving them at several points has in common.

A solve goes along columns, so that it starts from W^T, in which a column is contiguous. That, sums of squares and
the ranges of groups depend on the weights alone: whoever solves the same layers several times (other bits, groups,
dampings) builds one `Stack` and pays for each once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from .grid import all_finite, check_finite

# Rows of W^T that are widened at once: all of it in float64 would be the peak.
_CHUNK = 64
_TYPES = (torch.float32, torch.float64)


class Stack:
    """Hold layers [R_i, C] as one weight [R, C], R the sum of all R_i."""

    def __init__(self, weights: Sequence[Tensor]):
        # Half precision is widened, which changes no value: sums and differences are taken in the type of the weights.
        self._weights = [weight if weight.dtype in _TYPES else weight.to(torch.float32) for weight in weights]
        self.heights = [len(weight) for weight in weights]
        self._ranges: dict[int, tuple[Tensor, Tensor]] = {}

    def check(self, columns: int) -> None:
        """Raise ValueError unless this is a weight [R, `columns`] with R > 0, WeightError unless it is finite."""
        shapes = [list(weight.shape) for weight in self._weights]
        if any(len(shape) != 2 or shape[1] != columns for shape in shapes) or not sum(self.heights):
            raise ValueError(
                f"W is {', '.join(map(str, shapes))} and H [{columns}, {columns}]; H must be [C, C] for W [R, C] with "
                "R > 0"
            )
        _ = self.columns

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the weights, float64 where all are."""
        return torch.float64 if {weight.dtype for weight in self._weights} == {torch.float64} else torch.float32

    @property
    def row_ranges(self) -> list[slice]:
        """Return the rows of each layer."""
        starts = [sum(self.heights[:place]) for place in range(len(self.heights))]
        return [slice(start, start + height) for start, height in zip(starts, self.heights, strict=True)]

    @property
    def rows(self) -> Tensor:
        """Return W [R, C]."""
        return self._weights[0] if len(self._weights) == 1 else torch.cat(self._weights)

    @cached_property
    def columns(self) -> Tensor:
        """Return W^T [C, R], contiguous; WeightError for weights that are not finite."""
        columns = self.rows.T.contiguous()
        if not all_finite(columns):
            check_finite(self.rows)
        return columns

    @cached_property
    def energies(self) -> list[float]:
        """Return ||W||^2 of each layer."""
        found = torch.zeros(len(self.heights), dtype=torch.float64, device=self.columns.device)
        for part in self.columns.split(_CHUNK):
            squares = part.square().sum(0, dtype=torch.float64)
            found += torch.stack([layer.sum() for layer in squares.split(self.heights)])
        return [float(one) for one in found]

    def column_energies(self) -> Tensor:
        """Return ||W_j||^2 [C] in float64."""
        return torch.cat([part.to(torch.float64).square_().sum(1) for part in self.columns.split(_CHUNK)])

    def ranges(self, width: int) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest weight [G, R] of each row in groups of `width` columns."""
        if width not in self._ranges:
            grouped = self.columns.view(-1, width, self.columns.shape[1])
            self._ranges[width] = grouped.amin(1), grouped.amax(1)
        return self._ranges[width]
