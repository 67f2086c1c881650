"""What holds for every rule of the column solver, and what each makes of inputs that are no good."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from orchestrator_compress.bilevel import Bilevel
from orchestrator_compress.errors import CalibrationError, SolveError, WeightError
from orchestrator_compress.factor import damped
from orchestrator_compress.grid import Grid
from orchestrator_compress.rules import GroupRounding
from orchestrator_compress.selection import NM, Unstructured, smallest
from orchestrator_compress.solver import Rule, column_solve
from orchestrator_compress.sparse import Masked, SparseGPT
from orchestrator_compress.spqr import SpQR

from .test_solver import problem

ROWS, COLUMNS = 40, 48
REMOVED = smallest(torch.rand((ROWS, COLUMNS), generator=torch.Generator().manual_seed(5)), 20)
GRID = Grid(bits=3, group_size=16)
ASYMMETRIC = Grid(bits=4, group_size=8, symmetric=False)

RULES: dict[str, Callable[[], Rule]] = {
    "gptq none": lambda: GroupRounding(GRID, act_order="none"),
    "gptq static": lambda: GroupRounding(ASYMMETRIC, act_order="static"),
    "gptq dynamic": lambda: GroupRounding(GRID, act_order="dynamic"),
    "gptq group": lambda: GroupRounding(ASYMMETRIC, act_order="group"),
    "spqr": lambda: SpQR(3, 16, tau=0.1),
    "spqr without outliers": lambda: SpQR(4, 8, tau=float("inf"), bilevel=Bilevel(rows=8)),
    "sparsegpt": lambda: SparseGPT(Unstructured(sparsity=0.5, width=16)),
    "sparsegpt 2:4": lambda: SparseGPT(NM()),
    "joint": lambda: SparseGPT(NM(keep=4, of=8), GroupRounding(GRID, act_order="static")),
    "masked": lambda: Masked(REMOVED),
}
every_rule = pytest.mark.parametrize("make", RULES.values(), ids=RULES.keys())


def deficient() -> Tensor:
    """Build an H of fewer tokens than columns, with a duplicate and a dead input."""
    inputs = torch.randn((9, COLUMNS), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    inputs[:, 7] = inputs[:, 8]
    inputs[:, 20] = 0
    return inputs.T @ inputs / 9


@every_rule
def test_the_loss_identity(make: Callable[[], Rule]) -> None:
    """tr(D (H + lam I) D^T) = ||E||^2, row by row: 1e-10 in float64, 1e-3 in float32, as each solve records."""
    weight, hessian = problem(ROWS, COLUMNS)
    system, _, _ = damped(hessian, 0.01)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-3)):
        solution = column_solve(weight, hessian, make(), dtype=dtype, block_size=20)
        difference = weight - solution.quantized.double()
        expected = ((difference @ system) * difference).sum(1)
        torch.testing.assert_close(
            solution.row_errors, expected, rtol=tolerance, atol=tolerance * float(expected.mean())
        )
        assert solution.identity_error is not None
        assert solution.identity_error < tolerance
        assert not solution.fallback


@every_rule
@pytest.mark.parametrize("block", [1, 7, 20, COLUMNS])
def test_blocks_change_nothing(make: Callable[[], Rule], block: int) -> None:
    """Lazy updates in blocks of any size end where one block of all columns ends."""
    weight, hessian = problem(ROWS, COLUMNS)
    blocked = column_solve(weight, hessian, make(), dtype=torch.float64, block_size=block)
    whole = column_solve(weight, hessian, make(), dtype=torch.float64, block_size=2 * COLUMNS)
    torch.testing.assert_close(blocked.quantized, whole.quantized, atol=1e-10, rtol=0)


@every_rule
def test_the_scale_of_the_hessian_is_no_matter(make: Callable[[], Rule]) -> None:
    """Damping and thresholds are relative: H and c H end at the same weights, errors scale by c."""
    weight, hessian = problem(ROWS, COLUMNS)
    one = column_solve(weight, hessian, make(), dtype=torch.float64)
    for factor in (2.0**-20, 1024.0):
        other = column_solve(weight, factor * hessian, make(), dtype=torch.float64)
        torch.testing.assert_close(other.quantized, one.quantized, atol=1e-10, rtol=0)
        torch.testing.assert_close(other.row_errors, factor * one.row_errors, rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", [name for name in RULES if not name.startswith("spqr") and name != "masked"])
def test_rows_may_stand_in_any_order(name: str) -> None:
    """Permuted rows give permuted results (SpQR's tiles alone tie rows to their neighbours)."""
    weight, hessian = problem(ROWS, COLUMNS)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    straight = column_solve(weight, hessian, RULES[name](), dtype=torch.float64)
    permuted = column_solve(weight[order], hessian, RULES[name](), dtype=torch.float64)
    torch.testing.assert_close(permuted.quantized, straight.quantized[order], atol=1e-11, rtol=0)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deficient_inputs_are_solved_or_recorded(make: Callable[[], Rule], dtype: torch.dtype) -> None:
    """Too few tokens, duplicate, dead and zero inputs, a zero row: finite weights, and a record of what it took."""
    weight, _ = problem(ROWS, COLUMNS)
    weight[2] = 0
    hessian = deficient()
    damp = column_solve(weight, hessian, make(), dtype=dtype)
    assert damp.dead_columns == 1
    assert not damp.fallback
    bare = column_solve(weight, hessian, make(), dtype=dtype, damp=0.0)
    assert bare.damp > 0
    assert "damp 0: " in bare.fallback
    empty = column_solve(weight, torch.zeros_like(hessian), make(), dtype=dtype)
    assert empty.dead_columns == COLUMNS
    token = torch.randn(COLUMNS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    single = column_solve(weight, torch.outer(token, token), make(), dtype=dtype)
    for solution in (damp, bare, empty, single):
        assert bool(torch.isfinite(solution.quantized).all())
        assert solution.identity_error is not None
        assert not bool(solution.quantized[2].any())
    with pytest.raises(SolveError, match="strict mode forbids"):
        column_solve(weight, hessian, make(), dtype=dtype, damp=0.0, strict=True)


@every_rule
def test_an_impossible_system_is_no_secret(make: Callable[[], Rule]) -> None:
    """Where no damping helps, columns are fixed on their own and the record says what that amounts to."""
    weight, hessian = problem(ROWS, COLUMNS)
    hessian[0, 1] = hessian[1, 0] = 1e3
    rule = make()
    solution = column_solve(weight, hessian, rule)
    assert solution.identity_error is None
    assert solution.arithmetic == "uncompensated"
    assert solution.fallback.endswith(rule.alone)
    assert bool(torch.isfinite(solution.quantized).all())


@every_rule
def test_what_is_not_finite_is_refused(make: Callable[[], Rule]) -> None:
    """NaN and infinity in weights or inputs have names of their own."""
    weight, hessian = problem(ROWS, COLUMNS)
    for value in (float("nan"), float("inf")):
        broken = weight.clone()
        broken[3, 4] = value
        with pytest.raises(WeightError, match=r"\[3, 4\]"):
            column_solve(broken, hessian, make())
        overflown = hessian.clone()
        overflown[5, 5] = value
        with pytest.raises(CalibrationError, match="not finite"):
            column_solve(weight, overflown, make())


def test_without_a_system_pruning_still_weighs_inputs() -> None:
    """The uncompensated SparseGPT chooses by w^2 H_jj, as Wanda does, rather than by magnitude."""
    weight, hessian = problem(ROWS, COLUMNS)
    hessian[0, 1] = hessian[1, 0] = 1e3
    rule = SparseGPT(Unstructured(sparsity=0.5, width=COLUMNS))
    solution = column_solve(weight, hessian, rule, damp=0.0)
    costs = (weight.square() * hessian.diagonal()).T.reshape(-1)
    expected = smallest(costs, weight.numel() // 2).view(COLUMNS, ROWS).T
    assert torch.equal(rule.mask(), expected)
    torch.testing.assert_close(solution.quantized, weight.masked_fill(expected, 0).float())
