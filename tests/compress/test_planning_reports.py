"""Frontiers, suggestions, comparisons, tables and figures of plans."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from orchestrator_compress.planning.attribution import compare, suggest
from orchestrator_compress.planning.candidates import Candidate, parse
from orchestrator_compress.planning.errors import PlanningError
from orchestrator_compress.planning.figures import bits_by_layer, quality_against_bytes
from orchestrator_compress.planning.frontier import frontier, uniform_line
from orchestrator_compress.planning.plan import Plan, choose, uniform
from orchestrator_compress.planning.tables import choices_from_table, schema
from orchestrator_compress.planning.terms import Terms

from .planning_curves import curves
from .test_planning_candidates import candidates

NAMES = ("gptq-2-sym", "gptq-3-sym", "gptq-4-sym", "gptq-8-sym", "dense")


def random_layers(count: int, seed: int = 0) -> dict[str, dict[str, tuple[int, float]]]:
    """Draw curves of layers whose bytes are multiples of 8 and whose error falls about fourfold a bit."""
    generator = np.random.default_rng(seed)
    layers = {}
    for place in range(count):
        scale = math.exp(generator.normal() * 2)
        layers[f"layers.{place // 2}.{('up', 'down')[place % 2]}"] = {
            name: (
                8 * bits + 8 * int(generator.integers(0, 4)),
                0.0 if name == "dense" else scale * 4.0**-bits * math.exp(generator.normal() / 4),
            )
            for name, bits in zip(NAMES, (2, 3, 4, 8, 16), strict=True)
        }
    return layers


def test_a_frontier_is_the_best_plan_of_each_budget() -> None:
    table = curves(random_layers(9))
    line = frontier(table, 20)
    for row in line.to_pylist():
        plan = choose(table, row["budget_bytes"])
        assert row["exact"]
        assert row["objective"] == pytest.approx(plan.objective, rel=1e-11, abs=1e-300)
        assert row["lower_bound"] == pytest.approx(plan.lower_bound, rel=1e-11)
        assert row["bytes"] <= row["budget_bytes"]
        assert row["bits_per_weight"] == 8 * row["bytes"] / (9 * 32)
    objectives = line["objective"].to_pylist()
    assert objectives == sorted(objectives, reverse=True)
    assert objectives[-1] == 0
    assert line["budget_bytes"].to_pylist()[0] == line["bytes"].to_pylist()[0]


def test_a_coarse_frontier_lies_between_the_bound_and_what_fits_less() -> None:
    table = curves(random_layers(9))
    budgets = [300, 500, 700]
    fine, coarse = frontier(table, budgets), frontier(table, budgets, cells=40)
    assert not any(coarse["exact"].to_pylist())
    for best, row in zip(fine.to_pylist(), coarse.to_pylist(), strict=True):
        assert row["lower_bound"] <= best["objective"] <= row["objective"]
        assert row["bytes"] <= row["budget_bytes"]
    with pytest.raises(PlanningError, match="too small"):
        frontier(table, [1])
    with pytest.raises(PlanningError, match="no budgets are given"):
        frontier(table, [])
    with pytest.raises(PlanningError, match="points=0"):
        frontier(table, 0)


def test_the_uniform_line_is_never_below_the_frontier() -> None:
    layers = random_layers(9)
    layers["layers.0.up"]["gptq-4g16-sym"] = (40, 0.001)
    line = uniform_line(curves(layers)).to_pylist()
    # What one layer alone can have is no choice for all of them.
    assert sorted(row["candidate"] for row in line) == sorted(NAMES)
    assert [row["bytes"] for row in line] == sorted(row["bytes"] for row in line)
    for row in line:
        plan = uniform(curves(layers), parse(row["candidate"]))
        assert (row["bytes"], row["bits_per_weight"]) == (plan.bytes, plan.bits_per_weight)
        assert row["objective"] == pytest.approx(plan.objective, rel=1e-12)
        assert choose(curves(layers), row["bytes"]).objective <= row["objective"] * (1 + 1e-12)


def steps_by_hand(plan: Plan, layers: dict[str, dict[str, tuple[int, float]]]) -> dict[tuple[str, str], str]:
    """Return the best step up and down of each layer by trying all."""
    found = {}
    for layer, curve in layers.items():
        size, cost = curve[plan.choices[layer].name]
        for direction, sign in (("up", 1), ("down", -1)):
            gains = {
                name: (c - cost) / abs(s - size)
                for name, (s, c) in curve.items()
                if sign * (s - size) > 0 and (sign < 0 or c < cost)
            }
            if gains:
                found[layer, direction] = min(gains, key=gains.__getitem__)
    return found


def test_suggestions_are_the_best_steps_of_each_layer() -> None:
    layers = random_layers(8)
    plan = choose(curves(layers), 300)
    table = suggest(plan, curves(layers))
    rows = table.to_pylist()
    assert {(row["layer"], row["direction"]): row["suggested"] for row in rows} == steps_by_hand(plan, layers)
    for row in rows:
        size, cost = layers[row["layer"]][row["suggested"]]
        now = layers[row["layer"]][row["current"]]
        assert row["bytes_change"] == size - now[0]
        assert row["objective_change"] == pytest.approx(cost - now[1])
        assert row["relative_change"] == pytest.approx((cost - now[1]) / plan.objective)
    directions = [row["direction"] for row in rows]
    assert directions == sorted(directions, key=("up", "down").index)
    slopes = [row["objective_change"] / abs(row["bytes_change"]) for row in rows]
    for direction in ("up", "down"):
        part = [slope for slope, name in zip(slopes, directions, strict=True) if name == direction]
        assert part == sorted(part)


def test_no_suggestion_that_fits_the_budget_lowers_the_objective_of_an_exact_plan() -> None:
    for budget, layers in itertools.product((260, 330, 500), (random_layers(8, seed) for seed in range(3))):
        plan = choose(curves(layers), budget)
        for row in suggest(plan, curves(layers)).to_pylist():
            assert plan.bytes + row["bytes_change"] > budget or row["objective_change"] >= 0


def test_a_suggestion_reads_as_a_sentence() -> None:
    layers = {
        "layers.3.down": {"gptq-4-sym": (200_000, 31.0), "gptq-8-sym": (320_000, 0.0)},
        "layers.3.up": {"gptq-4-sym": (10, 69.0)},
    }
    plan = choose(curves(layers), 200_010)
    rows = suggest(plan, curves(layers)).to_pylist()
    assert [row["suggestion"] for row in rows] == [
        "layers.3.down: gptq-4-sym to gptq-8-sym: +0.12 MB, -31 % of the objective"
    ]


def test_suggestions_keep_to_the_terms_of_the_plan() -> None:
    layers = random_layers(6)
    terms = Terms(keep={"re:.*down": 4}, tie=(r"(.*)\.",), sensitivity=dict.fromkeys(layers, 2.0))
    plan = choose(curves(layers), 400, terms)
    rows = suggest(plan, curves(layers)).to_pylist()
    assert {row["layer"] for row in rows} == {f"layers.{block}.up, layers.{block}.down" for block in range(3)}
    assert all(parse(row["suggested"]).bits in (None, 4, 8) for row in rows)
    assert all("and 1 tied layers" in row["suggestion"] for row in rows)
    first = rows[0]
    pair = first["layer"].split(", ")
    expected = sum(2 * (layers[layer][first["suggested"]][1] - layers[layer][first["current"]][1]) for layer in pair)
    assert first["objective_change"] == pytest.approx(expected)


def test_suggestions_need_the_curves_of_the_plan() -> None:
    layers = random_layers(4)
    plan = choose(curves(layers), 300)
    with pytest.raises(PlanningError, match="other layers"):
        suggest(plan, curves({"else": layers["layers.0.up"]}))
    kept = {
        layer: {name: one for name, one in curve.items() if parse(name) != plan.choices[layer]}
        for layer, curve in layers.items()
    }
    with pytest.raises(PlanningError, match="not in the curves"):
        suggest(plan, curves(kept))


def test_predicted_and_measured() -> None:
    layers = {name: {"gptq-4-sym": (10, cost)} for name, cost in (("a", 1.0), ("b", 2.0), ("c", 4.0), ("d", 0.0))}
    plan = choose(curves(layers), 40, Terms(sensitivity={"a": 1.0, "b": 1.0, "c": 0.5, "d": 1.0}))
    told = compare(plan, {"a": 1.5, "b": 2.0, "c": 10.0, "d": 0.25})
    assert told.predicted == 1 + 2 + 2
    assert told.measured == 1.5 + 2 + 5 + 0.25
    assert told.ratio == 8.75 / 5
    assert told.rank_correlation == pytest.approx(1.0)
    assert told.layers["layer"].to_pylist() == ["c", "a", "b", "d"]
    assert told.layers["ratio"].to_pylist() == [2.5, 1.5, 1.0, None]
    # Spearman by the formula 1 - 6 sum d^2 / (n (n^2 - 1)): d is (-2, 0, 2, 0).
    assert compare(plan, {"a": 10.0, "b": 2.0, "c": 1.5, "d": 0.25}).rank_correlation == pytest.approx(1 - 6 * 8 / 60)
    assert math.isnan(compare(plan, dict.fromkeys("abcd", 1.0)).rank_correlation)
    with pytest.raises(PlanningError, match=r"lack \['d'\] and have \['e'\]"):
        compare(plan, dict.fromkeys("abce", 1.0))
    with pytest.raises(PlanningError, match="not all finite"):
        compare(plan, {**dict.fromkeys("abc", 1.0), "d": math.nan})


def test_nothing_predicted() -> None:
    plan = choose(curves({"a": {"dense": (10, 0.0)}}), 10)
    assert compare(plan, {"a": 0.0}).ratio == 1
    assert compare(plan, {"a": 0.5}).ratio == math.inf
    assert plan.gap == 0


@settings(max_examples=60, deadline=None)
@given(candidates())
def test_every_candidate_survives_a_table_in_a_file(candidate: Candidate) -> None:
    """Through Parquet: settings stand in columns of their own and make the same candidate."""
    import pyarrow.parquet as pq

    plan = choose(curves({"a": {candidate.name: (10, 1.0)}, "b": {"dense": (5, 0.0)}}), 20)
    sink = pa.BufferOutputStream()
    pq.write_table(plan.to_table(), sink)
    again = pq.read_table(pa.BufferReader(sink.getvalue()))
    assert choices_from_table(again) == plan.choices == {"a": candidate, "b": parse("dense")}


def test_the_table_of_a_plan() -> None:
    plan = choose(curves(random_layers(6)), 250, Terms(sensitivity="relative"))
    table = plan.to_table()
    assert table.schema == schema()
    assert sum(table["bytes"].to_pylist()) == plan.bytes
    objective = sum(row["objective"] * row["factor"] for row in table.to_pylist())
    assert objective == pytest.approx(plan.objective, rel=1e-12)
    bare = table.select(["layer", "method", "bits", "group_size", "symmetric"])
    assert choices_from_table(bare) == plan.choices


def test_tables_that_are_no_plans() -> None:
    table = choose(curves(random_layers(2)), 100).to_table()
    with pytest.raises(PlanningError, match="stands twice"):
        choices_from_table(pa.concat_tables([table, table]))
    with pytest.raises(PlanningError, match="lacks method"):
        choices_from_table(table.drop_columns(["method"]))
    rows = table.to_pylist()
    rows[0] |= {"method": "gptq", "candidate": "gptq-4-sym", "bits": 8, "group_size": -1, "symmetric": True}
    with pytest.raises(PlanningError, match="is called gptq-4-sym and its settings say gptq-8-sym"):
        choices_from_table(pa.Table.from_pylist(rows, schema=schema()))


def test_the_figure_of_a_frontier_shows_both_lines_and_the_plan() -> None:
    table = curves(random_layers(12))
    plan = choose(table, 500)
    line, points = frontier(table, 16), uniform_line(table)
    axes = quality_against_bytes(line, points, plan).axes[0]
    drawn = {one.get_label(): one for one in axes.lines}
    assert axes.get_yscale() == "log"
    planned = drawn["planned layer by layer"]
    assert planned.get_xdata().tolist() == line["bits_per_weight"].to_pylist()
    # Zero error has no place on a logarithmic axis.
    assert np.isnan(planned.get_ydata()[-1])
    assert list(drawn["the same for all layers"].get_ydata()) == [row["objective"] for row in points.to_pylist()][:-1]
    assert {text.get_text() for text in axes.texts} == set(NAMES) - {"dense"}
    (chosen,) = [label for label in drawn if label.startswith("chosen")]
    assert list(drawn[chosen].get_ydata()) == [plan.objective]
    assert all(
        bound <= value
        for bound, value in zip(drawn["lower bound"].get_ydata()[:-1], planned.get_ydata()[:-1], strict=True)
    )


def test_the_figure_of_bits_has_a_row_for_each_kind_and_a_column_for_each_block() -> None:
    layers = random_layers(6)
    layers["head"] = {"dense": (64, 0.0)}
    plan = choose(curves(layers), 400)
    axes = bits_by_layer(plan).axes[0]
    shown = axes.images[0].get_array()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["up", "down", "head"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["", "0", "1", "2"]
    bits = {choice.layer: choice.bits_per_weight for choice in plan.layers}
    assert shown[1, 3] == bits["layers.2.down"]
    assert shown[2, 0] == bits["head"] == 16
    assert bool(np.ma.getmaskarray(shown)[2, 1])
