"""``orchestrate new-plugin``: a small installable plugin to start from."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Write a small installable plugin to start from.")
@click.argument("name")
@click.option(
    "--into", type=click.Path(file_okay=False, path_type=Path), help="The folder to write; ./NAME where absent."
)
def command(name: str, into: Path | None) -> None:
    """Write a plugin with one stage, one component, a recipe and tests.

    \b
    Examples:
      orchestrate new-plugin demo
      pip install -e demo
      orchestrate check-plugin demo
      orchestrate run recipe=demo
    """  # noqa: D301 - the backslash is click's mark for text to leave as it is
    from orchestrator.scaffold import write_plugin

    folder = into or Path(name)
    for path in write_plugin(name, folder):
        click.echo(f"wrote {path}")
    click.echo(
        f"\nnext:\n  pip install -e {folder}\n  orchestrate check-plugin {name}\n  orchestrate run recipe={name}"
    )
