"""``orchestrate run``: execute a recipe, and say what came of it and what to try next."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import click

from orchestrator.cli._output import duration
from orchestrator.cli._recipe import recipe_arguments, split_recipe


@click.command(short_help="Run a recipe: execute what is missing, reuse the rest.", context_settings={"ignore_unknown_options": False})
@recipe_arguments
@click.option("--json", "as_json", is_flag=True, help="End stdout with one JSON object that describes the run.")
@click.option("--until", multiple=True, metavar="STAGE", help="Run what STAGE needs, and no more. A label works too.")
@click.option("--rerun-from", multiple=True, metavar="STAGE", help="Run STAGE and everything below it again.")
@click.option("--verify", is_flag=True, help="Hash every stored object that the run relies on.")
@click.option("--local-cpus", type=click.IntRange(min=1), metavar="N", help="Use N CPUs of this machine.")
@click.option("--executor", type=click.Choice(["ray", "local"]), default="ray", show_default=True, help="What runs stages.")
@click.option("--address", metavar="A", help="Join the Ray cluster at this address (RAY_ADDRESS also works).")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def command(
    tokens: tuple[str, ...], multirun: bool, as_json: bool, until: tuple[str, ...], rerun_from: tuple[str, ...], verify: bool,
    local_cpus: int | None, executor: str, address: str | None, quiet: bool,
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
        name, overrides, executor=executor, multirun=multirun, until=until, rerun_from=rerun_from, verify=verify,
        local_cpus=local_cpus, address=address, quiet=quiet, json=as_json,
    )
    described = result.to_json()
    resume = resume_command(sys.argv[1:])
    if as_json:
        click.echo(json.dumps(described))
    else:
        from orchestrator.cli._summary import print_summary

        print_summary(result, described, name)
    if result.status == "succeeded":
        return 0
    _explain_failure(result, resume)
    return int(result.exit_code)


def resume_command(words: Sequence[str]) -> str:
    """Return the command line that goes on where this one stopped: the same one, without what would repeat finished work."""
    kept = []
    skip = False
    for word in words:
        if skip or word == "--rerun-from" or word.startswith("--rerun-from="):
            skip = word == "--rerun-from" and not skip
            continue
        kept.append(word)
    return f"orchestrate {shlex.join(kept)}"


def _explain_failure(result: Any, resume: str) -> None:
    for failure in result.failures:
        error = failure["error"]
        click.echo(f"\n{click.style('failed:', fg='red', bold=True)} {failure['label']}: {error['type']}: {error['message']}", err=True)
        if error.get("hint"):
            click.echo(f"  {error['hint']}", err=True)
        tail = (error.get("log_tail") or "").rstrip()
        if tail:
            click.echo("\n".join(f"  | {line}" for line in tail.splitlines()[-20:]), err=True)
    click.echo(f"{result.status} after {duration(result.seconds)}; resume with:\n{resume}", err=True)
