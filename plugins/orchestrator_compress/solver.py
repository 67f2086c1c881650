"""One solver for every rule that fixes a layer's weights column by column and compensates in the columns that are left.

Source: Frantar et al. 2022 (arXiv:2210.17323), algorithm 1, with the rule that fixes a column (rounding, pruning,
both) taken out of the loop.

    W [R, C]   weights, one output per row        H [C, C]   X^T X of the inputs, at any positive scale
    U [C, C]   (H + lam I)^-1 = U^T U, upper      E [R, C]   (w_j - q_j) / U_jj, the scaled error of each column

Invariants: W - Q = E U, hence tr((W - Q) (H + lam I) (W - Q)^T) = ||E||^2 for *any* rule. Every solve checks it and
records how far it is off. Rows never mix in the solver, so layers that share their input are solved stacked on top of
each other with one factor (rules that choose among rows take the heights of the layers).

Cost in flops: C^3 / 3 for the Cholesky factor, C^3 / 3 for its inverse, R C^2 for the updates, against C^3 / 3 and
2 R C^2 of one Cholesky factorization and one product W H. Updates are applied lazily, first within tiles of `TILE`
columns, then within blocks, then as one matrix product for all columns to the right, so that only R C `TILE` flops
are not in matrix products; W is kept transposed, so that a column is contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .deviations import deviations
from .errors import SolveError
from .factor import Attempt, attempts
from .objective import identity_gap
from .order import explicit
from .stack import Stack
from .system import System

#: Columns whose errors correct the rest of their block in one product.
TILE = 16
# How far ||E||^2 may be from the damped objective before a solve counts as failed, relative to the latter.
_IDENTITY_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-10}


class Rule(Protocol):
    """Decide what becomes of each column; called in solve order, once per attempt from `begin` on."""

    @property
    def alone(self) -> str:
        """Say what the rule amounts to where no system can be solved: what a record then shows."""
        ...

    def order(self, diagonal: Tensor) -> Tensor:
        """Return the columns [C] in the order of solving, given H_jj [C]."""
        ...

    def begin(self, columns: Columns) -> None:
        """Look at the columns before any is fixed and forget what an earlier attempt left."""
        ...

    def fix(self, position: int, values: Tensor) -> Tensor:
        """Return what the column at `position` becomes, given its current values [R]."""
        ...


@runtime_checkable
class TileRule(Rule, Protocol):
    """A rule that can also fix several columns in one call, with the very result of one call each.

    A whole block is asked for first, then each of its tiles.
    """

    def fix_tile(self, start: int, stop: int) -> bool:
        """Fix positions start..stop, errors and the updates among them included, or return False and touch nothing."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """Hold what became of W [R, C], each row's ||E||^2 [R] in float64, and how the system was solved.

    `fixed` is Q^T [C, R], columns in the `order` of solving [C], and `differences` [L, C] in float64 the squares of
    W - Q added up over the rows of each layer of the stack. `identity_error` is None where nothing was solved;
    `row_errors` are then those of a diagonal H.
    """

    fixed: Tensor
    order: Tensor
    row_errors: Tensor
    differences: Tensor
    identity_error: float | None
    damp: float
    arithmetic: str
    fallback: str
    dead_columns: int

    @property
    def quantized(self) -> Tensor:
        """Return Q [R, C] in the original column order, made anew each time."""
        restored = torch.empty_like(self.fixed)
        restored[self.order] = self.fixed
        return restored.T.contiguous()


class Columns:
    """The state of an attempt: transposed weights in solve order, scaled errors, and the updates still pending.

    `pivots` [C] are U_jj in solve order; an entry that changes by d costs d^2 / U_jj^2 after compensation, which is
    the sensitivity that rules choose by. Without a factor they are those of the diagonal of H. `dead` [C] marks, in solve
    order, inputs that calibration never saw: whatever becomes of their weights costs nothing.
    """

    def __init__(
        self, stack: Stack, factor: Tensor | None, order: Tensor, block_size: int, pivots: Tensor, dead: Tensor
    ):
        self.stack = stack
        self.order = order.tolist()
        self.work = stack.columns.index_select(0, order).to(pivots.dtype)
        self.factor = factor
        self.pivots = pivots
        self.dead = dead[order]
        self.scaled_errors = torch.empty_like(self.work)
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

    def stale(self, start: int, stop: int) -> Tensor:
        """Return those values as they were when the block of the column being fixed began.

        This is what the GPTQ code fits a group on that begins inside a block; it depends on the block size.
        """
        values = self.current(start, stop)
        block_start = self._block[0]
        if self.factor is not None and block_start < start:
            values += self.factor[block_start:start, start:stop].T @ self.scaled_errors[block_start:start]
        return values

    def run(self, rule: Rule) -> None:
        """Fix every column in order; `work` then holds the result."""
        total = len(self.work)
        rule.begin(self)
        at_once = rule if isinstance(rule, TileRule) else None
        for block_start in range(0, total, self._block_size):
            block_stop = min(block_start + self._block_size, total)
            self._block = self._tile = (block_start, block_stop)
            if at_once is None or not at_once.fix_tile(block_start, block_stop):
                self._fix_block(rule, block_start, block_stop)
            self._update(block_start, block_stop, total)

    def _fix_block(self, rule: Rule, block_start: int, block_stop: int) -> None:
        at_once = rule if isinstance(rule, TileRule) else None
        for start in range(block_start, block_stop, TILE):
            stop = min(start + TILE, block_stop)
            self._tile = (start, stop)
            if at_once is None or not at_once.fix_tile(start, stop):
                self._fix_tile(rule, start, stop)
            self._update(start, stop, block_stop)

    def _fix_tile(self, rule: Rule, start: int, stop: int) -> None:
        work, errors, factor = self.work, self.scaled_errors, self.factor
        # Scalars are read once per tile: an element of a tensor costs as much as a small vector operation.
        for position, pivot in zip(range(start, stop), self.pivots[start:stop].tolist(), strict=True):
            values = work[position]
            fixed = rule.fix(position, values)
            error = errors[position]
            torch.sub(values, fixed, out=error)
            error.div_(pivot)
            if factor is not None and position + 1 < stop:
                work[position + 1 : stop].addr_(factor[position, position + 1 : stop], error, alpha=-1)
            values.copy_(fixed)

    def _update(self, start: int, fixed_stop: int, stop: int) -> None:
        """Apply the errors of positions start..fixed_stop to positions fixed_stop..stop."""
        if self.factor is not None and fixed_stop < stop:
            self.work[fixed_stop:stop].addmm_(
                self.factor[start:fixed_stop, fixed_stop:stop].T, self.scaled_errors[start:fixed_stop], alpha=-1
            )


def column_solve(
    W: Tensor | Stack,
    H: Tensor | System,
    rule: Rule,
    *,
    damp: float = 0.01,
    order: str | Tensor | None = None,
    block_size: int = 128,
    dtype: torch.dtype | None = None,
    strict: bool = False,
) -> Solution:
    """Fix the columns of W [R, C] by `rule`, each time moving the error onto the columns still free.

    `H` [C, C] is positive semidefinite at any positive scale; a `System` of it keeps its factors for further solves, as
    a `Stack` of W keeps what they share.
    `dtype` is what is computed in: by default float64 where W and H both are, else float32. `order` is the rule's own, or "diagonal" (largest H_jj first), "natural" or a permutation [C]. Where a system
    cannot be solved, what `factor.attempts` lists is tried in turn, and in the end columns are fixed without
    compensation; each step is in `Solution.fallback`. Raises WeightError or CalibrationError for values that are not
    finite, SolveError in strict mode instead of changing the damping.
    """
    system = H if isinstance(H, System) else System(H)
    stack = W if isinstance(W, Stack) else Stack([W])
    if dtype is None:
        double = stack.dtype == system.hessian.dtype == torch.float64
        dtype = torch.float64 if double else torch.float32
    _check(stack, system, damp, block_size, dtype)
    chosen = rule.order(system.diagonal) if order is None else explicit(order, system.diagonal)
    failures: list[str] = []
    for attempt in attempts(damp, dtype):
        if strict and attempt.damp != damp:
            break
        solution = _attempt(stack, system, rule, attempt, order=chosen, block_size=block_size, failures=failures)
        if solution is not None:
            return solution
    if strict:
        raise SolveError(
            f"no solution at damp={damp:g} ({'; '.join(failures)}) and strict mode forbids another; raise `damp` or "
            "use more calibration tokens"
        )
    return _without_compensation(stack, system, rule, damp, chosen, block_size, failures)


def _attempt(
    stack: Stack,
    system: System,
    rule: Rule,
    attempt: Attempt,
    *,
    order: Tensor,
    block_size: int,
    failures: list[str],
) -> Solution | None:
    factor = system.factor(attempt, order)
    if factor is None:
        failures.append(f"{attempt}: not positive definite")
        return None
    columns = Columns(stack, factor, order, block_size, factor.diagonal(), system.dead)
    columns.run(rule)
    found = deviations(stack.columns, columns.work, columns.scaled_errors, order, stack.heights)
    added, enough = system.added(attempt.damp), _IDENTITY_TOLERANCE[attempt.dtype]
    gap, noise = identity_gap(found, stack, system.hessian, added, attempt.dtype, enough=enough)
    if not gap <= max(enough, noise):
        failures.append(f"{attempt}: loss identity off by {gap:.1e}")
        return None
    return Solution(
        fixed=columns.work,
        order=order,
        row_errors=found.rows,
        differences=found.columns,
        identity_error=gap,
        damp=attempt.damp,
        arithmetic=str(attempt.dtype).removeprefix("torch."),
        fallback="; ".join(failures),
        dead_columns=int(system.dead.sum()),
    )


def _without_compensation(
    stack: Stack, system: System, rule: Rule, damp: float, order: Tensor, block_size: int, failures: list[str]
) -> Solution:
    diagonal = (system.diagonal.to(torch.float64) + system.added(damp)).to(torch.float32)
    columns = Columns(stack, None, order, block_size, diagonal[order].rsqrt(), system.dead)
    columns.run(rule)
    found = deviations(stack.columns, columns.work, columns.scaled_errors, order, stack.heights)
    return Solution(
        fixed=columns.work,
        order=order,
        row_errors=found.rows,
        differences=found.columns,
        identity_error=None,
        damp=0.0,
        arithmetic="uncompensated",
        fallback="; ".join([*failures, rule.alone]),
        dead_columns=int(system.dead.sum()),
    )


def _check(stack: Stack, system: System, damp: float, block_size: int, dtype: torch.dtype) -> None:
    stack.check(len(system.hessian))
    if not 0 <= damp <= 1 or block_size < 1:
        raise ValueError(f"damp={damp}, block_size={block_size}; damp lies in 0..1, a block has at least one column")
    if dtype not in _IDENTITY_TOLERANCE:
        raise ValueError(f"dtype={dtype}; systems are solved in float32 or float64")
