"""The column solver against explicit inverse downdates, exact identities and exhaustive search."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from orchestrator_compress.errors import CalibrationError, SolveError, WeightError
from orchestrator_compress.factor import attempts, damped, inverse_factor
from orchestrator_compress.grid import Grid, encode, fit, round_to_nearest
from orchestrator_compress.objective import energy, quadratic
from orchestrator_compress.order import by_diagonal, natural
from orchestrator_compress.rules import GroupRounding
from orchestrator_compress.solver import Columns, Solution, column_solve


def problem(
    rows: int, columns: int, *, rank: int | None = None, noise: float = 0.1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw weights [rows, columns] and the Hessian of inputs that vary in `rank` directions plus noise."""
    generator = torch.Generator().manual_seed(seed)
    rank = rank or max(1, columns // 4)
    mixing = torch.randn((rank, columns), generator=generator, dtype=torch.float64)
    inputs = torch.randn((8 * columns, rank), generator=generator, dtype=torch.float64) @ mixing
    inputs += noise * torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
    weight = torch.randn((rows, columns), generator=generator, dtype=torch.float64)
    return weight, inputs.T @ inputs / len(inputs)


def solve(
    weight: Tensor, hessian: Tensor, grid: Grid, *, static: bool = True, **options: object
) -> tuple[Solution, GroupRounding]:
    rule = GroupRounding(grid, act_order="static" if static else "none")
    return column_solve(weight, hessian, rule, **{"dtype": torch.float64, **options}), rule


class Halving:
    """A rule that is no quantizer: every column loses half of each weight."""

    alone = "halved"
    order = staticmethod(by_diagonal)

    def begin(self, columns: Columns) -> None:
        self.columns = columns

    def fix(self, position: int, values: Tensor) -> Tensor:
        return values / 2


@pytest.mark.parametrize("columns", [3, 8, 12])
@pytest.mark.parametrize("bits", [2, 3])
def test_one_factor_replaces_the_downdates_of_obq(columns: int, bits: int) -> None:
    """OBQ in a fixed order, which downdates an explicit inverse after each column, ends at the same weights."""
    weight, hessian = problem(5, columns)
    grid = Grid(bits=bits, group_size=-1, scale_dtype="float32")
    solution, _ = solve(weight, hessian, grid)
    scales, zeros = fit(weight, grid, dim=1)
    inverse = torch.linalg.inv(hessian + 0.01 * hessian.diagonal().mean() * torch.eye(columns, dtype=torch.float64))
    current, quantized = weight.clone(), torch.zeros_like(weight)
    for column in torch.argsort(hessian.diagonal(), descending=True).tolist():
        codes = encode(current[:, column], scales, zeros, grid)
        quantized[:, column] = (codes - zeros) * scales
        error = (current[:, column] - quantized[:, column]) / inverse[column, column]
        current -= torch.outer(error, inverse[column])
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    torch.testing.assert_close(solution.quantized, quantized, atol=1e-12, rtol=0)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_scaled_errors_are_the_damped_objective(bits: int, static: bool) -> None:
    """tr(D (H + lam I) D^T) = ||E||^2 to 1e-10 in float64, row by row."""
    weight, hessian = problem(6, 48)
    solution, _ = solve(weight, hessian, Grid(bits=bits, group_size=16), static=static)
    system, lam, _ = damped(hessian, 0.01)
    assert lam == pytest.approx(0.01 * float(hessian.diagonal().mean()))
    difference = weight - solution.quantized
    rows = ((difference @ system) * difference).sum(1)
    torch.testing.assert_close(solution.row_errors, rows, rtol=1e-10, atol=0)
    assert solution.identity_error is not None
    assert solution.identity_error < 1e-10


def test_the_identity_holds_for_any_rule() -> None:
    """It is a property of the solver: a rule that halves weights obeys it too, and in float32 to 1e-3."""
    weight, hessian = problem(6, 40)
    exact = column_solve(weight, hessian, Halving(), dtype=torch.float64)
    single = column_solve(weight.float(), hessian, Halving(), dtype=torch.float32)
    assert exact.identity_error is not None
    assert single.identity_error is not None
    assert exact.identity_error < 1e-10
    assert single.identity_error < 1e-3
    assert single.arithmetic == "float32"


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(("group", "block"), [(16, 1), (16, 7), (16, 32), (48, 20), (24, 16), (-1, 96), (8, 24)])
def test_lazy_updates_change_nothing(group: int, block: int, static: bool) -> None:
    """Whatever the block, also where a group begins inside one, codes equal those of one block of all columns."""
    weight, hessian = problem(7, 96)
    grid = Grid(bits=3, group_size=group)
    _, blocked = solve(weight, hessian, grid, static=static, block_size=block)
    _, whole = solve(weight, hessian, grid, static=static, block_size=96)
    assert torch.equal(blocked.result().codes, whole.result().codes)
    assert torch.equal(blocked.result().scales, whole.result().scales)


def test_groups_are_fitted_on_current_values() -> None:
    """Without static groups, a grid is that of the group's values after all corrections of earlier columns."""
    weight, hessian = problem(4, 32)
    grid = Grid(bits=3, group_size=8, scale_dtype="float32")
    solution, rule = solve(weight, hessian, grid, static=False, block_size=12)
    system, _, _ = damped(hessian, 0.01)
    start = 16
    # The best continuation of W after columns 0..15 are fixed solves the least squares problem in the others.
    fixed = (weight - solution.quantized)[:, :start]
    free = weight[:, start:] + fixed @ system[:start, start:] @ torch.linalg.inv(system[start:, start:])
    expected = 2 * free[:, :8].abs().amax(1) / grid.max_code
    torch.testing.assert_close(rule.result().scales[:, 2].double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("factor", [1e-6, 4.0, 1e6])
def test_the_scale_of_the_hessian_does_not_matter(factor: float) -> None:
    """Damping is relative, so H and c H give the same codes."""
    weight, hessian = problem(6, 32)
    _, one = solve(weight, hessian, Grid(bits=3, group_size=16))
    _, other = solve(weight, factor * hessian, Grid(bits=3, group_size=16))
    assert torch.equal(one.result().codes, other.result().codes)


def test_stacked_layers_are_the_separate_layers() -> None:
    """Rows are independent: a stack of layers on one input is solved as each alone, errors included."""
    weight, hessian = problem(20, 32)
    grid = Grid(bits=4, group_size=16)
    solution, stacked = solve(weight, hessian, grid)
    for start, stop in ((0, 4), (4, 13), (13, 20)):
        alone_solution, alone = solve(weight[start:stop], hessian, grid)
        assert torch.equal(stacked.result().rows(start, stop).codes, alone.result().codes)
        torch.testing.assert_close(solution.row_errors[start:stop], alone_solution.row_errors)


def test_a_diagonal_hessian_is_round_to_nearest() -> None:
    """Without correlation there is nothing to compensate."""
    weight, _ = problem(6, 32)
    hessian = torch.diag(torch.linspace(0.5, 4, 32, dtype=torch.float64))
    _, rule = solve(weight, hessian, Grid(bits=3, group_size=16))
    assert torch.equal(rule.result().codes, round_to_nearest(weight, Grid(bits=3, group_size=16)).codes)


def test_no_rounding_beats_exhaustive_search() -> None:
    """On tiny layers the best of all codes bounds the result from below, and the result is nearer to it than RTN is."""
    grid = Grid(bits=2, group_size=-1, scale_dtype="float32")
    codes = torch.tensor(list(itertools.product(range(4), repeat=5)), dtype=torch.float64)
    best_sum = gptq_sum = rtn_sum = 0.0
    for seed in range(20):
        weight, hessian = problem(1, 5, rank=2, noise=0.3, seed=seed)
        scales, zeros = fit(weight, grid, dim=1)
        differences = weight - (codes - zeros) * scales
        best = float(((differences @ hessian) * differences).sum(1).min())
        solution, _ = solve(weight, hessian, grid)
        gptq = quadratic(weight - solution.quantized, hessian)
        assert gptq >= best * (1 - 1e-9)
        best_sum, gptq_sum = best_sum + best, gptq_sum + gptq
        rtn_sum += quadratic(weight - round_to_nearest(weight, grid).dequantize(torch.float64), hessian)
    assert best_sum <= gptq_sum < 0.5 * (best_sum + rtn_sum)


def test_gptq_beats_rtn_in_aggregate() -> None:
    """It is no theorem for a row, but of 100 small layers at least 95 improve, and their sum clearly does."""
    better, gptq_sum, rtn_sum = 0, 0.0, 0.0
    for seed in range(100):
        weight, hessian = problem(8, 32, seed=seed)
        grid = Grid(bits=3, group_size=16)
        solution, _ = solve(weight, hessian, grid)
        gptq = quadratic(weight - solution.quantized, hessian)
        rtn = quadratic(weight - round_to_nearest(weight, grid).dequantize(torch.float64), hessian)
        better, gptq_sum, rtn_sum = better + (gptq < rtn), gptq_sum + gptq, rtn_sum + rtn
    assert better >= 95
    assert gptq_sum < 0.5 * rtn_sum


def test_strong_correlation_gains_tenfold() -> None:
    """At 4 bits in groups of 128, on inputs of low rank, the objective is at most a tenth of RTN's."""
    weight, hessian = problem(64, 256, rank=24, noise=0.02)
    grid = Grid(bits=4, group_size=128)
    rule = GroupRounding(grid)
    solution = column_solve(weight.float(), hessian, rule)
    rtn = round_to_nearest(weight.float(), grid).dequantize(torch.float64)
    assert quadratic(weight - solution.quantized, hessian) <= 0.1 * quadratic(weight - rtn, hessian)


def test_strong_correlation_gains_tenfold_on_inputs_that_were_not_seen() -> None:
    """The same on other inputs of the same distribution, with as many tokens as the seen ones."""
    generator = torch.Generator().manual_seed(5)
    mixing = torch.randn(24, 256, generator=generator, dtype=torch.float64)

    def moments() -> Tensor:
        inputs = torch.randn(4096, 24, generator=generator, dtype=torch.float64) @ mixing
        inputs += 0.02 * torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
        return inputs.T @ inputs / len(inputs)

    weight = torch.randn(64, 256, generator=generator, dtype=torch.float64)
    seen, heldout = moments(), moments()
    grid = Grid(bits=4, group_size=128)
    solution = column_solve(weight.float(), seen, GroupRounding(grid))
    rtn = round_to_nearest(weight.float(), grid).dequantize(torch.float64)
    assert quadratic(weight - solution.quantized, heldout) <= 0.1 * quadratic(weight - rtn, heldout)


def test_the_error_bound_without_clipping() -> None:
    """Rounding to multiples of s is off by at most s / 2, so ||E||^2 is at most the sum of s^2 / (4 U_jj^2) per row."""

    class Multiples:
        alone = "rounded"
        order = staticmethod(natural)

        def begin(self, columns: Columns) -> None:
            self.columns = columns

        def fix(self, position: int, values: Tensor) -> Tensor:
            return (values / 0.25).round() * 0.25

    weight, hessian = problem(6, 32)
    solution = column_solve(weight, hessian, Multiples(), dtype=torch.float64)
    factor = inverse_factor(damped(hessian, 0.01)[0])
    assert factor is not None
    bound = float((0.25**2 / (4 * factor.diagonal() ** 2)).sum())
    assert bool((solution.row_errors <= bound).all())
    assert float(solution.row_errors.mean()) > 0.1 * bound


def test_the_factor_is_that_of_the_inverse() -> None:
    """U is upper triangular and U^T U is the inverse."""
    _, hessian = problem(1, 24)
    system, _, _ = damped(hessian, 0.01)
    factor = inverse_factor(system)
    assert factor is not None
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(factor.T @ factor @ system, torch.eye(24, dtype=torch.float64), atol=1e-9, rtol=0)


def test_dead_columns_are_rounded_and_change_no_others() -> None:
    """An input that was always zero takes no part: the others come out as if it did not exist, at the same damping."""
    weight, hessian = problem(5, 24)
    grid = Grid(bits=3, group_size=1)
    live = [column for column in range(24) if column not in (3, 17)]
    hessian[[3, 17]] = 0
    hessian[:, [3, 17]] = 0
    solution, rule = solve(weight, hessian, grid)
    _, alone = solve(weight[:, live], hessian[live][:, live], grid)
    assert solution.dead_columns == 2
    assert torch.equal(rule.result().codes[:, live], alone.result().codes)
    nearest = round_to_nearest(weight, grid).codes
    assert torch.equal(rule.result().codes[:, [3, 17]], nearest[:, [3, 17]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deficient_hessians_are_solved(dtype: torch.dtype) -> None:
    """Fewer tokens than columns, duplicate columns and no tokens at all end in finite weights below RTN's error."""
    weight, hessian = problem(6, 32, rank=5, noise=0.0)
    hessian[:, 7], hessian[7] = hessian[:, 8], hessian[8]
    hessian[7, 7] = hessian[8, 8]
    grid = Grid(bits=4, group_size=16)
    solution, _ = solve(weight, hessian, grid, dtype=dtype)
    rtn = round_to_nearest(weight, grid)
    assert quadratic(weight - solution.quantized, hessian) < quadratic(weight - rtn.dequantize(torch.float64), hessian)
    empty, rule = solve(weight, torch.zeros_like(hessian), grid, dtype=dtype)
    assert empty.dead_columns == 32
    assert torch.equal(rule.result().codes, rtn.codes)


def test_each_fallback_is_recorded() -> None:
    """An indefinite system fails in float32 and float64 and is solved at more damping, and the record says so."""
    weight, hessian = problem(4, 16)
    hessian -= 0.05 * hessian.diagonal().mean() * torch.eye(16, dtype=torch.float64)
    solution, _ = solve(weight, hessian, Grid(bits=4, group_size=16), dtype=torch.float32)
    assert solution.damp == pytest.approx(0.1)
    assert solution.arithmetic == "float64"
    assert solution.fallback == "float32 damp 0.01: not positive definite; float64 damp 0.01: not positive definite"


def test_without_any_solution_columns_are_rounded_to_nearest() -> None:
    """A matrix that no damping mends ends as RTN, with every step of the way in the record."""
    weight, hessian = problem(4, 16)
    hessian = hessian - 5 * hessian.diagonal().mean() * torch.eye(16, dtype=torch.float64)
    hessian.diagonal().copy_(hessian.diagonal().abs().clamp(min=0.1))
    hessian[0, 1] = hessian[1, 0] = 1e3
    grid = Grid(bits=4, group_size=16)
    solution, rule = solve(weight.float(), hessian, grid, dtype=torch.float32)
    assert solution.identity_error is None
    assert solution.fallback.endswith("rounded to nearest")
    assert solution.fallback.count("not positive definite") == len(list(attempts(0.01)))
    assert torch.equal(rule.result().codes, round_to_nearest(weight.float(), grid).codes)
    with pytest.raises(SolveError, match="strict mode"):
        solve(weight, hessian, grid, dtype=torch.float32, strict=True)


def test_attempts_end_at_full_damping() -> None:
    """Damping grows tenfold and its last value is 1, whatever it starts from."""
    assert [round(attempt.damp, 6) for attempt in attempts(0.01)] == [0.01, 0.01, 0.1, 1.0]
    assert [round(attempt.damp, 6) for attempt in attempts(0.05)] == [0.05, 0.05, 0.5, 1.0]
    assert [round(attempt.damp, 6) for attempt in attempts(0.0)] == [0.0, 0.0, 0.001, 0.01, 0.1, 1.0]
    assert [attempt.damp for attempt in attempts(1.0)] == [1.0, 1.0]


def test_values_that_are_not_finite_are_refused() -> None:
    """NaN in weights or Hessian is named before anything is solved."""
    weight, hessian = problem(4, 16)
    broken = weight.clone()
    broken[1, 2] = float("nan")
    with pytest.raises(WeightError, match=r"\[1, 2\]"):
        solve(broken, hessian, Grid(bits=4, group_size=16))
    with pytest.raises(CalibrationError, match="not finite"):
        solve(weight, hessian * float("inf"), Grid(bits=4, group_size=16))


@pytest.mark.parametrize("columns", [1, 40, 512, 700])
def test_energy_by_panels_is_the_trace(columns: int) -> None:
    """Half of a symmetric H is enough, whatever its width."""
    generator = torch.Generator().manual_seed(columns)
    inputs = torch.randn((900, columns), generator=generator, dtype=torch.float64)
    weight = torch.randn((12, columns), generator=generator, dtype=torch.float64)
    hessian = inputs.T @ inputs
    expected = float((inputs @ weight.T).square().sum())
    assert energy(weight, hessian) == pytest.approx(expected, rel=1e-12)
    assert energy(weight.float(), hessian) == pytest.approx(expected, rel=1e-5)
