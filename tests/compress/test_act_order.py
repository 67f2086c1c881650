"""Column orders and what they do to groups, the identity check, and factors that several solves share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from orchestrator_compress.deviations import deviations
from orchestrator_compress.errors import CalibrationError, CheckpointError
from orchestrator_compress.factor import damped, inverse_factor, inverse_factor_of_reversed
from orchestrator_compress.formats.compressed_tensors import CODEC
from orchestrator_compress.grid import Grid, encode, fit
from orchestrator_compress.objective import identity_gap, quadratic
from orchestrator_compress.order import by_diagonal, by_group
from orchestrator_compress.rules import GroupRounding
from orchestrator_compress.solver import column_solve
from orchestrator_compress.stack import Stack
from orchestrator_compress.system import System

from .test_solver import problem


def naive(weight: Tensor, hessian: Tensor, grid: Grid, order: Tensor, *, stale_block: int | None = None) -> Tensor:
    """GPTQ without blocks: explicit downdates of the inverse, groups along `order` fitted when they begin.

    With `stale_block`, they are fitted on what W was when the block of that many columns began, as the GPTQ code does.
    """
    size = len(hessian)
    inverse = torch.linalg.inv(hessian + 0.01 * hessian.diagonal().mean() * torch.eye(size, dtype=hessian.dtype))
    current, quantized = weight.clone(), torch.zeros_like(weight)
    kept = current
    for position, column in enumerate(order.tolist()):
        if stale_block is None or position % stale_block == 0:
            kept = current.clone()
        if position % grid.group_size == 0:
            scales, zeros = fit(kept[:, order[position : position + grid.group_size]], grid, dim=1)
        quantized[:, column] = (encode(current[:, column], scales, zeros, grid) - zeros) * scales
        error = (current[:, column] - quantized[:, column]) / inverse[column, column]
        current = current - torch.outer(error, inverse[column])
        inverse = inverse - torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return quantized


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("act_order", ["none", "dynamic", "group"])
def test_every_order_is_obq_in_that_order(act_order: str, symmetric: bool) -> None:
    """Groups fitted as they begin: the blocked solver equals explicit inverse downdates column by column."""
    weight, hessian = problem(5, 24)
    grid = Grid(bits=3, group_size=8, symmetric=symmetric, scale_dtype="float32")
    order = {"none": torch.arange(24), "dynamic": by_diagonal(hessian.diagonal())}.get(act_order)
    if order is None:
        order = by_group(hessian.diagonal(), 8)
    rule = GroupRounding(grid, act_order=act_order)
    solution = column_solve(weight, hessian, rule, dtype=torch.float64, block_size=10)
    torch.testing.assert_close(solution.quantized, naive(weight, hessian, grid, order), atol=1e-11, rtol=0)


@pytest.mark.parametrize(("group", "block"), [(4, 16), (8, 12), (16, 8), (8, 8)])
def test_the_stale_fit_is_that_of_the_reference(group: int, block: int) -> None:
    """Fitting on what the block began with is reproduced for any block, and differs where groups begin inside one."""
    weight, hessian = problem(6, 48)
    grid = Grid(bits=3, group_size=group, scale_dtype="float32")
    stale = GroupRounding(grid, act_order="none", group_fit="stale")
    solution = column_solve(weight, hessian, stale, dtype=torch.float64, block_size=block)
    expected = naive(weight, hessian, grid, torch.arange(48), stale_block=block)
    torch.testing.assert_close(solution.quantized, expected, atol=1e-11, rtol=0)
    current = column_solve(weight, hessian, GroupRounding(grid, act_order="none"), dtype=torch.float64)
    assert torch.allclose(current.quantized, expected, atol=1e-11) == (group % block == 0)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("act_order", ["none", "static", "dynamic", "group"])
def test_codes_stand_for_the_solution(act_order: str, symmetric: bool) -> None:
    """Codes, scales, zero points and group indices dequantize to the solver's weights; indices exist for dynamic only."""
    weight, hessian = problem(6, 64)
    rule = GroupRounding(Grid(bits=4, group_size=16, symmetric=symmetric), act_order=act_order)
    solution = column_solve(weight, hessian, rule, dtype=torch.float64)
    quantized = rule.result()
    torch.testing.assert_close(quantized.dequantize(torch.float64), solution.quantized, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        quantized.rows(2, 5).dequantize(torch.float64), solution.quantized[2:5], rtol=1e-6, atol=0
    )
    assert (quantized.groups is not None) == (act_order == "dynamic")
    if quantized.groups is not None:
        assert quantized.groups.unique(return_counts=True)[1].tolist() == [16] * 4
        with pytest.raises(CheckpointError, match="act_order 'static' or 'group'"):
            CODEC.tensors("layer", quantized)


