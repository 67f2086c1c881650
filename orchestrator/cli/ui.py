"""``orchestrate ui``: the MLflow UI on this home's database."""

from __future__ import annotations

import os
import sys

import click

from orchestrator.errors import OrchestratorError
from orchestrator.home import Home


@click.command(short_help="Start the MLflow UI on this machine's loopback address.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="The port on 127.0.0.1.")
@click.option("--print", "only_print", is_flag=True, help="Print the command instead of starting it.")
def command(port: int, only_print: bool) -> None:
    """Start the MLflow UI with the database and the artifacts of this home; it answers on 127.0.0.1 only. Ctrl-C ends it.

    \b
    Examples:
      orchestrate ui
      orchestrate ui --port 5001
    """  # noqa: D301 - the backslash is click's mark for text to leave as it is
    home = Home.locate(create=False)
    uri = home.tracking_uri
    if uri.startswith(("http://", "https://")):
        click.echo(f"runs are tracked by a server: open {uri}")
        return
    database = home.path / "mlflow.db"
    if uri == f"sqlite:///{database}" and not database.exists():
        raise OrchestratorError(
            f"there is no MLflow database in {home.path}",
            "it is made by the first run: orchestrate run recipe=quickstart",
        )
    words = mlflow_command(home, uri, port)
    if only_print:
        click.echo(" ".join(words))
        return
    click.echo(f"MLflow UI at http://127.0.0.1:{port} (Ctrl-C ends it)", err=True)
    sys.stderr.flush()
    os.execv(words[0], words)  # noqa: S606 - replaces this process, so that signals and the exit code are the server's


def mlflow_command(home: Home, uri: str, port: int) -> list[str]:
    """Return the words of the command that serves ``uri`` on the loopback address."""
    return [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--default-artifact-root",
        str(home.mlartifacts),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
