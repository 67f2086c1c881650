"""``orchestrate plan``: what a run would execute, and why, without running."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from orchestrator.cli._output import json_option, print_table
from orchestrator.cli._recipe import recipe_arguments, split_recipe
from orchestrator.family import text_of

if TYPE_CHECKING:
    from orchestrator.api import Prepared
    from orchestrator.plan import PlanRow

LISTED_VALUES = 8


@click.command(short_help="Show what a run would execute, and why, without running.")
@recipe_arguments
@click.option("--until", multiple=True, metavar="STAGE", help="Plan what STAGE needs, and no more.")
@click.option(
    "--rerun-from", multiple=True, metavar="STAGE", help="Plan as if STAGE and everything below it ran again."
)
@click.option("--verify", is_flag=True, help="Hash every stored object that the run would rely on.")
@json_option
def command(
    tokens: tuple[str, ...],
    multirun: bool,
    until: tuple[str, ...],
    rerun_from: tuple[str, ...],
    verify: bool,
    as_json: bool,
) -> None:
    """Compare a recipe with the store: `cached` is reused, `run` executes, `may run` waits for what is above it.

    With --json, one row for each name of each stage: name, axes, label, spec, key, action, reason.

    \b
    Examples:
      orchestrate plan recipe=quickstart
      orchestrate plan recipe=quickstart stages.gptq4.bits=3
      orchestrate plan recipe=smoke -m seed=0,1,2 --json
    """  # noqa: D301 - the backslash is click's mark for text to leave as it is
    name, overrides = split_recipe(tokens)
    from orchestrator.api import prepare

    planned = prepare(name, overrides, multirun=multirun, until=until, rerun_from=rerun_from, verify=verify)
    if as_json:
        rows = [entry for row in planned.plan.rows for entry in row.to_json()]
        click.echo("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")
    else:
        _print(planned)


def _print(planned: Prepared) -> None:
    recipes = planned.recipes
    click.echo(f"{click.style(recipes[0].name, bold=True)}: {recipes[0].description or 'no description'}")
    if len(recipes) > 1:
        names = sum(len(node.names) for node in planned.pipeline.nodes.values())
        click.echo(f"{len(recipes)} points, {names} stages, {len(planned.pipeline.nodes)} distinct")
        for index, recipe in enumerate(recipes):
            click.echo(f"  point {index}: {' '.join(recipe.overrides)}")
    click.echo()
    print_table(
        ["ACTION", "STAGE", "USES", "REASON"],
        [[action(row), names_text(row), row.node.stage.name, row.reason] for row in planned.plan.rows],
    )
    axes = axis_rows(planned)
    if axes:
        click.echo("\naxes")
        print_table(["NAME", "VALUES", "FROM", "CARRIED BY"], axes, indent="  ")
    click.echo(f"\n{planned.plan.summary}")


def action(row: PlanRow) -> str:
    """Return the word for people: a run that depends on what is above it only may happen."""
    return row.action if row.certain else "may run"


def names_text(row: PlanRow) -> str:
    """Write a node's label, and how many more names it has."""
    labels = list(dict.fromkeys(one.label for one in row.node.names))
    return labels[0] + (f" (+{len(labels) - 1} names)" if len(labels) > 1 else "")


def axis_rows(planned: Prepared) -> list[list[str]]:
    """List each axis once: its values, where it begins, and which stages carry it."""
    values: dict[str, dict[str, None]] = {}
    carriers: dict[str, dict[str, None]] = {}
    for node in planned.pipeline.nodes.values():
        for one in node.names:
            for axis, value in one.axes.items():
                values.setdefault(axis, {})[text_of(value)] = None
                carriers.setdefault(axis, {})[one.name] = None
    rows = []
    for axis, held in values.items():
        first = next(iter(carriers[axis]))
        origin = next((stages[first][axis] for stages in planned.pipeline.origins if axis in stages.get(first, {})), "")
        shown = list(held)[:LISTED_VALUES] + ([f"... {len(held)} in all"] if len(held) > LISTED_VALUES else [])
        rows.append([axis, ", ".join(shown), f"stages.{first}.{origin}", ", ".join(carriers[axis])])
    return rows
