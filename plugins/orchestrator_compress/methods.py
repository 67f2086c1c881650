"""What each method does to layers that read one input: stacked weights in, one compressed form a layer out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .criteria import LayerStatistics, Magnitude, Wanda
from .elements import Scope, masks_of, nm_mask
from .errors import PruningError
from .grid import QuantizedWeight, check_finite, round_to_nearest
from .rules import GroupRounding
from .selection import NM
from .settings import Settings
from .solver import Rule, Solution, column_solve
from .sparse import SparseGPT
from .spqr import SpQR
from .stack import Stack
from .system import System
from .weights import LayerWeight, SparseWeight


@dataclass(frozen=True, kw_only=True, slots=True)
class Solved:
    """One layer's compressed form, the solution of its stack (None: nothing was solved) and its rows in that.

    `difference` [C] is what the solve knows of ||W_j - Q_j||^2, in float64, where Q is the form to the bit, and `energy`
    then ||W||^2.
    """

    weight: LayerWeight
    solution: Solution | None
    rows: slice
    difference: Tensor | None = None
    energy: float = 0.0


def check_layer(shape: tuple[int, int], settings: Settings) -> None:
    """Raise CompressionError where a layer of that shape cannot have what the settings ask for."""
    _, columns = shape
    if settings.grid is not None:
        settings.grid.width(columns)
    if settings.method in ("magnitude", "wanda", "sparsegpt"):
        settings.removal.check(columns)
    if settings.method == "sparsegpt" and settings.grid is not None and settings.pattern is not None:
        width = settings.removal.width
        if settings.grid.width(columns) % width:
            raise PruningError(
                f"pattern={settings.pattern} decides {width} inputs at once, which groups of "
                f"{settings.grid.width(columns)} inputs cut apart; choose a multiple of {width} for group_size"
            )


def solve_stack(
    weights: Sequence[Tensor] | Stack,
    system: System | None,
    settings: Settings,
    stored: torch.dtype = torch.float32,
) -> list[Solved]:
    """Compress layers [R_i, C] that read one input with the H of `system`; without one, nothing is compensated.

    `stored` is the type in which weights that stay in floating point are kept. Raises CompressionError (see `errors`).
    """
    stack = weights if isinstance(weights, Stack) else stacked(weights)
    rows = stack.row_ranges
    if settings.method == "rtn":
        assert settings.grid is not None
        whole = round_to_nearest(stack.rows, settings.grid)
        return [Solved(weight=whole.rows(one.start, one.stop), solution=None, rows=one) for one in rows]
    if settings.method in ("magnitude", "wanda"):
        values = stack.rows
        return [
            Solved(
                weight=_masked(values[one], _mask(values[one], system, settings), settings, stored),
                solution=None,
                rows=one,
            )
            for one in rows
        ]
    rule = _rule(settings, stack.heights)
    # Without inputs every direction counts the same, and with a diagonal H no error can be moved anywhere.
    known = system if system is not None else System(torch.eye(len(stack.columns), device=stack.columns.device))
    solution = column_solve(
        stack, known, rule, damp=settings.damping, block_size=settings.block_size, strict=settings.strict
    )
    # Float32 products of a scale and a number of steps are what is served; in float64 they were not rounded yet.
    served = isinstance(rule, GroupRounding) and solution.fixed.dtype == torch.float32
    return [
        Solved(
            weight=form,
            solution=solution,
            rows=one,
            difference=solution.differences[place] if served else None,
            energy=stack.energies[place] if served else 0.0,
        )
        for place, (form, one) in enumerate(zip(_forms(rule, solution, rows, stored), rows, strict=True))
    ]


def stacked(weights: Sequence[Tensor]) -> Stack:
    """Return layers [R_i, C] as methods take them: in float32."""
    return Stack([weight.to(torch.float32) for weight in weights])


def alone(settings: Settings) -> str:
    """Say what a method amounts to where no input is known: what a record then shows."""
    return "pruned by magnitude" if settings.method == "wanda" else str(_rule(settings, [1]).alone)


def _rule(settings: Settings, heights: Sequence[int]) -> GroupRounding | SpQR | SparseGPT:
    grid = settings.grid
    if settings.method == "gptq" and grid is not None:
        return GroupRounding(grid, act_order=settings.act_order)
    if settings.method == "spqr" and grid is not None:
        return SpQR(grid.bits, grid.group_size, tau=settings.tau, bilevel=settings.bilevel, heights=heights)
    rounding = None if grid is None else GroupRounding(grid, act_order="none")
    return SparseGPT(settings.removal, rounding, heights=heights)


def _forms(rule: Rule, solution: Solution, rows: Sequence[slice], stored: torch.dtype) -> list[LayerWeight]:
    if isinstance(rule, SpQR):
        return list(rule.results())
    if isinstance(rule, SparseGPT):
        removed = rule.mask()
        if rule.rounds:
            whole = rule.result()
            return [SparseWeight(removed=removed[one], codes=whole.rows(one.start, one.stop)) for one in rows]
        values = solution.quantized
        return [SparseWeight(removed=removed[one], values=kept_values(values[one], stored)) for one in rows]
    assert isinstance(rule, GroupRounding)
    codes: QuantizedWeight = rule.result()
    return [codes.rows(one.start, one.stop) for one in rows]


def _mask(weight: Tensor, system: System | None, settings: Settings) -> Tensor:
    check_finite(weight)
    data_driven = settings.method == "wanda" and system is not None
    saliency = (
        Wanda().saliency(weight, LayerStatistics(hessian=system)) if data_driven else Magnitude().saliency(weight)
    )
    removal = settings.removal
    if isinstance(removal, NM):
        return nm_mask(saliency, removal)
    # Wanda compares the weights of an output (Sun et al. 2023, section 3), magnitude those of a layer.
    scope: Scope = "row" if settings.method == "wanda" else "layer"
    return masks_of({"layer": saliency}, settings.sparsity, scope=scope)["layer"]


def _masked(weight: Tensor, removed: Tensor, settings: Settings, stored: torch.dtype) -> SparseWeight:
    kept = weight.masked_fill(removed, 0)
    if settings.grid is None:
        return SparseWeight(removed=removed, values=kept_values(kept, stored))
    return SparseWeight(removed=removed, codes=round_to_nearest(kept, settings.grid))


def kept_values(values: Tensor, stored: torch.dtype) -> Tensor:
    """Return weights in the type that they are stored in; PruningError for one that does not fit it."""
    kept = values.to(stored).contiguous()
    if not bool(torch.isfinite(kept).all()):
        raise PruningError(
            f"a weight of {float(values.abs().max()):.3g} does not fit the checkpoint's {stored}; convert the checkpoint to float32"
        )
    return kept
