"""Tiles rounded in machine code against the same solve a column at a time."""

from __future__ import annotations

import pytest
import torch

from orchestrator_compress import rounding_kernel, rules
from orchestrator_compress.grid import Grid
from orchestrator_compress.rules import GroupRounding
from orchestrator_compress.solver import Solution, TileRule, column_solve
from orchestrator_compress.spqr import SpQR
from orchestrator_compress.system import System


class ColumnByColumn(GroupRounding):
    """The rule in the slow way: one that changes `fix` is asked for every column."""

    def fix(self, position: int, values: torch.Tensor) -> torch.Tensor:
        return super().fix(position, values)


@pytest.fixture
def slow_columns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the rows of each column that is rounded by tensor operations."""
    seen: list[int] = []

    def encode(values: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(len(values))
        return grid_encode(values, *rest)

    grid_encode = rules.encode
    monkeypatch.setattr(rules, "encode", encode)
    return seen


def problem(rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, System]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((4 * columns, columns // 4), generator=generator) @ torch.randn(
        (columns // 4, columns), generator=generator
    )
    inputs += 0.1 * torch.randn(inputs.shape, generator=generator)
    return torch.randn((rows, columns), generator=generator), System(inputs.T @ inputs / len(inputs))


def both(
    rows: int, columns: int, grid: Grid, dtype: torch.dtype, **options: object
) -> tuple[tuple[GroupRounding, Solution], tuple[ColumnByColumn, Solution]]:
    weight, system = problem(rows, columns)
    block_size = options.pop("block_size", 128)
    fast, slow = GroupRounding(grid, **options), ColumnByColumn(grid, **options)
    return (
        (fast, column_solve(weight, system, fast, dtype=dtype, block_size=block_size)),
        (slow, column_solve(weight, system, slow, dtype=dtype, block_size=block_size)),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("act_order", ["static", "none", "dynamic", "group"])
def test_a_tile_at_once_is_its_columns_one_by_one(
    act_order: str, symmetric: bool, dtype: torch.dtype, slow_columns: list[int]
) -> None:
    """Codes, scales, weights and errors are the same bits, and only the rule that changes `fix` went the slow way."""
    grid = Grid(bits=3, group_size=32, symmetric=symmetric)
    (fast, quick), (slow, patient) = both(320, 160, grid, dtype, act_order=act_order)
    assert slow_columns == [320] * 160
    assert torch.equal(fast.result().codes, slow.result().codes)
    assert torch.equal(fast.result().scales, slow.result().scales)
    assert torch.equal(quick.quantized, patient.quantized)
    assert torch.equal(quick.row_errors, patient.row_errors)


@pytest.mark.parametrize("block_size", [17, 40, 128])
@pytest.mark.parametrize("rows", [16, 400, 1000])
def test_blocks_are_their_tiles_to_the_bit(rows: int, block_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is fixed in one call only where products of matrices would correct it alike."""
    weight, system = problem(rows, 128)
    grid = Grid(bits=3, group_size=64)
    whole, tiled = GroupRounding(grid), GroupRounding(grid)
    at_once = column_solve(weight, system, whole, block_size=block_size)
    monkeypatch.setattr(rounding_kernel, "sums_as_products", lambda *_: False)
    in_tiles = column_solve(weight, system, tiled, block_size=block_size)
    assert torch.equal(whole.result().codes, tiled.result().codes)
    assert torch.equal(at_once.quantized, in_tiles.quantized)
    assert torch.equal(at_once.row_errors, in_tiles.row_errors)


@pytest.mark.parametrize("rows", [1, 7, 257])
def test_rows_that_fill_no_vector(rows: int) -> None:
    """There tensor operations round a product apart: the two ways may differ by that, and prove the same identity."""
    (fast, quick), (slow, patient) = both(rows, 96, Grid(bits=4, group_size=32), torch.float64)
    assert torch.equal(fast.result().codes, slow.result().codes)
    torch.testing.assert_close(quick.quantized, patient.quantized, rtol=1e-12, atol=0)
    assert quick.identity_error is not None
    assert quick.identity_error < 1e-10


@pytest.mark.parametrize(("group", "block"), [(8, 128), (24, 40), (32, 20)])
def test_groups_that_begin_inside_a_tile_are_left_to_the_slow_way(
    group: int, block: int, slow_columns: list[int]
) -> None:
    """Their grids need corrections of the tile's own columns."""
    grid = Grid(bits=3, group_size=group)
    (fast, _), (slow, _) = both(48, 96, grid, torch.float64, act_order="none", block_size=block)
    assert 96 < len(slow_columns) <= 2 * 96
    assert torch.equal(fast.result().codes, slow.result().codes)
    assert torch.equal(fast.result().scales, slow.result().scales)


def test_stale_fits_are_the_same_both_ways(slow_columns: list[int]) -> None:
    grid = Grid(bits=3, group_size=16)
    (fast, _), (slow, _) = both(48, 96, grid, torch.float64, act_order="none", group_fit="stale", block_size=32)
    assert len(slow_columns) == 96
    assert torch.equal(fast.result().codes, slow.result().codes)


def test_without_a_factor_columns_go_one_by_one(slow_columns: list[int]) -> None:
    """Where nothing can be solved there are no updates to make within a tile."""
    hessian = torch.diag(torch.full((16,), 0.1))
    hessian[0, 1] = hessian[1, 0] = 1e3
    rule = GroupRounding(Grid(bits=4, group_size=16))
    solution = column_solve(torch.randn((4, 16), generator=torch.Generator().manual_seed(0)), hessian, rule)
    assert solution.fallback.endswith("rounded to nearest")
    assert len(slow_columns) == 16


def test_other_rules_have_no_fast_path() -> None:
    assert isinstance(GroupRounding(Grid()), TileRule)
    assert not isinstance(SpQR(3, 16), TileRule)


def test_weights_far_outside_the_grid_are_clamped_alike() -> None:
    """Scales of a tiny group meet corrections of large neighbours: codes end at the ends of the grid."""
    weight, system = problem(64, 64, seed=3)
    weight[:, 32:] *= 1e-3
    rules = [kind(Grid(bits=2, group_size=32)) for kind in (GroupRounding, ColumnByColumn)]
    solutions = [column_solve(weight, system, rule, order="natural") for rule in rules]
    codes = [rule.result().codes for rule in rules]
    assert {0, 3} <= set(codes[0][:, 32:].unique().tolist())
    assert torch.equal(*codes)
    assert torch.equal(solutions[0].quantized, solutions[1].quantized)
