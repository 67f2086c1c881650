"""Families expand, join, gather and pick exactly as SEMANTICS.md says."""

from __future__ import annotations

import textwrap
import time
from typing import Any

import pytest

from orchestrator.errors import RecipeError
from orchestrator.pipeline import Pipeline, build_pipeline
from orchestrator.plugins import installed
from orchestrator.recipe import compose


@pytest.fixture
def expand(home: Any, write_recipe: Any) -> Any:
    """Return a function from the text under `stages:` to a pipeline."""

    def build(stages: str, *overrides: str, multirun: bool = False) -> Pipeline:
        write_recipe("stages:\n" + textwrap.indent(textwrap.dedent(stages), "  "))
        return build_pipeline(compose("toy", list(overrides), installed(), multirun=multirun), installed())

    return build


def labels(pipeline: Pipeline, stage: str) -> list[str]:
    return [one.label for node in pipeline.nodes.values() for one in node.names if one.name == stage]


BASE = "base: {uses: toy.number}\n"
FAMILY = BASE + "small: {uses: toy.add, inputs: {number: base}, each: {amount: [1, 2, 3]}}\n"


def test_each_makes_one_member_per_value(expand: Any) -> None:
    """An int on a float axis is a float coordinate."""
    assert labels(expand(FAMILY), "small") == ["small/amount:1.0", "small/amount:2.0", "small/amount:3.0"]


def test_consumers_inherit_axes_and_cross_their_own(expand: Any) -> None:
    """Inherited axes come first."""
    pipeline = expand(FAMILY + "next: {uses: toy.add, inputs: {number: small}, each: {times: [1, 2]}}\n")
    found = labels(pipeline, "next")
    assert len(found) == 6
    assert found[0] == "next/amount:1.0/times:1"
    assert pipeline.origins[0]["next"] == {"amount": "inputs.number", "times": "each"}


def test_a_list_makes_an_axis_named_like_the_port_and_may_be_ragged(expand: Any) -> None:
    """`number:base` has no `amount`, the members of small have."""
    pipeline = expand(FAMILY + "next: {uses: toy.add, inputs: {number: [base, small]}}\n")
    assert labels(pipeline, "next") == ["next/number:base", *(f"next/number:small/amount:{n}.0" for n in (1, 2, 3))]


def test_a_mapping_names_axis_and_values(expand: Any) -> None:
    """Both forms of DESIGN."""
    pipeline = expand(
        BASE + "other: {uses: toy.number, value: 2}\n"
        "a: {uses: toy.add, inputs: {number: {method: [base, other]}}}\n"
        "b: {uses: toy.add, inputs: {number: {method: {one: base, two: other}}}, amount: 1}\n"
    )
    assert labels(pipeline, "a") == ["a/method:base", "a/method:other"]
    assert labels(pipeline, "b") == ["b/method:one", "b/method:two"]


def test_shared_axes_join_and_different_axes_cross(expand: Any) -> None:
    """A natural join, checked against the set comprehension that defines it."""
    text = (
        FAMILY + "left: {uses: toy.add, inputs: {number: small}, each: {times: [1, 2]}}\n"
        "right: {uses: toy.operate, inputs: {number: small}, each: {operation: [double, power]}}\n"
        "both: {uses: toy.add, inputs: {number: left, other: right}}\n"
    )
    expected = {
        f"both/amount:{a}.0/times:{t}/operation:{o}" for a in (1, 2, 3) for t in (1, 2) for o in ("double", "power")
    }
    assert set(labels(expand(text), "both")) == expected


def test_a_member_without_partner_is_an_error_with_a_way_out(expand: Any) -> None:
    """Nothing is dropped silently."""
    text = (
        FAMILY
        + "less: {uses: toy.number, each: {value: [1]}}\nother: {uses: toy.add, inputs: {number: base}, each: {amount: [1, 2]}}\n"
    )
    with pytest.raises(RecipeError, match="amount:3.0.*no partner") as caught:
        expand(text + "both: {uses: toy.add, inputs: {number: small, other: other}}\n")
    assert "pick" in str(caught.value)


def test_own_each_on_an_inherited_axis_joins(expand: Any) -> None:
    """The field takes the inherited value."""
    pipeline = expand(FAMILY + "next: {uses: toy.add, inputs: {number: small}, each: {amount: [1, 2, 3]}}\n")
    configs = [node.config.amount for node in pipeline.nodes.values() if node.names[0].name == "next"]
    assert labels(pipeline, "next") == [f"next/amount:{n}.0" for n in (1, 2, 3)]
    assert configs == [1.0, 2.0, 3.0]


def test_a_pick_drops_its_axes_alone_and_keeps_them_in_a_list(expand: Any) -> None:
    """{number: small/amount:1, other: small} is three stages."""
    pipeline = expand(
        FAMILY + "a: {uses: toy.add, inputs: {number: small/amount:1.0, other: small}}\n"
        "b: {uses: toy.add, inputs: {number: [small/amount:1.0, small/amount:3.0]}, amount: 7}\n"
    )
    assert labels(pipeline, "a") == [f"a/amount:{n}.0" for n in (1, 2, 3)]
    assert labels(pipeline, "b") == ["b/number:small/amount:1.0", "b/number:small/amount:3.0"]


