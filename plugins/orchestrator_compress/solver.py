"""One solver for every rule that fixes a layer's weights column by column and compensates in the columns that are left.

Source: Frantar et al. 2022 (arXiv:2210.17323), algorithm 1, with the rule that fixes a column (rounding, pruning,
both) taken out of the loop.

    W [R, C]   weights, one output per row        H [C, C]   X^T X of the inputs, at any positive scale
    U [C, C]   (H + lam I)^-1 = U^T U, upper      E [R, C]   (w_j - q_j) / U_jj, the scaled error of each column

Invariants: W - Q = E U, hence tr((W - Q) (H + lam I) (W - Q)^T) = ||E||^2 for *any* rule. Every solve checks it and
records how far it is off. Rows never mix, so layers that share their input are solved stacked on top of each other
with one factor. Cost: C^3 / 3 for each of the factor and its inverse, R C^2 / 2 for the updates. Those are applied
lazily, first within tiles of `_TILE` columns, then within blocks, then as one matrix product for all columns to the
right; W is kept transposed, so that a column is contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .errors import CalibrationError, SolveError
from .factor import Attempt, attempts, damped, inverse_factor
from .grid import check_finite

_TILE = 16
# How far ||E||^2 may be from the damped objective before a solve counts as failed, relative to the latter.
_IDENTITY_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}


class Rule(Protocol):
    """Decide what becomes of each column; called in solve order, once per attempt from `begin` on."""

    def begin(self, columns: Columns) -> None:
        """Look at the columns before any is fixed and forget what an earlier attempt left."""
        ...

    def fix(self, position: int, values: Tensor) -> Tensor:
        """Return what the column at `position` becomes, given its current values [R]."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """Hold Q [R, C] in the original column order, each row's ||E||^2, and how the system was solved."""

    quantized: Tensor
    row_errors: Tensor
    identity_error: float | None
    damp: float
    arithmetic: str
    fallback: str
    dead_columns: int


class Columns:
    """The state of an attempt: transposed weights in solve order, scaled errors, and the updates still pending."""

    def __init__(self, weight: Tensor, factor: Tensor | None, order: Tensor, block_size: int):
        self.order = order.tolist()
        self.work = weight.T[order].contiguous()
        self.factor = factor
        self.scaled_errors = torch.zeros_like(self.work)
        self._block_size = block_size
        self._block = self._tile = (0, 0)

    def current(self, start: int, stop: int) -> Tensor:
        """Return the values [stop - start, R] of positions from the one being fixed on, all updates applied.

        Fitting on the stored values instead would make the result depend on the block size wherever a group starts
        inside a block.
        """
        values = self.work[start:stop].clone()
        if self.factor is None:
            return values
        (block_start, block_stop), (tile_start, tile_stop) = self._block, self._tile
        for pending_from, first, end in (
            (tile_start, tile_stop, block_stop),
            (block_start, block_stop, len(self.work)),
        ):
            low, high = max(first, start), min(end, stop)
            if low < high and pending_from < start:
                update = self.factor[pending_from:start, low:high].T @ self.scaled_errors[pending_from:start]
                values[low - start : high - start] -= update
        return values

    def run(self, rule: Rule) -> None:
        """Fix every column in order; `work` then holds the result."""
        total = len(self.work)
        rule.begin(self)
        for block_start in range(0, total, self._block_size):
            block_stop = min(block_start + self._block_size, total)
            self._block = (block_start, block_stop)
            for tile_start in range(block_start, block_stop, _TILE):
                tile_stop = min(tile_start + _TILE, block_stop)
                self._tile = (tile_start, tile_stop)
                self._fix_tile(rule, tile_start, tile_stop)
                self._update(tile_start, tile_stop, block_stop)
            self._update(block_start, block_stop, total)

    def _fix_tile(self, rule: Rule, start: int, stop: int) -> None:
        work, errors, factor = self.work, self.scaled_errors, self.factor
        # Scalars are read once per tile: an element of a tensor costs as much as a small vector operation.
        pivots = [1.0] * (stop - start) if factor is None else factor.diagonal()[start:stop].tolist()
        for position, pivot in zip(range(start, stop), pivots, strict=True):
            values = work[position]
            fixed = rule.fix(position, values)
            error = errors[position]
            torch.sub(values, fixed, out=error)
            if factor is not None:
                error.div_(pivot)
                if position + 1 < stop:
                    work[position + 1 : stop].addr_(factor[position, position + 1 : stop], error, alpha=-1)
            values.copy_(fixed)

    def _update(self, start: int, fixed_stop: int, stop: int) -> None:
        """Apply the errors of positions start..fixed_stop to positions fixed_stop..stop."""
        if self.factor is not None and fixed_stop < stop:
            self.work[fixed_stop:stop].addmm_(
                self.factor[start:fixed_stop, fixed_stop:stop].T, self.scaled_errors[start:fixed_stop], alpha=-1
            )