def test_the_group_order_keeps_groups_together() -> None:
    """Inside groups and among them, energies fall; each group is one run of positions."""
    diagonal = torch.rand(48, generator=torch.Generator().manual_seed(0))
    order = by_group(diagonal, 8)
    assert torch.equal(order.sort().values, torch.arange(48))
    runs = order.view(6, 8)
    assert all(len(set((run // 8).tolist())) == 1 for run in runs)
    assert bool((diagonal[runs].diff(dim=1) <= 0).all())
    assert bool((diagonal[runs].amax(1).diff() <= 0).all())


def test_an_order_that_scatters_groups_is_refused() -> None:
    """A permutation may be given; one under which groups come apart needs static grids, and a wrong one is named."""
    weight, hessian = problem(4, 16)
    backwards = torch.arange(15, -1, -1)
    rule = GroupRounding(Grid(bits=4, group_size=8), act_order="none")
    mirrored = column_solve(weight.flip(1), hessian.flip(0, 1), rule, dtype=torch.float64)
    given = column_solve(weight, hessian, rule, order=backwards, dtype=torch.float64)
    torch.testing.assert_close(given.quantized, mirrored.quantized.flip(1))
    with pytest.raises(ValueError, match="act_order='static'"):
        column_solve(weight, hessian, rule, order=torch.arange(16).view(8, 2).T.reshape(-1))
    with pytest.raises(ValueError, match="no permutation"):
        column_solve(weight, hessian, rule, order=torch.zeros(16, dtype=torch.int64))


@pytest.mark.parametrize("rows", [5, 32, 33, 200])
def test_the_identity_check_finds_a_single_wrong_entry(rows: int) -> None:
    """Few rows are checked exactly, many in sums with signs: both pass what is right and see one entry off."""
    weight, hessian = problem(rows, 24)
    added = System(hessian).added(0.01)
    factor = inverse_factor(damped(hessian, 0.01)[0])
    assert factor is not None
    errors = torch.randn((24, rows), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    quantized = weight - errors.T @ factor

    def gap_of(quantized: torch.Tensor) -> float:
        stack = Stack([weight])
        order = torch.arange(24)
        found = deviations(stack.columns, quantized.T.contiguous(), errors, order, stack.heights)
        return identity_gap(found, stack, hessian, added, torch.float64)[0]

    assert gap_of(quantized) < 1e-12
    objective = quadratic(weight - quantized, hessian + torch.diag(added))
    assert objective == pytest.approx(float(errors.square().sum()), rel=1e-10)
    quantized[rows // 2, 3] += 1e-3
    assert gap_of(quantized) > 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_already_on_their_grid_are_a_solution(dtype: torch.dtype) -> None:
    """Compressing what is compressed changes nothing and is no failure of the identity, though its error is zero."""
    _, hessian = problem(40, 32)
    codes = torch.randint(16, (40, 32), generator=torch.Generator().manual_seed(0))
    codes[:, ::16], codes[:, 1::16] = 0, 15  # every group spans its grid
    served = 0.3 * (codes.to(torch.float64) - 8) * (1 + 1e-15)
    rule = GroupRounding(Grid(bits=4, group_size=16, symmetric=False))
    again = column_solve(served, hessian, rule, dtype=dtype)
    assert not again.fallback
    assert torch.equal(rule.result().codes, codes.to(torch.uint8))


def test_a_system_keeps_its_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve settings on one input and one order cost one factorization and give what separate solves give."""
    weight, hessian = problem(6, 32)
    made: list[int] = []

    def counted(matrix: Tensor) -> Tensor | None:
        made.append(len(matrix))
        return inverse_factor_of_reversed(matrix)

    monkeypatch.setattr("orchestrator_compress.system.inverse_factor_of_reversed", counted)
    system = System(hessian)
    for bits in (2, 3, 4, 8):
        for size in (8, 16, -1):
            shared, alone = (GroupRounding(Grid(bits=bits, group_size=size)) for _ in range(2))
            column_solve(weight, system, shared)
            column_solve(weight, hessian, alone)
            assert torch.equal(shared.result().codes, alone.result().codes)
    assert len(made) == 1 + 12


def test_a_matrix_that_is_no_second_moment_is_refused() -> None:
    """An asymmetric or empty H and settings out of range are named before anything is solved."""
    weight, hessian = problem(3, 8)
    rule = GroupRounding(Grid(bits=4, group_size=8))
    lopsided = hessian.clone()
    lopsided[0, 1] += 1
    with pytest.raises(CalibrationError, match="differs from its transpose"):
        column_solve(weight, lopsided, rule)
    negative = hessian.clone()
    negative[3, 3] *= -1
    with pytest.raises(CalibrationError, match="sums of squares belong"):
        column_solve(weight, negative, rule)
    for broken, options in ((weight[:0], {}), (weight, {"damp": 2.0}), (weight, {"dtype": torch.float16})):
        with pytest.raises(ValueError, match=r"R > 0|damp=2|float32 or float64"):
            column_solve(broken, hessian, rule, **options)
