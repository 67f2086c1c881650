"""The triangular factor that column solvers walk along, and what is tried when it does not exist.

For H + lam I positive definite, U is the upper triangular matrix with (H + lam I)^-1 = U^T U. Row j of the inverse
that remains after columns 0..j-1 are fixed is U_jj * U[j, :], which is all that a fixed-order solver needs (Frantar
et al. 2022, section 3.3, step 3).

U is the inverse of R in H + lam I = R R^T with R upper triangular, found by one Cholesky factorization of the
matrix in reversed order: a third of the usual "factor, invert, factor again", and without the loss of accuracy of
the second factorization.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .grid import all_finite

_LARGEST_DAMP = 1.0
_SMALLEST_RETRY = 1e-3
# Columns of the inverse solved for together. Leaving out the zeros below them saves up to two thirds, C^3 to C^3 / 3
# flops; whole panels in float32 round as one solve of all columns does, so that only time depends on this number.
_PANEL = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """Name one way to solve: the arithmetic and the damping, relative to the mean of the diagonal."""

    dtype: torch.dtype
    damp: float

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} damp {self.damp:g}"


def attempts(damp: float, first: torch.dtype = torch.float32) -> Iterator[Attempt]:
    """Yield what to try: `first`, then float64 at the same damping, then ten times the damping each, up to 1."""
    yield Attempt(dtype=first, damp=damp)
    if first != torch.float64:
        yield Attempt(dtype=torch.float64, damp=damp)
    retry = max(10 * damp, _SMALLEST_RETRY)
    while retry < _LARGEST_DAMP * (1 + 1e-9):
        yield Attempt(dtype=torch.float64, damp=retry)
        retry *= 10
    if damp < _LARGEST_DAMP and retry / 10 < _LARGEST_DAMP * (1 - 1e-9):
        yield Attempt(dtype=torch.float64, damp=_LARGEST_DAMP)


def damped(hessian: Tensor, damp: float) -> tuple[Tensor, float, Tensor]:
    """Return H + lam I, lam and the mask of dead columns, with lam = damp * mean of the live part of the diagonal.

    A dead column (an input that calibration never excited) has a zero row in H. It gets the mean diagonal, so that
    the matrix can be factored; being decoupled from all others, it is then simply rounded to nearest. Its stand-in
    takes no part in lam, which therefore scales with H.
    """
    system = hessian.clone()
    lam, dead = damp_in_place(system, damp)
    return system, lam, dead


def damp_in_place(hessian: Tensor, damp: float) -> tuple[float, Tensor]:
    """Do what `damped` does to a matrix that nobody needs any more, and return lam and the mask of dead columns."""
    diagonal = hessian.diagonal()
    dead = diagonal <= 0
    live_mean = float(diagonal[~dead].mean()) if bool((~dead).any()) else 0.0
    lam = damp * live_mean
    diagonal.add_(lam)
    diagonal[dead] = live_mean or 1.0
    return lam, dead


def inverse_factor(system: Tensor) -> Tensor | None:
    """Return the upper triangular U with system^-1 = U^T U, or None where the system is not positive definite."""
    return inverse_factor_of_reversed(system.flip(0, 1))


def inverse_factor_of_reversed(system: Tensor) -> Tensor | None:
    """Return the U of `inverse_factor` for a system given with its rows and columns in reversed order."""
    lower, failed = torch.linalg.cholesky_ex(system)
    if int(failed) or not bool(torch.isfinite(lower.diagonal()).all()):
        return None
    size = len(system)
    del system
    upper = lower.flip(0, 1)
    del lower
    width = _PANEL if upper.dtype == torch.float32 and size % _PANEL == 0 else size
    factor = torch.zeros_like(upper)
    for stop in range(width, size + 1, width):
        columns = torch.zeros((stop, width), dtype=upper.dtype, device=upper.device)
        columns[stop - width :].fill_diagonal_(1)
        factor[:stop, stop - width : stop] = torch.linalg.solve_triangular(upper[:stop, :stop], columns, upper=True)
    return factor if all_finite(factor) else None