def test_a_gathering_port_takes_all_or_what_agrees(expand: Any) -> None:
    """Alone it gathers all; with a shared axis it gathers per value; members without the axis are in every group."""
    pipeline = expand(
        FAMILY + "all: {uses: toy.sum, inputs: {numbers: [base, small]}}\n"
        "named: {uses: toy.sum, inputs: {numbers: {dense: base, four: small, one: small/amount:1.0}}}\n"
    )
    by_name = {node.names[0].name: node for node in pipeline.nodes.values()}
    assert [one.label for one in by_name["all"].inputs["numbers"]] == [
        "base",
        *(f"small/amount:{n}.0" for n in (1, 2, 3)),
    ]
    assert [one.label for one in by_name["named"].inputs["numbers"]][:2] == ["dense", "four/amount:1.0"]
    assert by_name["named"].inputs["numbers"][-1].label == "one"


def test_labelled_values_set_several_fields(expand: Any) -> None:
    """The axis' name need not be a field."""
    pipeline = expand(
        BASE
        + "s: {uses: toy.add, inputs: {number: base}, each: {size: {small: {amount: 1, times: 2}, large: {amount: 9, times: 9}}}}\n"
    )
    assert labels(pipeline, "s") == ["s/size:small", "s/size:large"]
    assert [(node.config.amount, node.config.times) for node in list(pipeline.nodes.values())[1:]] == [
        (1.0, 2),
        (9.0, 9),
    ]


def test_named_outputs_are_wired_by_name(expand: Any) -> None:
    """`stage.output`, also with a pick."""
    pipeline = expand(
        FAMILY + "cut: {uses: toy.halve, inputs: {number: small}}\n"
        "low: {uses: toy.add, inputs: {number: cut.low/amount:1.0}}\n"
    )
    assert labels(pipeline, "low") == ["low"]
    with pytest.raises(RecipeError, match=r"unknown output 'cut'"):
        expand(FAMILY + "cut: {uses: toy.halve, inputs: {number: base}}\nlow: {uses: toy.add, inputs: {number: cut}}\n")


def test_seed_and_identity_workers_can_vary(expand: Any) -> None:
    """Only where they are part of the identity."""
    assert labels(expand("d: {uses: toy.draw, each: {seed: [0, 1]}}\n"), "d") == ["d/seed:0", "d/seed:1"]
    assert labels(expand("g: {uses: toy.gang_counted, each: {workers: [1, 2]}}\n"), "g") == [
        "g/workers:1",
        "g/workers:2",
    ]
    with pytest.raises(RecipeError, match="unknown field to vary 'workers'"):
        expand("g: {uses: toy.gang, each: {workers: [1, 2]}}\n")


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ("a: {uses: toy.number, each: {value: []}}", "is empty"),
        ("a: {uses: toy.number, each: {value: 3}}", "expected a list"),
        ("a: {uses: toy.number, each: {value: [1, 1.0]}}", "twice"),
        ("a: {uses: toy.number, value: 4, each: {value: [4]}}", r"stages\.a\.each\.value=\[4\]"),
        ("a: {uses: toy.number, each: {note: [x, y]}}", "unknown field to vary 'note'"),
        ("a: {uses: toy.number, each: {valu: [1]}}", "unknown field to vary 'valu'.*\n.*value"),
        ("a: {uses: toy.number, each: {mode: ['a b']}}", "unknown value 'a b'"),
        ("a: {uses: toy.numbr}", "unknown stage 'toy.numbr'.*\n.*toy.number"),
        ("a: {uses: toy.add}", "needs a Number"),
        ("a: {uses: toy.add, inputs: {numbr: b}}\nb: {uses: toy.number}", "unknown port 'numbr'.*\n.*number"),
        ("a: {uses: toy.add, inputs: {number: bb}}\nbase: {uses: toy.number}", "unknown stage 'bb'"),
        ("a: {uses: toy.add, inputs: {number: w}}\nw: {uses: toy.word}", "gives a Word, toy.add needs a Number"),
        ("a: {uses: toy.add, inputs: {number: b}}\nb: {uses: toy.add, inputs: {number: a}}", "cycle: a -> b -> a"),
        ("a: {uses: toy.number, workers: 2}", "runs in one process"),
        ("a: {uses: toy.number, seed: 2}", "draws no random numbers"),
        ("a: {uses: toy.number, value: 2000}", "at most 1000"),
        ("a: {uses: toy.ledger, inputs: {number: b, facts: b}}\nb: {uses: toy.number}", "unknown port 'facts'"),
        ("A: {uses: toy.number}", r"\[a-z\]"),
        ("a: {value: 3}", "uses is missing"),
        ("a: {uses: toy.either}", r"stages\.a: nothing is wired; wire left or right"),
        (
            "n: {uses: toy.number}\na: {uses: toy.either, inputs: {left: n, right: n}}",
            r"stages\.a: left and right is wired; wire left or right \[toy\.yaml\]",
        ),
        ("a: {uses: toy.number, resources: {cpu: 1}}", "unknown field 'cpu'.*\n.*cpus"),
    ],
)
def test_mistakes_are_named(expand: Any, stages: str, says: str) -> None:
    """Every error says what, where and how to mend it."""
    with pytest.raises(RecipeError, match=says):
        expand(stages + "\n")


