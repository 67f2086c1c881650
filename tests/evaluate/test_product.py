"""The product along a ladder: telescoping, exclusion, each factor alone, and what may be said."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_evaluate.columns import PRODUCT_FIGURES, product_schema, table_of
from orchestrator_evaluate.ledger import Variant, compare, price_variants
from orchestrator_evaluate.product import COSTS, product_rows, walk
from orchestrator_evaluate.selection import baseline_of, find
from orchestrator_evaluate.summary import account, claim, three_numbers
from tests.evaluate.ledger_case import BASELINE, LADDER, compared, fact, facts, inputs, quality

CASE = compared(inputs())
TIMED = [*facts(), *(fact(f"digest-{name}", "weight_bytes_read", 700_000, "measured") for name in ("rtn4", "gptq4"))]
TIMED_CASE = compared(inputs(rows=TIMED))
CHANGES = [
    {"samples": 1},
    {"samples": 8},
    {"variant": "gptq4"},
    {"variant": "reasoner"},
    {"variant": "rtn4"},
    {"topology": "hx2mesh"},
    {"topology": "fat_tree"},
    {"variant": "gptq4", "samples": 1},
]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(CHANGES), max_size=6), st.sampled_from(["here", "target"]), st.sampled_from(COSTS))
def test_product_telescopes(ladder: list[dict], scope: str, metric: str) -> None:
    """For any ladder, the counted factors multiply to cost(baseline) / cost(final) within 1e-12."""
    product = walk(TIMED_CASE, scope, BASELINE, ladder, metric=metric, volume=1e6)
    first, last = product.rungs[0].variant.figure(metric).value, product.final.figure(metric).value
    assert math.prod(rung.factor for rung in product.counted) == pytest.approx(first / last, rel=1e-12)
    assert product.value == pytest.approx(first / last, rel=1e-12)
    if product.counted:
        assert product.counted[-1].cumulative == product.value


@settings(max_examples=10, deadline=None)
@given(st.permutations([*LADDER, {"variant": "rtn4"}]))
def test_an_excluded_rung_changes_no_headline(ladder: list[dict]) -> None:
    """Wherever the broken model stands on the ladder, taking it off leaves the product, its end and its factors as they are."""
    with_it = walk(TIMED_CASE, "target", BASELINE, ladder)
    without = walk(TIMED_CASE, "target", BASELINE, [change for change in ladder if change != {"variant": "rtn4"}])
    assert [rung.state for rung in with_it.rungs if rung.change == {"variant": "rtn4"}] == ["excluded"]
    assert with_it.value == without.value
    assert with_it.final.name == without.final.name
    assert [rung.factor for rung in with_it.counted] == [rung.factor for rung in without.counted]


def test_assumed_costs_never_enter_a_product() -> None:
    """Without a timed kernel the compressed rung is excluded at the target by its basis, and counted here where it was measured."""
    here, target = (walk(CASE, scope, BASELINE, LADDER) for scope in ("here", "target"))
    states = {scope: [rung.state for rung in product.rungs] for scope, product in (("here", here), ("target", target))}
    assert states == {
        "here": ["baseline", "counted", "counted", "idle"],
        "target": ["baseline", "counted", "excluded", "counted"],
    }
    assert "assumed" in target.rungs[2].reason
    assert {rung.basis for rung in here.counted} == {"measured"}
    assert {rung.basis for rung in target.counted} == {"modelled"}
    assert target.excluded == target.rungs[2].factor


def test_inferior_quality_excludes_with_its_bound() -> None:
    """The reason names the paired lower bound."""
    product = walk(TIMED_CASE, "here", BASELINE, [{"variant": "rtn4"}])
    assert product.rungs[1].state == "excluded"
    assert "paired lower bound -0." in product.rungs[1].reason
    assert product.value == 1.0


def test_unsolved_rung_is_excluded_without_a_factor() -> None:
    """A bounded cost has no ratio."""
    variants = compared(inputs(rows=TIMED, rtn4=(0.0, 0.0)))
    rung = walk(variants, "here", BASELINE, [{"variant": "rtn4"}]).rungs[1]
    assert (rung.state, rung.factor) == ("excluded", None)
    assert "nothing solved" in rung.reason


def test_headline_of_an_unsolved_variant_is_a_bound_with_its_basis() -> None:
    """At volume the bound holds the one-off costs too; a baseline without a cost excludes what follows it."""
    found = account(inputs(rtn4=(0.0, 0.0)), {"variant": "rtn4"}, [{"variant": "gptq4"}], metric=COSTS[0], margin=0.1)
    row = found.data()["headline"][2]
    bounded = next(one for one in found.variants if one.name == row["variant"])
    expected = bounded.fixed_usd / found.inputs.conditions.volume + bounded.solved_cost.low
    assert (row["cost"], row["cost_text"], row["basis"]) == (None, f"> {expected:.3g}", "measured")
    assert found.products[0].rungs[1].reason == "the rung before has no finite cost"


def test_each_factor_alone_and_the_interaction() -> None:
    """Alone is the change applied to the baseline; the interaction is what the product has beyond them."""
    product = walk(TIMED_CASE, "target", BASELINE, LADDER)
    by_name = {variant.name: variant for variant in TIMED_CASE if variant.scope == "target"}
    base = by_name["variant:reasoner/samples:8/topology:fat_tree"].figure("usd_per_solved_at_volume").value
    alone = [
        base / by_name[name].figure("usd_per_solved_at_volume").value
        for name in (
            "variant:reasoner/samples:1/topology:fat_tree",
            "variant:gptq4/samples:8/topology:fat_tree",
            "variant:reasoner/samples:8/topology:hx2mesh",
        )
    ]
    assert [rung.alone for rung in product.rungs[1:]] == alone
    assert product.interaction == pytest.approx(product.value / math.prod(alone))
    assert product.interaction != 1.0


def test_factor_interval_is_paired_over_problems() -> None:
    """It holds the factor and is far narrower than the two costs' own intervals would make it."""
    product = walk(TIMED_CASE, "here", BASELINE, [{"variant": "gptq4"}], metric="usd_per_solved")
    rung = product.rungs[1]
    assert rung.low < rung.factor < rung.high
    costs = [one.solved_cost for one in (product.rungs[0].variant, rung.variant)]
    assert rung.high - rung.low < costs[0].high / costs[1].low - costs[0].low / costs[1].high


