"""Plans against every assignment there is, their bounds, and the constraints that they keep to."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_compress.errors import CompressionError
from orchestrator_compress.planning import knapsack
from orchestrator_compress.planning import plan as plan_module
from orchestrator_compress.planning.candidates import parse
from orchestrator_compress.planning.errors import PlanningError
from orchestrator_compress.planning.knapsack import CellProgram, common_unit, cost_of, exact, size_of
from orchestrator_compress.planning.plan import budget_bytes, choose, uniform
from orchestrator_compress.planning.relaxation import Items, Relaxation, hull, pareto
from orchestrator_compress.planning.terms import Terms, calibrate_sensitivity

from .planning_curves import curves

NAMES = ["gptq-2-sym", "gptq-3-sym", "gptq-4-sym", "spqr-3g16-t0.2", "joint-50%-4-sym", "gptq-8-sym", "dense"]
# Costs over six orders of magnitude, with many equal ones; sizes with and without a common divisor.
COSTS = st.one_of(st.integers(0, 6).map(float), st.floats(1e-3, 1e3))
SIZES = st.one_of(st.integers(1, 12), st.integers(0, 9).map(lambda step: 40 + 16 * step), st.integers(1, 5000))


def choices() -> st.SearchStrategy[list[tuple[int, float]]]:
    return st.lists(st.tuples(SIZES, COSTS), min_size=1, max_size=5)


def everything(groups: list[list[tuple[int, float]]], capacity: int) -> Fraction | None:
    """Return the least cost over all assignments that fit, exactly; None where none does."""
    fitting = [chosen for chosen in itertools.product(*groups) if sum(size for size, _ in chosen) <= capacity]
    return min((sum((Fraction(cost) for _, cost in chosen), Fraction(0)) for chosen in fitting), default=None)


def fronts(groups: list[list[tuple[int, float]]]) -> Items:
    items = []
    for group in groups:
        sizes, costs = np.array([size for size, _ in group]), np.array([cost for _, cost in group])
        front = pareto(sizes, costs)
        items.append((sizes[front], costs[front]))
    return items


@settings(max_examples=100, deadline=None)
@given(st.lists(choices(), min_size=1, max_size=5), st.floats(0, 1.1))
def test_a_plan_is_the_best_of_all_assignments(groups: list[list[tuple[int, float]]], share: float) -> None:
    least, most = (sum(pick(size for size, _ in group) for group in groups) for pick in (min, max))
    budget = round(least + share * (most - least))
    layers = {f"l.{i}": dict(zip(NAMES, group, strict=False)) for i, group in enumerate(groups)}
    plan = choose(curves(layers), budget)
    best = everything(groups, budget)
    assert best is not None
    assert plan.exact
    assert plan.bytes <= budget
    assert plan.objective == pytest.approx(float(best), rel=1e-11, abs=1e-300)
    assert plan.lower_bound <= float(best) * (1 + 1e-11)
    assert plan.objective == pytest.approx(sum(layers[c.layer][c.candidate.name][1] for c in plan.layers), rel=1e-12)
    assert plan.bytes == sum(layers[c.layer][c.candidate.name][0] for c in plan.layers)
    assert 0 <= plan.gap <= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(choices(), min_size=1, max_size=5), st.floats(0, 1), st.integers(1, 300))
def test_cells_are_exact_or_bounded(groups: list[list[tuple[int, float]]], share: float, unit: int) -> None:
    """At the common unit as good as any assignment; at another as good as any that leaves groups x unit free."""
    items = fronts(groups)
    least, most = (sum(int(sizes[end]) for sizes, _ in items) for end in (0, -1))
    capacity = round(least + share * (most - least))
    for cells in (common_unit(items), unit):
        program = CellProgram(items, capacity, cells)
        for within in {least, (least + capacity) // 2, capacity}:
            picks = program.picks(within)
            assert size_of(items, picks) <= within
            spare = 0 if common_unit(items) % cells == 0 else len(groups) * cells
            best = everything(groups, within - spare)
            assert best is None or cost_of(items, picks) <= float(best) * (1 + 1e-11)
            assert everything(groups, within) <= cost_of(items, picks) * (1 + 1e-11)


@settings(max_examples=60, deadline=None)
@given(st.lists(choices(), min_size=1, max_size=4), st.floats(0, 1))
def test_the_relaxation_is_the_linear_program(groups: list[list[tuple[int, float]]], share: float) -> None:
    """Against a linear programming solver, at one capacity; the greedy choice fits and costs no less."""
    from scipy.optimize import linprog

    items = fronts(groups)
    least, most = (sum(int(sizes[end]) for sizes, _ in items) for end in (0, -1))
    capacity = round(least + share * (most - least))
    flat = [(place, *one) for place, group in enumerate(groups) for one in group]
    solved = linprog(
        [cost for _, _, cost in flat],
        A_ub=[[size for _, size, _ in flat]],
        b_ub=[capacity],
        A_eq=[[float(place == group) for place, _, _ in flat] for group in range(len(groups))],
        b_eq=np.ones(len(groups)),
    )
    relaxation = Relaxation(items)
    assert float(relaxation.bound(capacity)) == pytest.approx(solved.fun, rel=1e-6, abs=1e-6)
    picks = relaxation.greedy(capacity)
    assert size_of(items, picks) <= capacity
    assert cost_of(items, picks) >= float(relaxation.bound(capacity)) * (1 - 1e-11)
    assert float(relaxation.bound(least - 1)) == math.inf


@given(choices())
@settings(max_examples=100, deadline=None)
def test_fronts_and_hulls(group: list[tuple[int, float]]) -> None:
    """A choice is on the front if no other is as small and as cheap; on the hull if no mixture of two is."""
    (sizes, costs), *_ = fronts([group])
    expected = {
        (size, cost)
        for size, cost in group
        if not any(s <= size and c <= cost and (s, c) != (size, cost) for s, c in group)
    }
    assert set(zip(sizes.tolist(), costs.tolist(), strict=True)) == expected
    assert len(sizes) == len(expected)
    points = [(Fraction(int(size)), Fraction(float(cost))) for size, cost in zip(sizes, costs, strict=True)]
    kept = hull(sizes, costs)
    assert kept[0] == 0
    assert kept[-1] == len(points) - 1
    for place, (size, cost) in enumerate(points):
        mixed = min(
            (
                c1 + (c2 - c1) * (size - s1) / (s2 - s1)
                for (s1, c1), (s2, c2) in itertools.combinations(points, 2)
                if s1 < size < s2
            ),
            default=None,
        )
        # Floating point products decide: what is as near to a mixture as their rounding may be on either side.
        if mixed is not None and abs(cost - mixed) > 1e-12 * points[0][1]:
            assert (place in kept) is (cost < mixed)


def odd_items() -> Items:
    """Return groups with sizes of every kind, some identical, and costs over several orders of magnitude."""
    generator = np.random.default_rng(3)
    items = []
    for place in range(40):
        sizes = np.sort(generator.choice(400, 6, replace=False)) if place % 4 else np.arange(6) * 64
        costs = np.sort(np.exp(generator.normal(size=6) * 3))[::-1] if place % 3 else np.arange(6)[::-1] * 1.0
        items.append((sizes.astype(np.int64), costs.copy()))
    return items


@pytest.mark.parametrize("coarse_cells", [2048, 1])
def test_many_layers_are_solved_exactly(coarse_cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against cells of one byte, which know nothing of bounds; with a good and with a poor solution to start from."""
    monkeypatch.setattr(knapsack, "_COARSE_CELLS", coarse_cells)
    items = odd_items()
    least, most = (sum(int(sizes[end]) for sizes, _ in items) for end in (0, -1))
    for capacity in np.linspace(least, most, 9).astype(int).tolist():
        picks, proven = exact(items, capacity, 200_000)
        assert proven
        assert size_of(items, picks) <= capacity
        assert cost_of(items, picks) == pytest.approx(CellProgram(items, capacity, 1).costs[-1], rel=1e-12)


