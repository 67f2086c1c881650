"""The H of one input, checked once, with the factors that solving with it takes.

A factor costs C^3 and depends on H, damping, arithmetic and column order only. Whoever solves with one H several
times (other bits, groups, sparsities, methods, or other layers that read the same input) builds one `System` and
pays for each factor once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import CalibrationError
from .factor import Attempt, damp_in_place, inverse_factor_of_reversed
from .grid import all_finite

# How far H may be from its transpose, relative to the largest diagonal element: sums of float32 products differ.
_ASYMMETRY = 1e-4
# Rows that are compared with their columns: a matrix that was never made symmetric differs in all of them.
_SAMPLE = 64


class System:
    """Hold H [C, C], positive semidefinite at any positive scale; raises CalibrationError for anything else."""

    def __init__(self, hessian: Tensor):
        if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1] or not len(hessian):
            raise ValueError(f"H is {list(hessian.shape)}; it must be square, [C, C] for C input features")
        if not all_finite(hessian):
            raise CalibrationError(
                "the Hessian of the inputs is not finite: activations overflow or are NaN; check the model on its "
                "calibration tokens"
            )
        sample = torch.arange(0, len(hessian), max(1, len(hessian) // _SAMPLE), device=hessian.device)
        asymmetry = float((hessian[sample] - hessian.index_select(1, sample).T).abs().max())
        largest = float(hessian.diagonal().abs().max())
        if asymmetry > _ASYMMETRY * largest:
            raise CalibrationError(
                f"H differs from its transpose by {asymmetry:.3g} with a diagonal of at most {largest:.3g}: no second "
                "moment X^T X is like that; accumulate it from inputs [N, C]"
            )
        if float(hessian.diagonal().min()) < -_ASYMMETRY * largest:
            raise CalibrationError(
                f"H has {float(hessian.diagonal().min()):.3g} on its diagonal, where sums of squares belong: no second "
                "moment X^T X is like that; accumulate it from inputs [N, C]"
            )
        self.hessian = hessian
        self.dead = hessian.diagonal() <= 0
        self._factors: dict[tuple[Attempt, bytes], Tensor | None] = {}

    @property
    def diagonal(self) -> Tensor:
        """Return H_jj [C], the energy of each input."""
        return self.hessian.diagonal()

    def added(self, damp: float) -> Tensor:
        """Return what damping adds to each element of the diagonal [C] in float64, stand-ins of dead columns too."""
        diagonal = self.diagonal.to(torch.float64)
        live = float(diagonal[~self.dead].mean()) if bool((~self.dead).any()) else 0.0
        return torch.where(self.dead, (live or 1.0) - diagonal, torch.full_like(diagonal, damp * live))

    def factor(self, attempt: Attempt, order: Tensor) -> Tensor | None:
        """Return U [C, C] in solve order, upper triangular, or None where the damped H is not positive definite."""
        key = (attempt, order.cpu().numpy().tobytes())
        if key not in self._factors:
            self._factors[key] = inverse_factor_of_reversed(self._reversed(attempt, order))
        return self._factors[key]

    def forget(self) -> None:
        """Let go of the factors, each as large as H, where nothing more is solved for now."""
        self._factors.clear()

    def _reversed(self, attempt: Attempt, order: Tensor) -> Tensor:
        """Return the damped H with its rows and columns in the reverse of `order`."""
        matrix = self.hessian.to(attempt.dtype, copy=True)
        damp_in_place(matrix, attempt.damp)
        backwards = order.flip(0)
        matrix = matrix[backwards]  # a step at a time, so that two copies are the most there are
        return matrix.index_select(1, backwards)
