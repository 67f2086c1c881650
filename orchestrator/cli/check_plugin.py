"""``orchestrate check-plugin``: the contract suite on an installed plugin."""

from __future__ import annotations

import dataclasses

import click

from orchestrator.cli._output import COLOURS, json_option, print_json
from orchestrator.errors import PluginError

MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


@click.command("check-plugin", short_help="Run the contract suite on an installed plugin.")
@click.argument("name")
@click.option("--no-run", is_flag=True, help="Leave out the checks that run stages (same input, same bytes).")
@json_option
def command(name: str, no_run: bool, as_json: bool) -> int:
    """Check that a plugin keeps the contract; exit code 5 when it does not.

    It loads, imports nothing heavy when listed, its stages are described well and travel to workers, its components fulfil their
    kinds, its recipes plan, its keys do not depend on the process, and the same input gives the same bytes.

    \b
    Examples:
      orchestrate check-plugin demo
      orchestrate check-plugin compress --no-run --json
    """  # noqa: D301 - the backslash is click's mark for text to leave as it is
    from orchestrator.contracts import check_plugin

    done = []
    for check in check_plugin(name, execute=not no_run):
        done.append(check)
        if not as_json:
            mark = click.style(f"{MARKS[check.status]:<8}", fg=COLOURS[check.status])
            detail = check.detail.replace("\n", "\n           ")
            click.echo(
                f"{mark} {check.subject}: {check.check}"
                + (f" ({detail})" if check.status != "failed" else f"\n           {detail}")
            )
    failed = sum(1 for check in done if check.status == "failed")
    if as_json:
        print_json({"plugin": name, "passed": failed == 0, "checks": [dataclasses.asdict(check) for check in done]})
    else:
        skipped = sum(1 for check in done if check.status == "skipped")
        click.echo(f"{len(done) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    return PluginError.exit_code if failed else 0