def test_what_a_stage_checks_of_its_wiring_may_hold(expand: Any) -> None:
    """One of two optional inputs."""
    assert labels(expand("n: {uses: toy.number}\na: {uses: toy.either, inputs: {right: n}}\n"), "a") == ["a"]


def test_equal_specs_are_one_node_with_many_names(expand: Any) -> None:
    """Renaming a stage changes nothing but names."""
    pipeline = expand("a: {uses: toy.number}\nb: {uses: toy.number}\nc: {uses: toy.add, inputs: {number: b}}\n")
    assert [[one.name for one in node.names] for node in pipeline.nodes.values()] == [["a", "b"], ["c"]]


def test_sweep_points_share_what_is_equal(expand: Any) -> None:
    """Three points of two stages are four nodes."""
    pipeline = expand(BASE + "s: {uses: toy.add, inputs: {number: base}}\n", "stages.s.amount=1,2,3", multirun=True)
    assert len(pipeline.nodes) == 4
    assert [one.point for one in next(iter(pipeline.nodes.values())).names] == [0, 1, 2]


def test_too_many_stages_are_refused(expand: Any) -> None:
    """The count is over distinct specs."""
    with pytest.raises(RecipeError, match="more than 1000"):
        expand(
            BASE
            + "s: {uses: toy.add, inputs: {number: base}, each: {times: ["
            + ", ".join(map(str, range(1001)))
            + "]}}\n"
        )


def test_long_chains_and_large_families_plan_without_recursion(expand: Any) -> None:
    """A chain of 2,000 stages and a family of 1,000 members; the time is printed, not asserted."""
    chain = "s0: {uses: toy.number}\n" + "".join(
        f"s{i}: {{uses: toy.add, inputs: {{number: s{i - 1}}}}}\n" for i in range(1, 2000)
    )
    started = time.perf_counter()
    pipeline = expand(chain, "run.max_stages=5000")
    chain_s = time.perf_counter() - started
    assert len(pipeline.nodes) == 2000
    assert len(pipeline.ancestors([list(pipeline.nodes)[-1]])) == 2000
    started = time.perf_counter()
    pipeline = expand(
        BASE
        + "s: {uses: toy.add, inputs: {number: base}, each: {times: ["
        + ", ".join(map(str, range(1000)))
        + "]}}\n",
        "run.max_stages=2000",
    )
    assert len(pipeline.nodes) == 1001
    print(f"chain {chain_s:.2f} s, family {time.perf_counter() - started:.2f} s")


def test_gathered_labels_and_order_are_identity_single_inputs_are_not(expand: Any) -> None:
    """A single port has no label; a gathering port's labels reach the consumer."""
    one = expand(
        "a: {uses: toy.number}\ns: {uses: toy.add, inputs: {number: a}}\ng: {uses: toy.sum, inputs: {numbers: [a]}}\n"
    )
    two = expand(
        "b: {uses: toy.number}\ns: {uses: toy.add, inputs: {number: b}}\ng: {uses: toy.sum, inputs: {numbers: [b]}}\n"
    )
    spec = [{node.names[0].name: spec for spec, node in pipeline.nodes.items()} for pipeline in (one, two)]
    assert spec[0]["s"] == spec[1]["s"]
    assert spec[0]["g"] != spec[1]["g"]


def test_the_example_of_the_design_expands_to_its_counts(expand: Any) -> None:
    """(1 + 3) x 4 searches and 3 x 2 simulations, not 96 pipelines."""
    pipeline = expand(
        BASE + "small: {uses: toy.add, inputs: {number: base}, each: {amount: [2, 3, 4]}}\n"
        "answers: {uses: toy.add, inputs: {number: [base, small]}, each: {times: [1, 4, 16, 64]}}\n"
        "traffic: {uses: toy.operate, inputs: {number: base}, each: {schedule: {dapple: {operation: double}, chimera: {operation: power}, zb: {operation: {name: power, exponent: 3}}}}}\n"
        "step: {uses: toy.number, each: {value: [1, 2]}}\n"
        "simulated: {uses: toy.add, inputs: {number: traffic, other: step}}\n"
    )
    assert len(labels(pipeline, "answers")) == 16
    assert "answers/number:small/amount:4.0/times:16" in labels(pipeline, "answers")
    assert len(labels(pipeline, "simulated")) == 6
