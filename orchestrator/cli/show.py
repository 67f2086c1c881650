"""``orchestrate show``: one run, one stage of a run, or one artifact."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli._output import (
    axes_text,
    duration,
    json_option,
    moment,
    number,
    print_json,
    print_table,
    size,
    text,
)
from orchestrator.cli._runs import find_artifact, find_run, is_digest, matching_stages, points_of, stages_of
from orchestrator.home import Home
from orchestrator.runs import Run


@click.command(short_help="Show a run, a stage of a run, or an artifact.")
@click.argument("what")
@click.argument("stage", required=False)
@json_option
def command(what: str, stage: str | None, as_json: bool) -> None:
    """Show WHAT: a run (its id, the beginning of it, or `latest`), a STAGE of that run, or an artifact by its digest's beginning.

    \b
    Examples:
      orchestrate show latest
      orchestrate show latest gptq4                    every member of a family
      orchestrate show latest scores/model:gptq4       one member: settings, outputs, metrics, facts
      orchestrate show 3f9ac01b22d4                  an artifact
    """  # noqa: D301 - the backslash is click's mark for text to leave as it is
    home = Home.locate(create=False)
    if stage is None and is_digest(what):
        _show_artifact(home, what, as_json)
    elif stage is None:
        _show_run(find_run(home, what), as_json)
    else:
        run = find_run(home, what)
        _show_stages(home, matching_stages(run, stage), as_json)


def _show_run(run: Run, as_json: bool) -> None:
    if as_json:
        print_json({**run.record, "path": str(run.path), "result": run.result or None})
        return
    info, points = run.record, points_of(run)
    click.echo(f"{click.style(run.id, bold=True)}: recipe {info['recipe']}, {run.status}")
    if info.get("overrides"):
        click.echo(f"  overrides {' '.join(info['overrides'])}")
    click.echo(
        f"  started {moment(info.get('started_s'))}"
        + (f", finished {moment(info['finished_s'])}" if info.get("finished_s") else "")
    )
    click.echo(f"  folder {run.path}")
    for index, point in enumerate(points):
        if len(points) > 1:
            click.echo(f"\npoint {index}: {' '.join(point.get('overrides') or []) or 'no overrides'}")
        rows = [
            [
                one["status"],
                one["label"],
                duration(one.get("seconds")),
                (one.get("key") or "")[:12],
                metrics_text(one.get("metrics") or {}),
            ]
            for one in point.get("stages", [])
        ]
        click.echo()
        print_table(["STATUS", "STAGE", "TOOK", "KEY", "METRICS"], rows)
    failed = [one for one in stages_of(run) if one["status"] == "failed"]
    for one in failed:
        click.echo(f"\n{one['label']} failed; see: orchestrate show {run.id} {one['label']}")


def metrics_text(metrics: dict[str, float], limit: int = 4) -> str:
    """Write the first few metrics on one line."""
    shown = [f"{name} {number(value)}" for name, value in list(metrics.items())[:limit]]
    return ", ".join(shown) + (f", +{len(metrics) - limit}" if len(metrics) > limit else "")


def _show_stages(home: Home, stages: list[dict[str, Any]], as_json: bool) -> None:
    detailed = [{**stage, **_stored(home, stage.get("key"))} for stage in stages]
    if as_json:
        print_json(detailed)
        return
    for stage in detailed:
        click.echo(f"{click.style(stage['label'], bold=True)}: {stage['status']}, {duration(stage.get('seconds'))}")
        print_stored(stage)
        if stage["axes"]:
            click.echo(f"  axes {axes_text(stage['axes'])}")
        for name, output in (stage.get("outputs") or {}).items():
            click.echo(f"  output {name}: {output['type']} {output['digest'][:12]} at {output['path']}")
        if stage.get("error"):
            click.echo(f"  {stage['error'].get('type')}: {stage['error'].get('message')}")
        click.echo()


def _stored(home: Home, key: str | None) -> dict[str, Any]:
    """Read what the store keeps beside a stage's outputs: settings, facts, host."""
    from orchestrator.plugins import installed
    from orchestrator_storage import Store

    manifest = Store(home.store, installed().types).peek(key) if key else None
    if manifest is None:
        return {}
    return {
        "uses": manifest.stage,
        "version": manifest.version,
        "payload": manifest.payload,
        "facts": manifest.facts,
        "record": manifest.record,
    }


def print_stored(stored: dict[str, Any]) -> None:
    """Print settings, metrics and facts of a stored result."""
    if "uses" in stored:
        click.echo(f"  uses {stored['uses']} version {stored['version']}, key {(stored.get('key') or '')[:12]}")
    settings = (stored.get("payload") or {}).get("config")
    if settings:
        click.echo("  settings")
        print_table(["NAME", "VALUE"], [[name, value] for name, value in settings.items()], indent="    ")
    if stored.get("metrics"):
        click.echo("  metrics")
        print_table(["NAME", "VALUE"], [[name, value] for name, value in stored["metrics"].items()], indent="    ")
    if stored.get("facts"):
        click.echo("  facts")
        rows = [
            [fact["quantity"], fact["value"], fact["unit"], fact["basis"], fact.get("phase", "")]
            for fact in stored["facts"]
        ]
        print_table(["QUANTITY", "VALUE", "UNIT", "BASIS", "PHASE"], rows, indent="    ")


def _show_artifact(home: Home, digest: str, as_json: bool) -> None:
    name, output, made = find_artifact(home, digest)
    files = [{"path": file.path, "bytes": file.size, "sha256": file.sha256} for file in output.files]
    stored = {
        "uses": made.stage,
        "version": made.version,
        "key": made.key,
        "payload": made.payload,
        "metrics": made.metrics,
        "facts": made.facts,
        "record": made.record,
    }
    if as_json:
        print_json(
            {
                "type": output.type,
                "digest": output.digest,
                "meta": output.meta,
                "output": name,
                "files": files,
                "made_by": stored,
            }
        )
        return
    click.echo(f"{click.style(output.type, bold=True)} {output.digest}")
    click.echo(f"  output {name}, made {moment(made.record.get('started_s'))}")
    for field, value in output.meta.items():
        click.echo(f"  {field} {text(value)}")
    print_table(["FILE", "SIZE"], [[file["path"], size(file["bytes"])] for file in files], indent="  ")
    print_stored(stored)
    click.echo(f"  copy it out: orchestrate export {output.digest[:12]} DIR")