def test_rows_carry_a_basis_with_every_figure() -> None:
    """Both scopes fit the published schema."""
    products = [walk(CASE, scope, BASELINE, LADDER) for scope in ("here", "target")]
    made = table_of([row for one in products for row in product_rows(one)], product_schema()).to_pylist()
    assert len(made) == 8
    for row in made:
        assert row["scope"] in {"here", "target"}
        for name, _ in PRODUCT_FIGURES:
            assert (row[name] is None) == (row[f"{name}_basis"] is None)
    assert [row["cumulative_basis"] for row in made] == ["measured"] * 4 + ["modelled"] * 4


def test_three_numbers_and_the_claim() -> None:
    """Measured here, modelled at target, excluded: and the sentence quotes the first two."""
    found = account(inputs(), BASELINE, LADDER, metric="usd_per_solved", margin=0.1)
    here, target = found.products
    numbers = three_numbers(here, target)
    assert numbers == {"measured_here": here.value, "modelled_at_target": target.value, "excluded": target.excluded}
    sentence = claim(here, target, found.inputs.hardware)
    assert sentence.startswith(f"{target.value:.3g} x lower modelled USD per solved at h200_1024")
    assert f"{here.value:.3g} x measured here" in sentence
    assert found.metrics()["measured_here"] == here.value
    assert [row["unit"] for row in found.data()["headline"]] == ["USD/solved"] * 18


def test_a_ladder_that_saves_nothing_claims_nothing() -> None:
    """No rung, no factor, no claim of a saving."""
    found = account(inputs(), BASELINE, [], metric="usd_per_solved", margin=0.1)
    assert found.metrics()["modelled_at_target"] == 1.0
    assert found.data()["claim"].startswith("no counted rung lowers")


