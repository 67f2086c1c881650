"""``orchestrate run``: execute a recipe, and say what came of it and what to try next."""

from __future__ import annotations

import json
import sys

import click

from orchestrator.cli._recipe import recipe_arguments, split_recipe
from orchestrator.cli._summary import print_failures, print_summary, resume_command
from orchestrator.errors import Cancelled, StageFailed


@click.command(short_help="Run a recipe: execute what is missing, reuse the rest.")
@recipe_arguments
@click.option("--json", "as_json", is_flag=True, help="End stdout with one JSON object that describes the run.")
@click.option("--until", multiple=True, metavar="STAGE", help="Run what STAGE needs, and no more. A label works too.")
@click.option("--rerun-from", multiple=True, metavar="STAGE", help="Run STAGE and everything below it again.")
@click.option("--verify", is_flag=True, help="Hash every stored object that the run relies on.")
@click.option("--local-cpus", type=click.IntRange(min=1), metavar="N", help="Use N CPUs of this machine.")
@click.option(
    "--executor", type=click.Choice(["ray", "local"]), default="ray", show_default=True, help="What runs stages."
)
@click.option("--address", metavar="A", help="Join the Ray cluster at this address (RAY_ADDRESS also works).")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def command(
    tokens: tuple[str, ...],
    multirun: bool,
    as_json: bool,
    until: tuple[str, ...],
    rerun_from: tuple[str, ...],
    verify: bool,
    local_cpus: int | None,
    executor: str,
    address: str | None,
    quiet: bool,
) -> int:
    """Run a recipe with OVERRIDES. Progress goes to stderr; a second run of the same recipe executes nothing.

    \b
    Examples:
      orchestrate run recipe=quickstart
      orchestrate run recipe=quickstart stages.base.steps=500
      orchestrate run recipe=quickstart --until gptq4
      orchestrate run recipe=smoke -m seed=0,1,2 --json
      orchestrate run recipe=quickstart --rerun-from gptq4 --executor local
    """  # noqa: D301 - the backslash is click's mark for text to leave as it is
    from orchestrator import api

    name, overrides = split_recipe(tokens)
    result = api.run(
        name,
        overrides,
        executor=executor,
        multirun=multirun,
        until=until,
        rerun_from=rerun_from,
        verify=verify,
        local_cpus=local_cpus,
        address=address,
        quiet=quiet,
        json=as_json,
        argv=sys.argv[1:],
    )
    described = result.to_json()
    if as_json:
        click.echo(json.dumps(described))
    else:
        print_summary(described, name)
    if described["status"] == "succeeded":
        return 0
    print_failures(result.failures, described, resume_command(sys.argv[1:]))
    return Cancelled.exit_code if described["status"] == "cancelled" else StageFailed.exit_code
