"""Recipes compose with Hydra, take overrides literally and sweep into points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import RecipeError
from orchestrator.plugins import installed
from orchestrator.recipe import Recipe, compose

TEXT = """
description: What is one and one?
vars: {amount: 2.5}
stages:
  base: {uses: toy.number, value: 1}
  more: {uses: toy.add, inputs: {number: base}, amount: "${vars.amount}"}
"""


@pytest.fixture
def point(home: Path, write_recipe: Any) -> Any:
    """Return a function that composes the text with overrides."""

    def one(*tokens: str, text: str = TEXT, multirun: bool = False) -> Recipe:
        return compose(write_recipe(text), list(tokens), installed(), multirun=multirun)[0]

    return one


def test_variables_are_resolved_and_the_tree_is_plain(point: Any) -> None:
    """No DictConfig leaves the module."""
    recipe = point()
    assert recipe.stages["more"].config == {"amount": 2.5}
    assert type(recipe.tree["stages"]["more"]) is dict
    assert recipe.params["stages.more.amount"] == 2.5


def test_overrides_set_what_is_written(point: Any) -> None:
    """Replace, add, delete; a mapping replaces, it does not merge."""
    assert point("stages.base.value=7").stages["base"].config["value"] == 7
    assert point("vars.amount=9").stages["more"].config["amount"] == 9
    assert point("+stages.third={uses:toy.number}").stages["third"].uses == "toy.number"
    assert "amount" not in point("~stages.more.amount").stages["more"].config
    assert point("stages.more.inputs.other=base").stages["more"].inputs == {"number": "base", "other": "base"}
    assert point("stages.base={uses:toy.draw}").stages["base"].config == {}
    assert point("stages.base.note='a b, c'").stages["base"].config["note"] == "a b, c"
    assert point("stages.more.inputs.other=null").stages["more"].inputs["other"] is None
    assert point("seed=3").seed == 3


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("stages.bas.value=1", "unknown stage 'bas'.*\n.*base"),
        ("stagez.base.value=1", "unknown top-level key 'stagez'.*\n.*stages"),
        ("stages.base.value=1,2", "-m"),
        ("stages.base.value=[", "does not parse"),
        ("~stages.base.nothing", "not set"),
        ("stages.base.value=${oc.env:HOME}", "only"),
        ("stages.base._target_=os.system", "_target_"),
        ("run.max_stage=3", "unknown field 'max_stage'.*\n.*max_stages"),
        ("seed=x", "expected int"),
        ("stages.base.workers=0", "at least 1"),
        ("stages.base.timeout_s=-1", "above 0"),
        ("stages.base.retries=many", "expected int"),
    ],
)
def test_wrong_overrides_are_refused(point: Any, token: str, says: str) -> None:
    """Each message names the token or the path."""
    with pytest.raises(RecipeError, match=says):
        point(token)


def test_target_is_refused_anywhere(point: Any) -> None:
    """Recipes are data: no import path in YAML."""
    with pytest.raises(RecipeError, match="_target_ is refused"):
        point(text="stages: {a: {uses: toy.number, nested: {_target_: os.system}}}\n")


def test_sweeps_expand_to_every_point(home: Path, write_recipe: Any) -> None:
    """A product, last token fastest; ranges too."""
    write_recipe(TEXT)
    points = compose("toy", ["stages.base.value=1,2", "seed=range(0,3)"], installed(), multirun=True)
    assert [(one.stages["base"].config["value"], one.seed) for one in points] == [
        (1, 0),
        (1, 1),
        (1, 2),
        (2, 0),
        (2, 1),
        (2, 2),
    ]
    assert points[0].overrides == ("stages.base.value=1", "seed=0")


def test_parts_compose_into_the_root(home: Path, write_recipe: Any) -> None:
    """A defaults list brings shared stages; _self_ decides who wins."""
    write_recipe("vars: {amount: 1}\nstages: {base: {uses: toy.number, value: 3}}\n", "base/part")
    write_recipe(
        "defaults: [/base/part, _self_]\nstages: {base: {value: 4}, more: {uses: toy.add, inputs: {number: base}}}\n",
        "whole",
    )
    recipe = compose("whole", [], installed())[0]
    assert recipe.stages["base"].config == {"value": 4}
    assert recipe.vars == {"amount": 1}


def test_unknown_recipes_have_near_matches(home: Path, write_recipe: Any) -> None:
    """A typo in the recipe's name."""
    write_recipe(TEXT, "toys")
    with pytest.raises(RecipeError, match="unknown recipe 'toyz'.*\n.*toys"):
        compose("toyz", [], installed())


def test_a_recipe_may_be_named_by_its_file(home: Path, write_recipe: Any, tmp_path: Path) -> None:
    """A path works without a search path."""
    (tmp_path / "mine.yaml").write_text(TEXT)
    assert compose(str(tmp_path / "mine.yaml"), [], installed())[0].name == "mine"


def test_broken_yaml_is_one_sentence(home: Path, write_recipe: Any) -> None:
    """No parser dump."""
    write_recipe("stages: {a: [}\n", "broken")
    with pytest.raises(RecipeError, match="broken"):
        compose("broken", [], installed())