def test_a_ledger_without_training_has_one_scope() -> None:
    """Nothing is modelled where nothing was simulated."""
    given = inputs()
    found = account(
        type(given)(**{**given.__dict__, "trainings": []}),
        {"variant": "reasoner"},
        [],
        metric="usd_per_solved",
        margin=0.1,
    )
    assert found.target is None
    assert {variant.scope for variant in found.variants} == {"here"}


def test_unknown_axis_and_missing_member_are_named() -> None:
    """The errors say what there is."""
    with pytest.raises(ValueError, match=r"axis 'bits' .* samples, topology, variant"):
        walk(CASE, "here", BASELINE, [{"bits": 4}])
    with pytest.raises(ValueError, match="no variant is variant:gptq2"):
        walk(CASE, "here", BASELINE, [{"variant": "gptq2"}])
    with pytest.raises(ValueError, match="no variant of scope here is variant:none"):
        walk(CASE, "here", {"variant": "none"}, [])


def test_baseline_left_open_is_the_first_variant() -> None:
    """Axes that the recipe does not name take the first member's value."""
    assert baseline_of(CASE, "target", {}).name == "variant:reasoner/samples:1/topology:fat_tree"
    assert baseline_of(CASE, "here", {"samples": 8}).name == "variant:reasoner/samples:8"


def ragged() -> list[Variant]:
    """A dense model without bits beside a compressed family with them."""
    dense = quality("reasoner", 1, 0.9)
    members = [("reasoner", {"model": "reasoner"}), ("small/bits:2", {"model": "small", "bits": 2}),
               ("small/bits:4", {"model": "small", "bits": 4})]  # fmt: skip
    base = inputs()
    qualities = [type(dense)(**{**dense.__dict__, "label": label, "axes": axes}) for label, axes in members]
    given = type(base)(**{**base.__dict__, "qualities": qualities, "trainings": []})
    variants = price_variants(given)
    return compare(variants, {"here": variants[0]}, 0.1, given.conditions)


def test_ragged_families_are_addressed_by_what_they_have() -> None:
    """A dense baseline has no bits; a rung that names them finds its member, and going back drops them."""
    variants = ragged()
    start = {"model": "reasoner"}
    small = {"model": "small", "bits": 4}
    assert find(variants, "here", {**start, **small}, small).quality.label == "small/bits:4"
    assert find(variants, "here", {**small, **start}, start).quality.label == "reasoner"
    assert find(variants, "here", {"model": "small"}, {"model": "small"}).quality.label == "small/bits:2"
    with pytest.raises(ValueError, match="no variant is model:large in scope here"):
        find(variants, "here", {"model": "large"}, {"model": "large"})


def test_a_rung_that_needs_an_excluded_one_is_excluded_with_it() -> None:
    """Bits without a compressed model do not exist: the rung says so, has no factor alone, and stops nothing."""
    variants = [replace(variant, matched=variant.quality.label != "small/bits:2") for variant in ragged()]
    ladder = [{"model": "small", "bits": 2}, {"bits": 4}]
    rungs = walk(variants, "here", {"model": "reasoner"}, ladder, metric="usd_per_solved").rungs
    assert [rung.state for rung in rungs] == ["baseline", "excluded", "excluded"]
    assert rungs[2].reason == "exists only with a rung that is excluded"
    assert rungs[2].variant.quality.label == "small/bits:4"
    assert rungs[2].alone is None


def test_members_without_coordinates_are_addressed_by_label() -> None:
    """Two labelled tables without axes become the axis `quality`."""
    base = inputs()
    plain = [
        type(one)(**{**one.__dict__, "axes": {}, "label": label})
        for one, label in zip(base.qualities[:2], ("dense", "four"), strict=True)
    ]
    given = type(base)(**{**base.__dict__, "qualities": plain})
    names = [variant.name for variant in price_variants(given)]
    assert names[:3] == ["quality:dense", "quality:four", "quality:dense/topology:fat_tree"]