def test_a_search_that_is_cut_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knapsack, "_COARSE_CELLS", 1)
    items = odd_items()
    least, most = (sum(int(sizes[end]) for sizes, _ in items) for end in (0, -1))
    capacities = np.linspace(least, most, 9).astype(int).tolist()
    outcomes = [exact(items, capacity, 1) for capacity in capacities]
    assert not all(proven for _, proven in outcomes)
    for capacity, (picks, proven) in zip(capacities, outcomes, strict=True):
        best = CellProgram(items, capacity, 1).costs[-1]
        assert size_of(items, picks) <= capacity
        assert not proven or cost_of(items, picks) == pytest.approx(best, rel=1e-12)


def test_where_states_are_too_many_cells_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for few states the plan comes from cells: exact at a common divisor, else with a bound on what is lost."""
    generator = np.random.default_rng(4)
    costs = np.exp(generator.normal(size=(12, 5)) * 2)
    layers = {
        f"l.{i}": {
            name: (int(size), float(cost))
            for name, size, cost in zip(NAMES, 97 * np.arange(1, 6), np.sort(row)[::-1], strict=False)
        }
        for i, row in enumerate(costs)
    }
    expected = choose(curves(layers), 97 * 30)
    monkeypatch.setattr(
        plan_module, "exact", lambda items, capacity, _most: (Relaxation(items).greedy(capacity), False)
    )
    cells = choose(curves(layers), 97 * 30)
    assert cells.exact
    assert cells.objective == expected.objective
    monkeypatch.setattr(plan_module, "_MOST_CELL_STEPS", 0)
    monkeypatch.setattr(plan_module, "CELLS", 10)
    coarse = choose(curves(layers), 97 * 30)
    assert not coarse.exact
    assert coarse.resolution_bytes == 194
    assert coarse.lower_bound <= expected.objective <= coarse.objective
    assert coarse.bytes <= 97 * 30
    # Sizes are multiples of 97, so that rounding them to 194 moves them by 97 bytes a layer at most.
    monkeypatch.undo()
    assert coarse.objective <= choose(curves(layers), 97 * 30 - 12 * 97).objective


def test_a_resolution_that_is_asked_for() -> None:
    layers = {f"l.{i}": {"gptq-2-sym": (10, 8.0), "gptq-4-sym": (19 + i, 1.0)} for i in range(3)}
    exactly, coarse = choose(curves(layers), 51), choose(curves(layers), 51, resolution_bytes=40)
    assert exactly.exact
    assert exactly.bytes == 49
    assert not coarse.exact
    assert coarse.resolution_bytes == 40
    assert coarse.bytes == 30
    assert choose(curves(layers), 51, resolution_bytes=1) == exactly
    with pytest.raises(PlanningError, match="resolution_bytes=0"):
        choose(curves(layers), 51, resolution_bytes=0)
    huge = {"a": {"gptq-2-sym": (10, 8.0), "gptq-4-sym": (10**12, 1.0)}}
    with pytest.raises(PlanningError, match="makes 1,000,000,000 cells .* choose at least 1,8"):
        choose(curves(huge), 10**12, resolution_bytes=1000)
    assert choose(curves(huge), 10**12).bytes == 10**12


def test_a_budget_that_nothing_fits_is_refused_with_the_least() -> None:
    layers = {f"l.{i}": {"gptq-2-sym": (700, 8.0), "gptq-4-sym": (1400, 1.0)} for i in range(3)}
    with pytest.raises(PlanningError, match="2,099 bytes is too small: the least .* is 2,100") as caught:
        choose(curves(layers), 2099)
    assert isinstance(caught.value, CompressionError)
    assert choose(curves(layers), 2100).bytes == 2100
    for none in (math.nan, math.inf):
        with pytest.raises(PlanningError, match="is none; give a number of bytes, at least 2,100"):
            choose(curves(layers), none)
    with pytest.raises(PlanningError, match="the least .* is 2,800"):
        choose(curves(layers), 2100, Terms(keep={"l.1": 4}))


BLOCKS = {
    f"layers.{block}.attn.{kind}": {
        "gptq-2-sym": (20, 9.0 + block),
        "gptq-4-sym": (40, 3.0 - block if kind != "o_proj" else 1.0),
        "gptq-8-sym": (80, 0.5),
        "sparsegpt-50%": (90, 0.25),
        "dense": (160, 0.0),
    }
    for block in range(2)
    for kind in ("q_proj", "k_proj", "v_proj", "o_proj")
}


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        (r"(.*)\.[qkv]_proj", [["q_proj", "k_proj", "v_proj"]]),
        (r"layers\.(\d+)\.", [["q_proj", "k_proj", "v_proj", "o_proj"]]),
    ],
)
def test_tied_layers_share_a_candidate(pattern: str, groups: list[list[str]]) -> None:
    """The best of all assignments in which they do, within each block."""
    units = [
        [f"layers.{block}.attn.{kind}" for kind in group]
        for block in range(2)
        for group in [
            *groups,
            *([kind] for kind in ("q_proj", "k_proj", "v_proj", "o_proj") if all(kind not in g for g in groups)),
        ]
    ]
    for budget in (160, 250, 400, 639, 900):
        plan = choose(curves(BLOCKS), budget, Terms(tie=(pattern,)))
        for unit in units:
            assert len({plan.choices[layer] for layer in unit}) == 1
        options = [
            [tuple(sum(BLOCKS[layer][name][part] for layer in unit) for part in (0, 1)) for name in BLOCKS[unit[0]]]
            for unit in units
        ]
        assert plan.objective == pytest.approx(float(everything(options, budget)), rel=1e-12)


def test_all_layers_of_a_kind_can_be_tied_and_patterns_add_up() -> None:
    plan = choose(curves(BLOCKS), 400, Terms(tie=(r".*\.(\w+)$",)))
    for kind in ("q_proj", "k_proj", "v_proj", "o_proj"):
        assert plan.choices[f"layers.0.attn.{kind}"] == plan.choices[f"layers.1.attn.{kind}"]
    both = choose(curves(BLOCKS), 400, Terms(tie=(r".*\.(\w+)$", r"(.*)\.[qkv]_proj")))
    assert len({candidate for layer, candidate in both.choices.items() if "o_proj" not in layer}) == 1


def test_layers_that_are_kept_precise() -> None:
    plan = choose(curves(BLOCKS), 700, Terms(keep={r"re:.*o_proj": 8, "layers.0.attn.q_proj": "dense"}))
    assert plan.choices["layers.0.attn.q_proj"] == parse("dense")
    for block in range(2):
        # Pruned weights are not precise, whatever their type.
        assert plan.choices[f"layers.{block}.attn.o_proj"] in (parse("gptq-8-sym"), parse("dense"))
    free = choose(curves(BLOCKS), 700)
    assert free.objective < plan.objective


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        (Terms(keep={"layers.7.attn.q_proj": 8}), r"matches no layer; the nearest is 'layers\.[01]"),
        (Terms(keep={"re:[": 8}), "is no regular expression"),
        (Terms(keep={"re:.*q_proj": 16}), None),
        (Terms(tie=("nothing",)), "tie pattern 'nothing' matches no layer"),
        (Terms(tie=(r"(.*)(q|k|v)_proj",)), "ties none: layers whose groups match alike are tied"),
        (Terms(sensitivity={"layers.0.attn.q_proj": 1.0}), "no finite numbers"),
        (Terms(sensitivity={**dict.fromkeys(BLOCKS, 1.0), "other": 1.0}), r"unknown layers \['other'\]"),
        (Terms(sensitivity={**dict.fromkeys(BLOCKS, 1.0), "layers.1.attn.o_proj": -1.0}), "no finite numbers"),
    ],
)
def test_terms_that_no_plan_can_meet(terms: Terms, says: str | None) -> None:
    if says is None:
        assert choose(curves(BLOCKS), 900, terms).choices["layers.0.attn.q_proj"] == parse("dense")
        return
    with pytest.raises(PlanningError, match=says):
        choose(curves(BLOCKS), 900, terms)


def test_terms_and_curves_that_are_none() -> None:
    with pytest.raises(PlanningError, match="sensitivity='kl'"):
        Terms(sensitivity="kl")  # type: ignore[arg-type]
    with pytest.raises(PlanningError, match=r"keep\['a'\]='sparse'"):
        Terms(keep={"a": "sparse"})  # type: ignore[dict-item]
    with pytest.raises(PlanningError, match="column='bytes'"):
        Terms(column="bytes")  # type: ignore[arg-type]
    with pytest.raises(PlanningError, match="is empty"):
        choose(curves({}), 10)
    with pytest.raises(PlanningError, match="leaves a none"):
        choose(curves({"a": {"gptq-4-sym": (4, 1.0)}}), 10, Terms(keep={"a": 8}))
    mixed = {"a": {"gptq-4-sym": (4, 1.0)}, "b": {"gptq-2-sym": (4, 1.0)}}
    with pytest.raises(PlanningError, match="a, b are tied"):
        choose(curves(mixed), 10, Terms(tie=("",)))
    with pytest.raises(PlanningError, match="objective is nan"):
        choose(curves({"a": {"gptq-4-sym": (4, math.nan)}}), 10)
    with pytest.raises(PlanningError, match="two rows"):
        choose(curves({"a": {"4": (4, 1.0), "gptq-4-sym": (4, 1.0)}}), 10)


def test_what_a_layer_weighs_decides_who_gets_the_bytes() -> None:
    layers = {
        "loud": {"gptq-2-sym": (10, 90.0), "gptq-4-sym": (20, 30.0)},
        "quiet": {"gptq-2-sym": (10, 9.0), "gptq-4-sym": (20, 1.0)},
    }
    table = curves(layers, energy={"loud": 1000.0, "quiet": 10.0})
    four = parse("gptq-4-sym")
    assert choose(table, 30).choices["loud"] == four
    relative = choose(table, 30, Terms(sensitivity="relative"))
    assert relative.choices["quiet"] == four
    assert relative.objective == pytest.approx(90 / 1000 + 1 / 10)
    assert choose(table, 30, Terms(sensitivity={"loud": 0.1, "quiet": 1.0})).choices["quiet"] == four
    heldout = choose(table, 30, Terms(sensitivity="relative", column="heldout_objective"))
    assert heldout.objective == pytest.approx(2 / 3 * (90 / 1000 + 1 / 10))


def test_factors_from_measured_divergences() -> None:
    """A model whose divergence is known: the factor times any objective of the layer gives it back."""
    layers = {
        "a": {"gptq-2-sym": (10, 8.0), "gptq-4-sym": (20, 2.0)},
        "b": {"gptq-2-sym": (10, 4.0), "gptq-4-sym": (20, 0.0)},
    }
    asked = []

    def divergence(layer: str) -> float:
        asked.append(layer)
        return {"a": 0.4, "b": 0.0}[layer]

    assert calibrate_sensitivity(curves(layers), divergence, parse("2")) == {"a": 0.05, "b": 0.0}
    assert asked == ["a", "b"]
    # Held-out objectives are twice as large here.
    assert calibrate_sensitivity(curves(layers), divergence, parse("2"), "heldout_objective") == {"a": 0.025, "b": 0.0}
    with pytest.raises(PlanningError, match="b at gptq-4-sym: divergence 0.0 at objective 0.0 has no slope"):
        calibrate_sensitivity(curves(layers), divergence, parse("4"))
    with pytest.raises(PlanningError, match="a was not measured at dense"):
        calibrate_sensitivity(curves(layers), divergence, parse("dense"))
    with pytest.raises(PlanningError, match="divergence nan"):
        calibrate_sensitivity(curves(layers), lambda _layer: math.nan, parse("2"))


def test_uniform_plans_and_budgets_in_bits() -> None:
    plan = uniform(curves(BLOCKS), parse("gptq-4-sym"), Terms(keep={"re:.*": "dense"}))
    assert plan.bytes == plan.budget == 8 * 40
    assert plan.objective == 3 * 3.0 + 3 * 2.0 + 2 * 1.0
    assert plan.lower_bound <= choose(curves(BLOCKS), plan.bytes).objective <= plan.objective
    assert plan.bits_per_weight == 8 * 40 / 32
    assert budget_bytes(curves(BLOCKS), 10.0) == plan.bytes
    with pytest.raises(PlanningError, match=r"layers\.0\.attn\.q_proj was not measured at gptq-3-sym, 8 layers"):
        uniform(curves(BLOCKS), parse("3"))
