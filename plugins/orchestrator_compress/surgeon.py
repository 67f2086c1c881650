"""Optimal brain surgeon and its quantizing sibling, exactly: greedy, one weight at a time, each row by itself.

Sources: Hassibi and Stork 1992 (OBS); Frantar and Alistarh 2022 (arXiv:2208.11580), algorithm 3 (OBQ). Fixing weight
j of a row at value v costs (w_j - v)^2 / (2 [A]_jj) for A the inverse of the remaining H, moves the other weights by
-(w_j - v) / [A]_jj A[j, :], and leaves A - A[:, j] A[j, :] / [A]_jj. What is cheapest goes first, so that rows go
their own ways: O(R C^3) time and R C^2 memory. This is the reference that fixed-order solvers are measured against,
for layers of a few hundred inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import PruningError, SolveError
from .factor import damped
from .grid import check_finite
from .system import System

_LARGEST_BYTES = 2**31


@dataclass(frozen=True, kw_only=True, slots=True)
class Surgery:
    """Hold the weights [R, C], which were fixed, in what order [R, count], and each row's sum of costs, doubled.

    `row_errors` are then the rows of tr(D (H + lam I) D^T), as of a `solver.Solution`.
    """

    weight: Tensor
    fixed: Tensor
    sequence: Tensor
    row_errors: Tensor


def surgeon(
    W: Tensor,
    H: Tensor | System,
    count: int,
    *,
    target: Callable[[Tensor], Tensor] = torch.zeros_like,
    largest_gap: Tensor | float = torch.inf,
    damp: float = 0.01,
) -> Surgery:
    """Fix `count` weights of each row of W [R, C] at `target` of their current values, the cheapest first, in float64.

    `target` zero prunes (OBS); rounding to a grid quantizes (OBQ), and takes values [R, C]. A weight further than
    `largest_gap` from its target goes before all others: half a step of the grid keeps weights from being pushed far
    out of it while they wait (section 5 of the OBQ paper). Of equal costs the first column goes first. Raises WeightError and CalibrationError as `column_solve` does, PruningError for a count or
    size that cannot be, SolveError where H + lam I is singular.
    """
    check_finite(W)
    system = H if isinstance(H, System) else System(H)
    rows, columns = W.shape
    if not 0 <= count <= columns:
        raise PruningError(f"{count} of {columns} weights of a row cannot be fixed")
    if rows * columns**2 * 8 > _LARGEST_BYTES:
        raise PruningError(
            f"an inverse for each of {rows} rows of {columns} inputs is more than {_LARGEST_BYTES >> 30} GiB; take "
            "fewer rows at a time, or a fixed-order rule of `column_solve`"
        )
    matrix, _, _ = damped(system.hessian.to(torch.float64), damp)
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        raise SolveError(f"H is singular at damp={damp:g}; raise `damp` or use more calibration tokens")
    inverse = torch.cholesky_inverse(lower).expand(rows, -1, -1).clone()
    current, row = W.to(torch.float64).clone(), torch.arange(rows, device=W.device)
    fixed = torch.zeros((rows, columns), dtype=torch.bool, device=W.device)
    sequence = torch.empty((rows, count), dtype=torch.int64, device=W.device)
    row_errors = torch.zeros(rows, dtype=torch.float64, device=W.device)
    for step in range(count):
        diagonal = inverse.diagonal(dim1=1, dim2=2)
        gap = current - target(current)
        costs = (gap.square() / diagonal).masked_fill_(fixed, torch.inf)
        urgent = (gap.abs() > largest_gap) & ~fixed
        waiting = ~urgent & urgent.any(1, keepdim=True)
        column = costs.masked_fill(waiting, torch.inf).argmin(1)
        sequence[:, step] = column
        fixed[row, column] = True
        row_errors += costs[row, column]
        pivot, line = diagonal[row, column], inverse[row, column]
        at = current[row, column] - gap[row, column]
        current -= (gap[row, column] / pivot).unsqueeze(1) * line
        current[row, column] = at
        inverse -= line.unsqueeze(2) * (line / pivot.unsqueeze(1)).unsqueeze(1)
        # What is fixed is out: rounding must not let it creep back, and its own cost is never asked for again.
        inverse[row, column] = 0
        inverse[row, :, column] = 0
        inverse[row, column, column] = 1
    return Surgery(weight=current, fixed=fixed, sequence=sequence, row_errors=row_errors)


def least_squares(W: Tensor, H: Tensor, removed: Tensor, *, damp: float = 0.0) -> Tensor:
    """Return the best weights [R, C] that are zero where `removed` [R, C] says: argmin tr(D (H + lam I) D^T), float64.

    Row by row, kept weights gain H_kk^-1 H_kr w_r. Raises SolveError where the kept inputs' H is singular.
    """
    matrix, _, _ = damped(H.to(torch.float64), damp)
    best = W.to(torch.float64).masked_fill(removed, 0)
    for row, gone in enumerate(removed):
        kept = ~gone
        lower, failed = torch.linalg.cholesky_ex(matrix[kept][:, kept])
        if int(failed):
            raise SolveError(f"H of the kept inputs of row {row} is singular at damp={damp:g}; raise `damp`")
        pull = (matrix[kept][:, gone] @ W[row, gone].to(torch.float64)).unsqueeze(1)
        best[row, kept] += torch.cholesky_solve(pull, lower)[:, 0]
    return best
