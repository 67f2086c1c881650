"""What a solution costs, and the identity that proves it.

For D = W - Q, E = (w_j - q_j) / U_jj and (H + lam I)^-1 = U^T U, the solver's updates mean D = E U, hence
tr(D (H + lam I) D^T) = ||E||^2 whatever the rule (Frantar et al. 2022, with section 3.3 read as an equation). No
other check covers factor, order, lazy updates and rule at once.

Evaluating the trace takes 2 R C^2 flops in float64, more than the solve itself. D = E U also gives
g D (H + lam I) D^T g^T = ||g E||^2 for every row vector g, so that a few sums of rows with random signs check it in
C^2 flops each (see `deviations`): an error anywhere in D shows in the sum that holds its row with probability at least
a half. Up to as many rows as sums are checked row by row, that is, exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .deviations import Deviations
from .stack import Stack

_PANEL = 512


def quadratic(difference: Tensor, hessian: Tensor) -> float:
    """Return tr(D H D^T) in float64, the squared output error on the inputs behind H, for D [R, C] = W - Q."""
    difference = difference.to(torch.float64)
    return float((difference @ hessian.to(torch.float64)).mul_(difference).sum())


def energy(weight: Tensor, hessian: Tensor) -> float:
    """Return tr(W H W^T) in the type of W [R, C], for symmetric H: half the multiplications of W H."""
    total = 0.0
    for start in range(0, len(hessian), _PANEL):
        stop = min(start + _PANEL, len(hessian))
        own = weight[:, start:stop]
        outputs = own @ hessian[start:stop, start:stop].to(weight.dtype)
        if stop < len(hessian):
            outputs.addmm_(weight[:, stop:], hessian[stop:, start:stop].to(weight.dtype), alpha=2)
        total += float(outputs.mul_(own).sum())
    return total


def identity_gap(
    found: Deviations, stack: Stack, hessian: Tensor, added: Tensor, dtype: torch.dtype, *, enough: float = 0.0
) -> tuple[float, float]:
    """Return how far ||E||^2 is from the damped objective, relative to it, and what rounding alone explains.

    `found` is what a solve of `stack` in `dtype` came to, `added` [C] what damping put on the diagonal of H. Both
    figures are relative to the objective (0 where it is 0). The second, a pass over all weights, is left at 0 where the
    first is at most `enough`.
    """
    objective = energy(found.probed.T, hessian) + float(found.probed.square().sum(1) @ added)
    gap = abs(objective - found.total) / objective if objective > 0 else float("inf")
    if gap <= enough:
        return gap, 0.0
    # Casting W moves every weight by a rounding, which E never sees, and in float64 errors of that size also show
    # through their product with D: what is as small as that cannot be told from a right solution.
    roundings = max(torch.finfo(torch.float64).eps, 4 * torch.finfo(dtype).eps ** 2)
    noise = roundings * float(stack.column_energies() @ (hessian.diagonal().to(torch.float64) + added))
    if objective <= 0:
        return (0.0, 0.0) if found.total <= noise else (gap, 0.0)
    return gap, noise / objective
