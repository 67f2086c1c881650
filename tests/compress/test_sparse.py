"""Pruning rules of the column solver and the exact surgeon, against brute force and naive column-by-column forms."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from orchestrator_compress.criteria import OBS, LayerStatistics
from orchestrator_compress.errors import PruningError, SolveError
from orchestrator_compress.factor import damped
from orchestrator_compress.grid import Grid, encode, fit
from orchestrator_compress.objective import quadratic
from orchestrator_compress.rules import GroupRounding
from orchestrator_compress.selection import NM, Pattern, Unstructured, ranked, smallest
from orchestrator_compress.solver import column_solve
from orchestrator_compress.sparse import Masked, SparseGPT
from orchestrator_compress.surgeon import least_squares, surgeon

from .test_solver import problem


def naive_sparsegpt(weight: Tensor, hessian: Tensor, pattern: Pattern, grid: Grid | None = None) -> Tensor:
    """SparseGPT with an explicit inverse of what remains for each column, and masks by sorting."""
    size = len(hessian)
    system = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(size, dtype=hessian.dtype)
    current, result = weight.clone(), torch.zeros_like(weight)
    removed = torch.zeros_like(weight, dtype=torch.bool)
    scales, zeros = fit(weight, grid, dim=1) if grid else (None, None)
    for column in range(size):
        if column % pattern.width == 0:
            stop = min(column + pattern.width, size)
            # The pivot of column j is what the inverse of the system from j on has in its corner.
            pivots = [float(torch.linalg.inv(system[j:, j:])[0, 0]) for j in range(column, stop)]
            cost = current[:, column:stop] ** 2 / torch.tensor(pivots, dtype=weight.dtype)
            if isinstance(pattern, NM):
                order = cost.argsort(dim=1, stable=True)
                removed[:, column:stop].scatter_(1, order[:, : pattern.of - pattern.keep], value=True)
            else:
                done = round(pattern.sparsity * column * len(weight))
                flat = cost.T.reshape(-1).argsort(stable=True)[: round(pattern.sparsity * stop * len(weight)) - done]
                mask = torch.zeros(cost.numel(), dtype=torch.bool).scatter_(0, flat, value=True)
                removed[:, column:stop] = mask.view(stop - column, -1).T
        kept = current[:, column].masked_fill(removed[:, column], 0)
        if grid:
            kept = (encode(kept, scales, zeros, grid) - zeros) * scales
        result[:, column] = kept
        remaining = torch.linalg.inv(system[column:, column:])[0]
        current[:, column:] -= torch.outer((current[:, column] - kept) / remaining[0], remaining)
    return result


PATTERNS = [
    Unstructured(sparsity=0.5, width=8),
    Unstructured(sparsity=0.7, width=7),
    NM(keep=2, of=4),
    NM(keep=4, of=8),
    NM(keep=1, of=4),
]


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_sparsegpt_is_its_naive_form(pattern: Pattern, joint: bool) -> None:
    """Blocked and factored, it equals one explicit inverse per column, pruned alone and jointly with rounding."""
    weight, hessian = problem(6, 24)
    grid = Grid(bits=3, group_size=-1, scale_dtype="float32") if joint else None
    rule = SparseGPT(pattern, GroupRounding(grid, act_order="static") if grid else None)
    solution = column_solve(weight, hessian, rule, dtype=torch.float64, block_size=10)
    expected = naive_sparsegpt(weight, hessian, pattern, grid)
    torch.testing.assert_close(solution.quantized, expected, atol=1e-10, rtol=0)
    assert solution.identity_error is not None
    assert solution.identity_error < 1e-10
    assert torch.equal(rule.mask() & (solution.quantized != 0), torch.zeros_like(rule.mask()))


@pytest.mark.parametrize("act_order", ["none", "static"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_removed_weights_stay_zero_after_rounding(symmetric: bool, act_order: str) -> None:
    """Joint pruning stores the code of zero for each removed weight: dequantized, the mask is exactly zero."""
    weight, hessian = problem(9, 32)
    rounding = GroupRounding(Grid(bits=3, group_size=8, symmetric=symmetric), act_order=act_order)
    rule = SparseGPT(NM(), rounding)
    solution = column_solve(weight, hessian, rule, dtype=torch.float64)
    served = rule.result().dequantize(torch.float64)
    torch.testing.assert_close(served, solution.quantized, rtol=1e-6, atol=0)
    assert not bool(served[rule.mask()].any())
    assert rule.mask().view(9, -1, 4).sum(2).eq(2).all()


@pytest.mark.parametrize("block", [1, 5, 32, 64])
@pytest.mark.parametrize("pattern", PATTERNS[:1] + PATTERNS[2:4], ids=str)
def test_blocks_of_updates_do_not_move_masks(pattern: Pattern, block: int) -> None:
    """Masks are chosen on current values, so the update block need not be a multiple of the pattern."""
    weight, hessian = problem(6, 64)
    rules = [SparseGPT(pattern) for _ in range(2)]
    one = column_solve(weight, hessian, rules[0], dtype=torch.float64, block_size=block)
    other = column_solve(weight, hessian, rules[1], dtype=torch.float64, block_size=64)
    assert torch.equal(rules[0].mask(), rules[1].mask())
    torch.testing.assert_close(one.quantized, other.quantized, atol=1e-11, rtol=0)


def test_sparsity_zero_and_one_are_exact() -> None:
    """Without sparsity nothing moves by a bit; at full sparsity everything goes and the error is the whole output."""
    weight, hessian = problem(5, 24)
    for dtype in (torch.float32, torch.float64):
        none = column_solve(weight.to(dtype), hessian, SparseGPT(Unstructured(sparsity=0)), dtype=dtype)
        assert torch.equal(none.quantized, weight.to(dtype))
        assert float(none.row_errors.sum()) == 0
    rule = SparseGPT(Unstructured(sparsity=1))
    everything = column_solve(weight, hessian, rule, dtype=torch.float64)
    assert not bool(everything.quantized.any())
    system, _, _ = damped(hessian, 0.01)
    assert float(everything.row_errors.sum()) == pytest.approx(quadratic(weight, system), rel=1e-10)


def test_stacked_layers_lose_their_own_share() -> None:
    """With the heights of a stack, each layer is pruned as it would be alone; with wrong ones nothing is solved."""
    weight, hessian = problem(20, 32)
    weight[:7] *= 10  # without heights, the small rows would lose everything
    stacked = SparseGPT(Unstructured(sparsity=0.5, width=8), heights=(7, 13))
    column_solve(weight, hessian, stacked, dtype=torch.float64)
    for rows in (slice(0, 7), slice(7, 20)):
        alone = SparseGPT(Unstructured(sparsity=0.5, width=8))
        column_solve(weight[rows], hessian, alone, dtype=torch.float64)
        assert torch.equal(stacked.mask()[rows], alone.mask())
    with pytest.raises(ValueError, match="add up to 19"):
        column_solve(weight, hessian, SparseGPT(NM(), heights=(7, 12)))


def test_pruning_the_first_columns_is_least_squares() -> None:
    """With the removed columns solved first, compensation is the exact restricted least squares solution."""
    weight, hessian = problem(4, 8, rank=3)
    removed = torch.zeros((4, 8), dtype=torch.bool)
    removed[:, [1, 4, 6]] = True
    solution = column_solve(weight, hessian, Masked(removed), dtype=torch.float64)
    torch.testing.assert_close(
        solution.quantized, least_squares(weight, hessian, removed, damp=0.01), atol=1e-10, rtol=0
    )


def test_a_given_mask_is_kept_and_compensated() -> None:
    """Any mask obeys the identity, leaves zeros where it removes, and loses less than masking alone."""
    weight, hessian = problem(12, 32)
    removed = smallest(weight.abs(), 16)
    solution = column_solve(weight, hessian, Masked(removed), dtype=torch.float64)
    assert not bool(solution.quantized[removed].any())
    assert solution.identity_error is not None
    assert solution.identity_error < 1e-10
    best = quadratic(weight - least_squares(weight, hessian, removed), hessian)
    masked = quadratic(weight.masked_fill(removed, 0) - weight, hessian)
    assert best <= quadratic(weight - solution.quantized, hessian) < 0.7 * masked
    with pytest.raises(PruningError, match=r"need bool \[12, 32\]"):
        column_solve(weight, hessian, Masked(removed[:3]))


def test_the_surgeon_against_all_subsets() -> None:
    """Greedy removal is exact for its mask, optimal for one weight, and near the best of all masks in sum."""
    best_sum = greedy_sum = magnitude_sum = 0.0
    for seed in range(12):
        weight, hessian = problem(3, 7, rank=3, noise=0.3, seed=seed)
        for count in (1, 3):
            greedy = surgeon(weight, hessian, count, damp=0.0)
            exact = least_squares(weight, hessian, greedy.fixed)
            torch.testing.assert_close(greedy.weight, exact, atol=1e-8, rtol=0)
            subsets = [
                torch.zeros(7, dtype=torch.bool).index_fill(0, torch.tensor(chosen), True)
                for chosen in itertools.combinations(range(7), count)
            ]
            losses = torch.stack(
                [_rows(weight - least_squares(weight, hessian, mask.expand(3, -1)), hessian) for mask in subsets]
            )
            torch.testing.assert_close(greedy.row_errors, _rows(weight - greedy.weight, hessian), rtol=1e-8, atol=1e-10)
            best = losses.amin(0)
            assert bool((greedy.row_errors >= best * (1 - 1e-9)).all())
            if count == 1:
                torch.testing.assert_close(greedy.row_errors, best, rtol=1e-8, atol=0)
            smallest_first = least_squares(weight, hessian, smallest(weight.abs(), count))
            best_sum, greedy_sum = best_sum + float(best.sum()), greedy_sum + float(greedy.row_errors.sum())
            magnitude_sum += quadratic(weight - smallest_first, hessian)
    assert greedy_sum < 1.2 * best_sum < magnitude_sum


def _rows(difference: Tensor, hessian: Tensor) -> Tensor:
    return ((difference @ hessian) * difference).sum(1)


def test_the_solver_in_the_surgeons_order_is_the_surgeon() -> None:
    """A row solved in the order in which greedy OBS removed and then kept its weights ends at the same weights."""
    weight, hessian = problem(4, 12)
    greedy = surgeon(weight, hessian, 5)
    for row in range(4):
        kept = (~greedy.fixed[row]).nonzero()[:, 0]
        solution = column_solve(
            weight[row : row + 1],
            hessian,
            Masked(greedy.fixed[row : row + 1]),
            order=torch.cat([greedy.sequence[row], kept]),
            dtype=torch.float64,
        )
        torch.testing.assert_close(solution.quantized[0], greedy.weight[row], atol=1e-10, rtol=0)
        torch.testing.assert_close(solution.row_errors[0], greedy.row_errors[row], rtol=1e-9, atol=0)


def test_greedy_quantization_keeps_the_identity() -> None:
    """OBQ on the grids of GPTQ: every weight ends on the grid, errors add up, and outliers must not wait."""
    grid = Grid(bits=3, group_size=-1, scale_dtype="float32")
    sums = dict.fromkeys(("greedy", "waiting", "fixed", "nearest"), 0.0)
    for seed in range(8):
        weight, hessian = problem(6, 16, seed=seed)
        scales, zeros = (part.unsqueeze(1) for part in fit(weight, grid, dim=1))

        def rounded(values: Tensor, scales: Tensor = scales, zeros: Tensor = zeros) -> Tensor:
            return (encode(values, scales, zeros, grid) - zeros) * scales

        system, _, _ = damped(hessian, 0.01)
        for name, gap in (("greedy", scales * 0.5), ("waiting", float("inf"))):
            surgery = surgeon(weight, hessian, 16, target=rounded, largest_gap=gap)
            torch.testing.assert_close(rounded(surgery.weight), surgery.weight)
            torch.testing.assert_close(surgery.row_errors, _rows(weight - surgery.weight, system), rtol=1e-8, atol=0)
            sums[name] += float(surgery.row_errors.sum())
        solution = column_solve(weight, hessian, GroupRounding(grid), dtype=torch.float64)
        sums["fixed"] += float(solution.row_errors.sum())
        sums["nearest"] += quadratic(weight - rounded(weight), system)
    assert sums["greedy"] < sums["waiting"]
    assert sums["greedy"] < 0.5 * sums["nearest"]


def test_sparsegpt_beats_masking_by_magnitude() -> None:
    """At half the weights and at 2:4, over many layers, SparseGPT loses less than magnitude, compensated or not."""
    sums = dict.fromkeys(("unstructured", "magnitude", "2:4", "magnitude 2:4"), 0.0)
    for seed in range(12):
        weight, hessian = problem(8, 32, seed=seed)
        for name, pattern in (("unstructured", Unstructured(sparsity=0.5, width=8)), ("2:4", NM())):
            solution = column_solve(weight, hessian, SparseGPT(pattern), dtype=torch.float64)
            sums[name] += quadratic(weight - solution.quantized, hessian)
        half = smallest(weight.abs().reshape(-1), weight.numel() // 2).view(weight.shape)
        sums["magnitude"] += quadratic(weight.masked_fill(~half, 0), hessian)
        two = ranked(weight.abs().view(8, 8, 4).permute(2, 0, 1), 2).permute(1, 2, 0).reshape(8, 32)
        sums["magnitude 2:4"] += quadratic(weight.masked_fill(~two, 0), hessian)
    assert sums["unstructured"] < 0.5 * sums["magnitude"]
    assert sums["2:4"] < 0.7 * sums["magnitude 2:4"]
    assert sums["unstructured"] < sums["2:4"]


def test_weights_of_inputs_that_were_never_seen_go_first() -> None:
    """With half of the inputs dead, half of the weights cost nothing: they are what is removed, and the output stays."""
    weight, hessian = problem(16, 64)
    hessian[::2] = 0
    hessian[:, ::2] = 0
    rule = SparseGPT(Unstructured(sparsity=0.5))
    solution = column_solve(weight.float(), hessian, rule)
    assert bool(rule.mask()[:, ::2].all())
    assert not bool(rule.mask()[:, 1::2].any())
    assert quadratic(weight.float() - solution.quantized, hessian) == 0
    saliency = OBS().saliency(weight, LayerStatistics(hessian=hessian))
    assert float(saliency[:, ::2].abs().max()) == 0 < float(saliency[:, 1::2].min())


@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_counts_are_exact_with_ties(count: int) -> None:
    """Equal values are removed from the first on, never more than asked for."""
    values = torch.tensor([[2.0, 1, 1, 1, 3, 1, 0, 0, 2, 2, 1, 1], [1.0] * 12])
    mask = smallest(values, count)
    expected = torch.zeros_like(mask).scatter_(1, values.argsort(dim=1, stable=True)[:, :count], value=True)
    assert torch.equal(mask, expected)
    assert torch.equal(ranked(values.T, count).T, expected)


def test_patterns_that_cannot_be_are_refused() -> None:
    """Sparsity, N:M, layer and order are each named."""
    weight, hessian = problem(3, 10)
    with pytest.raises(PruningError, match=r"sparsity=1\.5"):
        Unstructured(sparsity=1.5)
    with pytest.raises(PruningError, match="keep=5 of=4"):
        NM(keep=5, of=4)
    with pytest.raises(PruningError, match="the layer has 10"):
        column_solve(weight, hessian, SparseGPT(NM()))
    with pytest.raises(PruningError, match="natural order"):
        column_solve(weight, hessian, SparseGPT(Unstructured(sparsity=0.5)), order=torch.arange(9, -1, -1))
    with pytest.raises(PruningError, match="more than 2 GiB"):
        surgeon(torch.zeros((64, 4096)), torch.eye(4096), 1)
    with pytest.raises(SolveError, match="singular"):
        surgeon(weight, torch.ones((10, 10), dtype=torch.float64), 2, damp=0.0)
