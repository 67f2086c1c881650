"""``orchestrate gc``: remove what no kept run and no pin needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli._output import json_option, print_json, print_table, size
from orchestrator.errors import StoreError
from orchestrator.home import Home
from orchestrator.runs import list_runs

if TYPE_CHECKING:
    from orchestrator_storage import Store

LISTED_ENTRIES = 20


@click.command(short_help="Remove what no kept run needs (a dry run unless --yes).")
@click.option("--yes", is_flag=True, help="Remove it; without this, only say what would go.")
@click.option(
    "--grace-h",
    default=24.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Keep what was written in the last hours.",
)
@json_option
def command(yes: bool, grace_h: float, as_json: bool) -> None:
    """Find results, files and scratch folders that no run under runs/ and no pin names, and remove them with --yes.

    A run keeps what it used for as long as its folder exists: delete a folder under runs/ to let go of it. Nothing is removed
    while a stage is being computed.

    \b
    Examples:
      orchestrate gc
      orchestrate gc --yes
      orchestrate gc --grace-h 1 --json
    """  # noqa: D301 - the backslash is click's mark for text to leave as it is
    from orchestrator.plugins import installed
    from orchestrator_storage import Store

    home = Home.locate(create=False)
    store = Store(home.store, installed().types)
    abandoned = roots_without_a_run(store, home)
    if yes:
        for name in abandoned:
            store.root_remove(name)
    report = store.gc(dry_run=not yes, grace_s=grace_h * 3600)
    if report.blocked_by and yes:
        raise StoreError(
            f"nothing was removed: {len(report.blocked_by)} stages are being computed", "try again when they are done"
        )
    stages = {manifest.key: manifest.stage for manifest in store.manifests()} if not yes else {}
    rows: list[list[Any]] = [[key[:12], stages.get(key, ""), size(held)] for key, held in report.bytes_by_entry.items()]
    if as_json:
        print_json(
            {
                "removed": report.deleted,
                "reclaimable_bytes": report.reclaimable_bytes,
                "entries": report.bytes_by_entry,
                "objects": len(report.objects),
                "views": len(report.views),
                "scratch": len(report.scratch),
                "leftovers": len(report.leftovers),
                "runs_gone": abandoned,
                "blocked_by": list(report.blocked_by),
            }
        )
        return
    if not yes:
        print_table(["KEY", "STAGE", "FREES"], rows[:LISTED_ENTRIES])
    if len(rows) > LISTED_ENTRIES and not yes:
        click.echo(f"... {len(rows)} results in all")
    if abandoned:
        click.echo(
            f"{len(abandoned)} deleted runs {'were' if yes else 'would be'} let go"
            + ("" if yes else "; what they alone keep is not counted here")
        )
    verb = "removed" if yes else "would remove"
    click.echo(
        f"{verb} {len(report.entries)} results, {len(report.objects)} files, {len(report.scratch)} scratch folders: "
        f"{size(report.reclaimable_bytes)}" + ("" if yes else " (do it with --yes)")
    )


def roots_without_a_run(store: Store, home: Home) -> list[str]:
    """Name the roots of runs whose folder is gone; a root with an owner (a pin) is no run and stays."""
    runs = {run.id for run in list_runs(home)}
    return [name for name, root in store.roots().items() if name not in runs and not root["owner"]]
