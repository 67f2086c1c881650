"""What a solution costs, and the identity that proves it.

For D = W - Q, E = (w_j - q_j) / U_jj and (H + lam I)^-1 = U^T U, the solver's updates mean D = E U, hence
tr(D (H + lam I) D^T) = ||E||^2 whatever the rule (Frantar et al. 2022, with section 3.3 read as an equation). No
other check covers factor, order, lazy updates and rule at once.

Evaluating the trace takes 2 R C^2 flops in float64, more than the solve itself. D = E U also gives
g D (H + lam I) D^T g^T = ||g E||^2 for every row vector g, so that a few random sign vectors check it in 2 C^2 flops
each: an error anywhere in D shows in each of them with probability at least a half. Layers of up to `_PROBES` rows
are checked row by row, that is, exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PROBES = 32
_CHUNK = 1024
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
    weight: Tensor, quantized: Tensor, hessian: Tensor, added: Tensor, scaled_errors: Tensor, *, enough: float = 0.0
) -> tuple[float, float]:
    """Return how far ||E||^2 is from the damped objective, relative to it, and what rounding alone explains.

    `weight` and `quantized` are [R, C], `added` [C] is what damping put on the diagonal of H, `scaled_errors` [C, R]
    are in original column order or any other. Both figures are relative to the objective (0 where it is 0). The second,
    a pass over all weights, is left at 0 where the first is at most `enough`.
    """
    signs = _probes(len(weight), weight.device)
    wide = torch.promote_types(weight.dtype, quantized.dtype)
    probed = torch.zeros((len(signs), weight.shape[1]), dtype=torch.float64, device=weight.device)
    for start in range(0, len(weight), _CHUNK):
        # In the wider of the two types: D is then exact to a rounding, which is far below what is asked of it.
        difference = weight[start : start + _CHUNK].to(wide) - quantized[start : start + _CHUNK].to(wide)
        probed += signs[:, start : start + _CHUNK].to(wide) @ difference
    objective = float(probed.square() @ added @ torch.ones(len(signs), dtype=torch.float64, device=weight.device))
    for start in range(0, len(hessian), _CHUNK):
        part = hessian[start : start + _CHUNK].to(torch.float64)
        objective += float(((probed[:, start : start + _CHUNK] @ part) * probed).sum())
    total = sum(
        float((part @ signs.T.to(part.dtype)).to(torch.float64).square().sum()) for part in scaled_errors.split(_CHUNK)
    )
    gap = abs(objective - total) / objective if objective > 0 else float("inf")
    if gap <= enough:
        return gap, 0.0
    # Casting W moves every weight by a rounding, which E never sees, and in float64 errors of that size also show
    # through their product with D: what is as small as that cannot be told from a right solution.
    roundings = max(torch.finfo(torch.float64).eps, 4 * torch.finfo(quantized.dtype).eps ** 2)
    columns = sum(rows.to(torch.float64).square().sum(0) for rows in weight.split(_CHUNK))
    noise = roundings * float(columns @ (hessian.diagonal().to(torch.float64) + added))
    if objective <= 0:
        return (0.0, 0.0) if total <= noise else (gap, 0.0)
    return gap, noise / objective


def _probes(rows: int, device: torch.device) -> Tensor:
    if rows <= _PROBES:
        return torch.eye(rows, dtype=torch.float64, device=device)
    # A generator of its own: the check must neither depend on nor move the global one.
    generator = torch.Generator().manual_seed(rows)
    signs = torch.randint(2, (_PROBES, rows), generator=generator).mul_(2).sub_(1)
    return signs.to(device=device, dtype=torch.float64).div_(_PROBES**0.5)
