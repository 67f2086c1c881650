"""SpQR: its limits, its outliers by definition, and that what is stored is what was evaluated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from orchestrator_compress.bilevel import Bilevel, fit_unrounded, levelled
from orchestrator_compress.errors import GridError
from orchestrator_compress.grid import Grid
from orchestrator_compress.objective import quadratic
from orchestrator_compress.outliers import leave_one_out_gain, threshold, without
from orchestrator_compress.rules import GroupRounding
from orchestrator_compress.solver import Solution, column_solve
from orchestrator_compress.spqr import SpQR
from orchestrator_compress.spqr_weight import SpQRWeight

from .test_solver import problem

INFINITE = float("inf")


def solve(weight: Tensor, hessian: Tensor, **options: object) -> tuple[Solution, SpQR]:
    dtype = options.pop("dtype", torch.float64)
    rule = SpQR(**{"group_size": 16, **options})  # type: ignore[arg-type]
    return column_solve(weight, hessian, rule, damp=0.1, dtype=dtype), rule  # type: ignore[arg-type]


def spread(rows: int = 40, columns: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw a layer with a few large weights, as SpQR is made for."""
    weight, hessian = problem(rows, columns, seed=seed)
    generator = torch.Generator().manual_seed(seed + 99)
    large = torch.rand(weight.shape, generator=generator) < 0.01
    return torch.where(large, weight * 8, weight), hessian


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("act_order", [True, False])
def test_without_its_parts_it_is_asymmetric_gptq(bits: int, act_order: bool) -> None:
    """No outliers and statistics as they are: code by code the GPTQ rule with groups of what is solved together."""
    weight, hessian = spread()
    solution, rule = solve(weight, hessian, bits=bits, tau=INFINITE, bilevel=None, act_order=act_order)
    grid = Grid(bits=bits, group_size=16, symmetric=False)
    gptq = GroupRounding(grid, act_order="dynamic" if act_order else "none")
    plain = column_solve(weight, hessian, gptq, damp=0.1, dtype=torch.float64)
    weights = rule.result()
    assert torch.equal(weights.codes, gptq.result().codes[:, weights.order])
    torch.testing.assert_close(solution.quantized, plain.quantized, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bilevel", [Bilevel(), Bilevel(scale_bits=4, zero_bits=2, rows=8), None], ids=str)
@pytest.mark.parametrize("tau", [0.05, 0.2, INFINITE])
def test_served_is_evaluated(tau: float, bilevel: Bilevel | None, dtype: torch.dtype) -> None:
    """Packed, unpacked and dequantized, a layer is the solver's result bit by bit, in either arithmetic."""
    weight, hessian = spread()
    solution, rule = solve(weight, hessian, bits=3, tau=tau, bilevel=bilevel, dtype=dtype)
    stored = rule.result()
    assert torch.equal(stored.dequantize(), solution.quantized.float())
    again = SpQRWeight.unpacked(stored.packed(), 3, bilevel)
    assert torch.equal(again.dequantize(), stored.dequantize())
    assert solution.identity_error is not None
    assert solution.identity_error < (1e-10 if dtype == torch.float64 else 1e-3)


def test_outliers_keep_their_weight() -> None:
    """Where a residual is stored, the weight after compensation is reproduced to float16; elsewhere T bounds the error."""
    weight, hessian = spread()
    seen: dict[int, Tensor] = {}

    class Watched(SpQR):
        def fix(self, position: int, values: Tensor) -> Tensor:
            seen[position] = values.clone()
            fixed = super().fix(position, values)
            costs = ((values - fixed) / self._columns.pivots[position]) ** 2
            assert bool((costs <= self._limit).all())
            return fixed

    rule = Watched(3, 16, tau=0.1)
    column_solve(weight, hessian, rule, damp=0.1, dtype=torch.float64)
    stored = rule.result()
    current = torch.stack([seen[position] for position in range(64)], dim=1)
    served = stored.dequantize(torch.float64)[:, stored.order]
    outlier = torch.zeros_like(weight, dtype=torch.bool)
    rows = torch.arange(40).repeat_interleave(stored.outliers.offsets.diff().long())
    outlier[rows, stored.outliers.positions.long()] = True
    assert 5 < stored.outliers.count < 0.2 * weight.numel()
    assert bool(((served - current).abs()[outlier] <= 2**-10 * current.abs()[outlier]).all())


def test_the_threshold_is_that_of_the_definition() -> None:
    """T = tau mean_j(Var_rows(W_j) / U_jj^2), for each layer of a stack on its own."""
    work = torch.randn((6, 11), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pivots = torch.linspace(0.5, 2, 6, dtype=torch.float64)
    limits = threshold(work, pivots, 0.2, (4, 7))
    for rows in (slice(0, 4), slice(4, 11)):
        expected = 0.2 * sum(float(work[j, rows].var()) / float(pivots[j]) ** 2 for j in range(6)) / 6
        torch.testing.assert_close(limits[rows], torch.full_like(limits[rows], expected))
    assert bool((threshold(work, pivots, INFINITE, (11,)) == INFINITE).all())


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_leaving_one_out_excludes_exactly_that_one(size: int) -> None:
    """The vectorized gain equals refitting the grid without each weight in turn, also where values are equal."""
    values = torch.randn((size, 9), dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    values[:, 0] = 1.5
    values[: size // 2, 1] = values[0, 1]
    pivots = torch.linspace(0.5, 2, size, dtype=torch.float64)

    def nearest(part: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return ((part / scales + zeros).round().clamp(0, 7) - zeros) * scales

    def error(part: Tensor, weights: Tensor) -> Tensor:
        scales, zeros = fit_unrounded(part.amin(0), part.amax(0), 3)
        return ((part - nearest(part, scales, zeros)) ** 2 / weights.view(-1, 1) ** 2).sum(0)

    gain = leave_one_out_gain(values, pivots, lambda low, high: fit_unrounded(low, high, 3), nearest)
    for index in range(size):
        others = [place for place in range(size) if place != index]
        rest = error(values[others], pivots[others]) if others else 0.0
        torch.testing.assert_close(gain[index], error(values, pivots) - rest, atol=1e-10, rtol=0)


def test_candidates_are_replaced_by_the_mean_of_the_rest() -> None:
    """A group's grid is fitted as if its candidates were like the others; a group of candidates alone becomes zero."""
    values = torch.tensor([[1.0, 5.0], [3.0, 6.0], [100.0, 7.0]])
    candidates = torch.tensor([[False, True], [False, True], [True, True]])
    assert without(values, candidates).tolist() == [[1.0, 0.0], [3.0, 0.0], [2.0, 0.0]]


def test_more_threshold_means_fewer_outliers_and_more_error() -> None:
    """The share of outliers never rises with tau; over layers, the objective rises with it and the bits fall."""
    taus = (0.02, 0.1, 0.5, INFINITE)
    sums = dict.fromkeys(taus, 0.0)
    for seed in range(4):
        weight, hessian = spread(seed=seed)
        shares, bits = [], []
        for tau in taus:
            solution, rule = solve(weight, hessian, bits=3, tau=tau)
            sums[tau] += quadratic(weight - solution.quantized, hessian)
            shares.append(rule.result().outliers.count)
            bits.append(rule.result().bits_by_formula())
        assert shares == sorted(shares, reverse=True)
        assert bits == sorted(bits, reverse=True)
        assert shares[-1] == 0
    assert [sums[tau] for tau in taus] == sorted(sums.values())


def test_outliers_pay_at_equal_bits() -> None:
    """With large weights about, 3 bits with outliers lose less than 4 bits of GPTQ without, in about as many bits."""
    spqr_sum = gptq_sum = 0.0
    for seed in range(4):
        weight, hessian = problem(64, 128, seed=seed)
        weight[::7, 3::31] *= 20
        solution, rule = solve(weight, hessian, bits=3, tau=0.3)
        spqr_sum += quadratic(weight - solution.quantized, hessian)
        gptq = GroupRounding(Grid(bits=4, group_size=64))
        plain = column_solve(weight, hessian, gptq, damp=0.1, dtype=torch.float64)
        gptq_sum += quadratic(weight - plain.quantized, hessian)
        assert rule.result().bits_by_formula() < Grid(bits=4, group_size=64).bits_per_weight(64, 128) + 0.25
    assert spqr_sum < 0.7 * gptq_sum


def test_bits_by_formula_and_by_bytes() -> None:
    """The formula is the paper's; the packed arrays take that plus row offsets and column order, to the bit."""
    weight, hessian = spread(rows=64, columns=128)
    for bits, base in ((3, 3.625), (4, 4.625)):
        _, rule = solve(weight, hessian, bits=bits, tau=0.2)
        stored = rule.result()
        share = stored.outliers.count / weight.numel()
        assert stored.bits_by_formula() == pytest.approx(base + 32 * share)
        overhead = 32 * (65 + 128) / weight.numel()
        padding = 8 * 64 * 2 / weight.numel()  # statistics of 8 groups of 3 bits fill 24 of 32 bits in each row
        assert stored.bits_measured() == pytest.approx(stored.bits_by_formula() + overhead + padding)


def test_stacked_layers_are_the_separate_layers() -> None:
    """Thresholds and tiles are those of each layer, so that a stack is taken apart into what each is alone."""
    weight, hessian = spread(rows=45)
    _, stacked = solve(weight, hessian, bits=3, tau=0.2, heights=(19, 26))
    with pytest.raises(ValueError, match="results"):
        stacked.result()
    for rows, part in zip((slice(0, 19), slice(19, 45)), stacked.results(), strict=True):
        _, alone = solve(weight[rows], hessian, bits=3, tau=0.2)
        assert torch.equal(part.dequantize(), alone.result().dequantize())
        assert part.bits_measured() == alone.result().bits_measured()


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_statistics_are_off_by_half_a_step(bits: int) -> None:
    """Each number lies within half a step of its stored form, equal ones and far ones to float16."""
    tiles = Bilevel(rows=16).tiles((20, 13))
    assert tiles.tolist() == [0] * 16 + [1] * 4 + [2] * 13
    values = torch.rand(33, generator=torch.Generator().manual_seed(0)) + 0.5
    values[:16] = 0.37
    values[20:] = 1000 + values[20:] / 100
    levels = levelled(values, bits, tiles)
    steps = torch.where(tiles == 0, 0.0, levels.steps.float()[tiles])
    assert bool(((levels.restored(tiles) - values).abs() <= 0.5 * steps + 2**-10 * values).all())
    with pytest.raises(GridError, match="beyond the float16"):
        levelled(values * 1e7, bits, tiles)


def test_degenerate_layers_are_finite() -> None:
    """Rows of zeros or of equal weights, a single row, dead inputs: all finite, and zero stays zero."""
    weight, hessian = spread(rows=33)
    weight[3] = 0
    weight[5] = 0.25
    hessian[7], hessian[:, 7] = 0, 0
    solution, _ = solve(weight, hessian, bits=3, tau=0.2)
    assert bool(torch.isfinite(solution.quantized).all())
    assert solution.dead_columns == 1
    single, _ = solve(weight[:1], hessian, bits=3)
    assert bool(torch.isfinite(single.quantized).all())
    zero, _ = solve(torch.zeros((4, 64), dtype=torch.float64), hessian, bits=3)
    assert not bool(zero.quantized.any())
    with pytest.raises(GridError, match="tau=-1"):
        SpQR(tau=-1)
    weight[4, 9] = 1e6
    with pytest.raises(GridError, match="65504 away from its grid"):
        solve(weight, hessian, bits=3, tau=0.0)