def column_solve(
    W: Tensor,
    H: Tensor,
    rule: Rule,
    *,
    damp: float = 0.01,
    order: str = "diagonal",
    block_size: int = 128,
    dtype: torch.dtype = torch.float32,
    strict: bool = False,
) -> Solution:
    """Fix the columns of W [R, C] by `rule`, each time moving the error onto the columns still free.

    `H` [C, C] is positive semidefinite at any positive scale; `order` is "diagonal" (largest H_jj first) or
    "natural". Where a system cannot be solved, what `factor.attempts` lists is tried in turn, and in the end
    columns are fixed without compensation; each step is in `Solution.fallback`. Raises WeightError or
    CalibrationError for values that are not finite, SolveError in strict mode instead of changing the damping.
    """
    check_finite(W)
    _check_hessian(W, H)
    failures: list[str] = []
    for attempt in attempts(damp, dtype):
        if strict and attempt.damp != damp:
            break
        solution = _attempt(W, H, rule, attempt, order=order, block_size=block_size, failures=failures)
        if solution is not None:
            return solution
    if strict:
        raise SolveError(
            f"no solution at damp={damp:g} ({'; '.join(failures)}) and strict mode forbids another; raise `damp` or "
            "use more calibration tokens"
        )
    return _without_compensation(W, H, rule, block_size, failures)


def _attempt(
    W: Tensor, H: Tensor, rule: Rule, attempt: Attempt, *, order: str, block_size: int, failures: list[str]
) -> Solution | None:
    system, _, dead = damped(H.to(attempt.dtype), attempt.damp)
    permutation = _permutation(H, order)
    factor = inverse_factor(system[permutation][:, permutation])
    if factor is None:
        failures.append(f"{attempt}: not positive definite")
        return None
    columns = Columns(W.to(attempt.dtype), factor, permutation, block_size)
    columns.run(rule)
    quantized = _restored(columns)
    row_errors = columns.scaled_errors.to(torch.float64).square().sum(0)
    identity_error = _identity_error(W, quantized, system, row_errors)
    if not identity_error <= _IDENTITY_TOLERANCE[attempt.dtype]:
        failures.append(f"{attempt}: loss identity off by {identity_error:.1e}")
        return None
    return Solution(
        quantized=quantized,
        row_errors=row_errors,
        identity_error=identity_error,
        damp=attempt.damp,
        arithmetic=str(attempt.dtype).removeprefix("torch."),
        fallback="; ".join(failures),
        dead_columns=int(dead.sum()),
    )


def _without_compensation(W: Tensor, H: Tensor, rule: Rule, block_size: int, failures: list[str]) -> Solution:
    columns = Columns(W.to(torch.float32), None, _permutation(H, "natural"), block_size)
    columns.run(rule)
    return Solution(
        quantized=_restored(columns),
        row_errors=columns.scaled_errors.to(torch.float64).square().sum(0),
        identity_error=None,
        damp=0.0,
        arithmetic="round to nearest",
        fallback="; ".join([*failures, "rounded to nearest"]),
        dead_columns=int((H.diagonal() <= 0).sum()),
    )


def quadratic(difference: Tensor, hessian: Tensor) -> float:
    """Return tr(D H D^T) in float64, the squared output error on the inputs behind H, for D [R, C] = W - Q."""
    difference = difference.to(torch.float64)
    return float((difference @ hessian.to(torch.float64)).mul_(difference).sum())


def _identity_error(W: Tensor, quantized: Tensor, system: Tensor, row_errors: Tensor) -> float:
    objective = quadratic(W.to(torch.float64) - quantized.to(torch.float64), system)
    total = float(row_errors.sum())
    return abs(objective - total) / objective if objective > 0 else abs(total)


def _restored(columns: Columns) -> Tensor:
    restored = torch.empty_like(columns.work)
    restored[columns.order] = columns.work
    return restored.T.contiguous()


def _permutation(H: Tensor, order: str) -> Tensor:
    if order == "natural":
        return torch.arange(len(H), device=H.device)
    if order == "diagonal":
        return torch.argsort(H.diagonal(), descending=True, stable=True)
    raise ValueError(f"order={order!r}; columns are solved in 'diagonal' or 'natural' order")


def _check_hessian(W: Tensor, H: Tensor) -> None:
    if W.ndim != 2 or H.shape != (W.shape[1], W.shape[1]):
        raise ValueError(f"W is {list(W.shape)} and H {list(H.shape)}; H must be [C, C] for W [R, C]")
    if not bool(torch.isfinite(H).all()):
        raise CalibrationError(
            "the Hessian of the inputs is not finite: activations overflow or are NaN; check the model on its "
            "calibration tokens"
        )
