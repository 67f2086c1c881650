"""Which weights of a group are outliers, and their storage beside the codes.

Source: Dettmers et al. 2023 (SpQR, arXiv:2306.03078), sections 4.1 and 4.3. An error d of the weight at position j
costs d^2 / U_jj^2; a weight is a candidate if leaving it out of its group's grid saves the *others* and itself more
than a threshold T = tau * mean_j(Var_rows(W_:j) / U_jj^2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import GridError
from .grid import all_finite

#: Fits grids to the least and greatest values of groups: (low, high) -> (scales, zeros).
FitRange = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
#: Rounds values to grids: (values, scales, zeros) -> values on the grid.
Nearest = Callable[[Tensor, Tensor, Tensor], Tensor]


def threshold(work: Tensor, pivots: Tensor, tau: float, heights: Sequence[int]) -> Tensor:
    """Return T [R] for weights [C, R] in solve order with pivots U_jj [C], computed for each layer of a stack."""
    parts = []
    for rows in work.split(list(heights), dim=1):
        # A layer of one row has no variance over rows; its energy takes that place.
        spread = rows.var(1) if rows.shape[1] > 1 else rows.square().mean(1)
        scale = (spread.to(torch.float64) / pivots.to(torch.float64).square()).mean()
        # inf * 0 is no number, and without an error scale nothing is an outlier.
        parts.append(torch.full((rows.shape[1],), tau * float(scale) if float(scale) > 0 else torch.inf))
    return torch.cat(parts).to(device=work.device, dtype=work.dtype)


def leave_one_out_gain(values: Tensor, pivots: Tensor, fit: FitRange, nearest: Nearest) -> Tensor:
    """Return for each weight of a group [g, R] by how much the group's error falls if it is left out.

    The error is sum_i ((w_i - q_i) / U_i)^2; once with the grid of all weights, once without weight i in both the
    grid and the sum. One pass of [g, g, R] instead of g fits: the range without the least value ends at the second
    least.
    """
    size = len(values)
    weights = pivots.square().reciprocal().view(-1, 1)
    if size == 1:
        return (values - nearest(values, *fit(values, values))).square_().mul_(weights)
    low, high = values.topk(2, dim=0, largest=False), values.topk(2, dim=0)
    base = ((values - nearest(values, *fit(low.values[0], high.values[0]))).square_() * weights).sum(0)
    place = torch.arange(size, device=values.device).view(-1, 1)
    lows = torch.where(place == low.indices[0], low.values[1], low.values[0])
    highs = torch.where(place == high.indices[0], high.values[1], high.values[0])
    scales, zeros = fit(lows, highs)
    errors = (values - nearest(values, scales.unsqueeze(1), zeros.unsqueeze(1))).square_().mul_(weights)
    errors.diagonal(dim1=0, dim2=1).zero_()
    return base - errors.sum(1)


def without(values: Tensor, candidates: Tensor) -> Tensor:
    """Return the group [g, R] with candidates replaced by the mean of the others (0 where there are none)."""
    kept = ~candidates
    mean = (values * kept).sum(0) / kept.sum(0).clamp(min=1)
    return torch.where(kept, values, mean)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outliers:
    """Hold corrections by rows (CSR): offsets int32 [R + 1], solve positions [n] and float16 residuals [n].

    Residuals are *added* to what the codes stand for. The public SpQR kernel adds as well but its files hold whole
    weights, so that it serves other numbers than were evaluated wherever the code of an outlier is not exactly zero.
    """

    offsets: Tensor
    positions: Tensor
    residuals: Tensor

    @classmethod
    def gather(cls, present: Tensor, residuals: Tensor) -> Outliers:
        """Collect the entries of `residuals` float16 [R, C] where `present` [R, C]."""
        rows, columns = present.shape
        offsets = torch.zeros(rows + 1, dtype=torch.int32, device=present.device)
        offsets[1:] = present.sum(1).cumsum(0)
        # int16 holds the positions of every layer that the public format can.
        kind = torch.int16 if columns <= torch.iinfo(torch.int16).max + 1 else torch.int32
        return cls(offsets=offsets, positions=present.nonzero()[:, 1].to(kind), residuals=residuals[present])

    @property
    def count(self) -> int:
        """Return the number of outliers."""
        return len(self.residuals)

    def add_to(self, weight: Tensor) -> None:
        """Add the residuals to weights [R, C] in solve order."""
        per_row = (self.offsets[1:] - self.offsets[:-1]).long()
        rows = torch.arange(len(per_row), device=weight.device).repeat_interleave(per_row)
        weight[rows, self.positions.long()] += self.residuals.to(weight.dtype)

    def rows(self, start: int, stop: int) -> Outliers:
        """Return the outliers of the output rows start..stop alone."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return Outliers(
            offsets=self.offsets[start : stop + 1] - self.offsets[start],
            positions=self.positions[first:last],
            residuals=self.residuals[first:last],
        )


def check_residuals(residuals: Tensor) -> None:
    """Raise GridError where float16 could not hold what codes miss."""
    if not all_finite(residuals):
        raise GridError(
            f"an outlier is more than {torch.finfo(torch.float16).max:.0f} away from its grid, beyond the float16 that "
            "it is stored in; scale the layer down, or leave it out with `ignore`"
        )
