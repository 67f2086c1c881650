"""``orchestrate report``: where a run's HTML page is."""

from __future__ import annotations

import webbrowser

import click

from orchestrator.cli._output import json_option, print_json
from orchestrator.cli._runs import find_run
from orchestrator.errors import OrchestratorError
from orchestrator.home import Home


@click.command(short_help="Print the path of a run's HTML report, or open it.")
@click.argument("run", default="latest")
@click.option("--open", "open_it", is_flag=True, help="Open it in the browser.")
@json_option
def command(run: str, open_it: bool, as_json: bool) -> None:
    """Print the path of the report of RUN (an id, the beginning of one, or `latest`): one page that needs no server.

    \b
    Examples:
      orchestrate report
      orchestrate report latest --open
    """  # noqa: D301 - the backslash is click's mark for text to leave as it is
    found = find_run(Home.locate(create=False), run)
    path = found.path / "report.html"
    if not path.exists():
        raise OrchestratorError(
            f"run {found.id} has no report: it is {found.status}",
            "the report is written when a run ends; run it again to resume",
        )
    if as_json:
        print_json({"run": found.id, "report": str(path)})
    else:
        click.echo(str(path))
    if open_it:
        webbrowser.open(path.as_uri())
