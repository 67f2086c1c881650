"""The words that name a recipe: ``recipe=NAME``, overrides and ``-m``, shared by run, plan and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.errors import RecipeError

if TYPE_CHECKING:
    from orchestrator_storage import Store

    from orchestrator.home import Home
    from orchestrator.pipeline import Pipeline
    from orchestrator.plan import Plan

Command = TypeVar("Command", bound=Callable[..., Any])


def recipe_arguments(function: Command) -> Command:
    """Add ``recipe=NAME [OVERRIDES]...`` and ``-m`` to a command."""
    function = click.argument("tokens", nargs=-1, required=True, metavar="recipe=NAME [OVERRIDES]...")(function)
    return click.option("-m", "--multirun", is_flag=True, help="Sweep: one run for each combination of comma-separated values.")(function)


def split_recipe(tokens: Sequence[str]) -> tuple[str, list[str]]:
    """Separate the recipe's name from the overrides; raises RecipeError when it is not named exactly once."""
    names = [token.partition("=")[2] for token in tokens if token.startswith("recipe=")]
    overrides = [token for token in tokens if not token.startswith("recipe=")]
    if len(names) == 1 and names[0]:
        return names[0], overrides
    if len(names) > 1:
        raise RecipeError(f"the recipe is named {len(names)} times: {', '.join(names)}", "a sweep varies overrides of one recipe")
    bare = next((token for token in overrides if "=" not in token and not token.startswith(("~", "+"))), None)
    raise RecipeError("no recipe is named", f"write recipe={bare or 'quickstart'}; `orchestrate list recipes` shows what there is")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A recipe composed, expanded and compared with the store; nothing heavy was imported for it."""

    name: str
    home: Home
    store: Store
    pipeline: Pipeline
    plan: Plan


def plan_recipe(
    name: str, overrides: list[str], *, multirun: bool = False, until: Sequence[str] = (), rerun_from: Sequence[str] = (), verify: bool = False,
) -> Planned:
    """Compose a recipe and look up what its stages need; raises RecipeError for the first thing that cannot be."""
    from orchestrator_storage import Store

    from orchestrator.home import Home
    from orchestrator.pipeline import build_pipeline
    from orchestrator.plan import make_plan
    from orchestrator.plugins import installed
    from orchestrator.recipe import compose

    registry = installed()
    pipeline = build_pipeline(compose(name, overrides, registry, multirun=multirun), registry)
    home = Home.locate(create=False)
    store = Store(home.store, registry.types)
    only = pipeline.ancestors(node.spec for label in until for node in pipeline.select(label)) if until else None
    force = pipeline.descendants(node.spec for label in rerun_from for node in pipeline.select(label)) if rerun_from else ()
    plan = make_plan(pipeline, store, only=only, force=force, verify=verify)
    return Planned(name=name, home=home, store=store, pipeline=pipeline, plan=plan)
