"""What several solves of the same layers share, and what is measured of each in one pass."""

from __future__ import annotations

import pytest
import torch

from orchestrator_compress import deviations as module
from orchestrator_compress.deviations import GROUPS, Deviations, deviations
from orchestrator_compress.errors import WeightError
from orchestrator_compress.grid import Grid
from orchestrator_compress.rules import GroupRounding
from orchestrator_compress.solver import column_solve
from orchestrator_compress.stack import Stack

from .test_solver import problem

HEIGHTS = [[1], [5, 27], [32], [33], [40, 24], [7, 100, 2100], [2048, 4096]]


def moved(
    heights: list[int], columns: int, before: torch.dtype, after: torch.dtype
) -> tuple[Stack, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return layers, what they became in an order of their columns, that order, and errors."""
    generator = torch.Generator().manual_seed(sum(heights))
    stack = Stack([torch.randn((height, columns), generator=generator, dtype=before) for height in heights])
    order = torch.randperm(columns, generator=generator)
    fixed = (stack.columns[order] + 0.1 * torch.randn((columns, sum(heights)), generator=generator)).to(after)
    return stack, fixed, order, torch.randn((columns, sum(heights)), generator=generator, dtype=after)


@pytest.mark.parametrize("heights", HEIGHTS, ids=str)
@pytest.mark.parametrize(
    "types", [(torch.float32, torch.float32), (torch.float64, torch.float32), (torch.float32, torch.float64)], ids=str
)
def test_figures_of_a_solve(heights: list[int], types: tuple[torch.dtype, torch.dtype]) -> None:
    """Squares are those of the differences, and signed sums those of the rows of each group."""
    stack, fixed, order, errors = moved(heights, 9, *types)
    found = deviations(stack.columns, fixed, errors, order, stack.heights)
    difference = stack.columns.double() - fixed.double()[order.argsort()]
    torch.testing.assert_close(found.rows, errors.double().square().sum(0), rtol=1e-12, atol=0)
    for squares, layer in zip(found.columns, difference.split(heights, dim=1), strict=True):
        torch.testing.assert_close(squares, layer.square().sum(1), rtol=1e-5, atol=0)
    for group in range(min(GROUPS, len(found.rows))):
        # Of all signs that a group's rows may have, the right ones are those of its sum: found by least squares.
        rows = difference[:, group::GROUPS]
        if rows.shape[1] <= len(rows):
            signs = torch.linalg.lstsq(rows, found.probed[:, group : group + 1]).solution
            torch.testing.assert_close(signs.abs(), torch.ones_like(signs), rtol=0, atol=1e-3)
    assert not found.probed[:, len(found.rows) :].any()


@pytest.mark.parametrize("heights", HEIGHTS, ids=str)
def test_machine_code_measures_what_tensors_do(heights: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    stack, fixed, order, errors = moved(heights, 150, torch.float64, torch.float64)
    given = (stack.columns, fixed, errors, order, stack.heights)
    compiled = deviations(*given)
    monkeypatch.setattr(module, "_measure_compiled", module.measure_by_tensors)
    plain: Deviations = deviations(*given)
    assert compiled.total == pytest.approx(plain.total, rel=1e-12)
    for one, other in (
        (compiled.probed, plain.probed),
        (compiled.rows, plain.rows),
        (compiled.columns, plain.columns),
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_a_stack_is_the_weight_of_its_layers() -> None:
    """Solving it is solving them on top of each other, and each further solve the same."""
    weight, hessian = problem(48, 64)
    weight = weight.float()
    stack = Stack([weight[:16], weight[16:]])
    for bits, width in ((3, 32), (4, 32), (3, 16)):
        rules = [GroupRounding(Grid(bits=bits, group_size=width)) for _ in range(2)]
        whole, parts = column_solve(weight, hessian, rules[0]), column_solve(stack, hessian, rules[1])
        assert torch.equal(whole.quantized, parts.quantized)
        assert torch.equal(rules[0].result().codes, rules[1].result().codes)
        torch.testing.assert_close(whole.differences[0], parts.differences.sum(0), rtol=1e-6, atol=0)
    assert stack.energies == pytest.approx([float(part.square().sum()) for part in weight.split([16, 32])])
    assert stack.row_ranges == [slice(0, 16), slice(16, 48)]
    low, high = stack.ranges(16)
    assert torch.equal(low.T, weight.view(48, 4, 16).amin(2))
    assert torch.equal(high.T, weight.view(48, 4, 16).amax(2))


def test_a_stack_names_what_is_wrong() -> None:
    weight, hessian = problem(4, 16)
    with pytest.raises(ValueError, match=r"W is \[4, 16\], \[4, 15\] and H"):
        column_solve(Stack([weight, weight[:, 1:]]), hessian, GroupRounding(Grid(group_size=16)))
    broken = weight.clone()
    broken[2, 3] = float("inf")
    with pytest.raises(WeightError, match=r"\[6, 3\]"):
        column_solve(Stack([weight, broken]), hessian, GroupRounding(Grid(group_size=16)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_solved_as_the_same_numbers_in_float32(dtype: torch.dtype) -> None:
    weight, hessian = problem(8, 32)
    half = weight.to(dtype)
    rules = [GroupRounding(Grid(bits=3, group_size=16)) for _ in range(2)]
    for rule, given in zip(rules, (half, half.float()), strict=True):
        column_solve(given, hessian, rule)
    assert torch.equal(rules[0].result().codes, rules[1].result().codes)
