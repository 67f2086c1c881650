"""The words that name a recipe: ``recipe=NAME``, overrides and ``-m``, shared by run, plan and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from orchestrator.errors import RecipeError

Command = TypeVar("Command", bound=Callable[..., Any])


def recipe_arguments(function: Command) -> Command:
    """Add ``recipe=NAME [OVERRIDES]...`` and ``-m`` to a command."""
    function = click.argument("tokens", nargs=-1, required=True, metavar="recipe=NAME [OVERRIDES]...")(function)
    return click.option(
        "-m", "--multirun", is_flag=True, help="Sweep: one run for each combination of comma-separated values."
    )(function)


def split_recipe(tokens: Sequence[str]) -> tuple[str, list[str]]:
    """Separate the recipe's name from the overrides; raises RecipeError when it is not named exactly once."""
    names = [token.partition("=")[2] for token in tokens if token.startswith("recipe=")]
    overrides = [token for token in tokens if not token.startswith("recipe=")]
    if len(names) == 1 and names[0]:
        return names[0], overrides
    if len(names) > 1:
        raise RecipeError(
            f"the recipe is named {len(names)} times: {', '.join(names)}", "a sweep varies overrides of one recipe"
        )
    bare = next((token for token in overrides if "=" not in token and not token.startswith(("~", "+"))), None)
    raise RecipeError(
        "no recipe is named", f"write recipe={bare or 'quickstart'}; `orchestrate list recipes` shows what there is"
    )
