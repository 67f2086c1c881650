"""``orchestrate list``: what there is to name in a recipe and on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli._output import duration, first_line, json_option, moment, print_json, print_table, shorten, size
from orchestrator.errors import unknown

if TYPE_CHECKING:
    from orchestrator.component import Component
    from orchestrator.plugins import Registry

THINGS = ("recipes", "stages", "kinds", "components", "plugins", "runs", "artifacts")


@click.command(short_help="List recipes, stages, kinds, components, plugins, runs or artifacts.")
@click.argument("what", type=click.Choice(THINGS))
@click.argument("name", required=False)
@json_option
def command(what: str, name: str | None, as_json: bool) -> None:
    """List what there is, or describe one of them.

    \b
    Examples:
      orchestrate list recipes
      orchestrate list stages                      every stage, one line each
      orchestrate list stages compress.gptq        inputs, settings, defaults, a line to paste
      orchestrate list components topology         the components of one kind
      orchestrate list components topology/torus   settings of one, with defaults and meanings
      orchestrate list runs --json
    """  # noqa: D301 - the backslash is click's mark for text to leave as it is
    rows, columns, describe = LISTINGS[what](name)
    if as_json:
        print_json(rows)
    elif describe is not None:
        describe(rows)
    elif rows:
        print_table([column.upper() for column in columns], [[row[column] for column in columns] for row in rows])
    else:
        click.echo(f"no {what}{f' match {name!r}' if name else ''}")


Listing = tuple[Any, tuple[str, ...], Callable[[Any], None] | None]


def _registry() -> Registry:
    from orchestrator.plugins import installed

    return installed()


def _recipes(name: str | None) -> Listing:
    from orchestrator.recipe import find_recipes

    found = find_recipes(_registry())
    rows = [{"name": one.name, "description": one.description, "path": str(one.path)} for one in found.values()]
    if name is not None:
        rows = [row for row in rows if row["name"] == name]
        if not rows:
            raise unknown("recipe", name, found)
    return rows, ("name", "description"), None


def _stages(name: str | None) -> Listing:
    from orchestrator.cli._describe import describe_stage

    registry = _registry()
    if name is not None:
        spec = registry.stages.get(name)
        if spec is None:
            raise unknown("stage", name, registry.stages, registry.explain_missing("it").strip(" ()"))
        return describe_stage(spec, registry.owners.get(f"stage {name}", "")), (), _print_stage
    rows = [
        {
            "name": spec.name,
            "version": spec.version,
            "plugin": registry.owners.get(f"stage {spec.name}", ""),
            "doc": first_line(spec.doc),
        }
        for spec in sorted(registry.stages.values(), key=lambda spec: spec.name)
    ]
    return rows, ("name", "version", "plugin", "doc"), None


def _print_stage(stage: dict[str, Any]) -> None:
    click.echo(f"{click.style(stage['name'], bold=True)} version {stage['version']}, plugin {stage['plugin']}")
    click.echo("\n".join(f"  {line}".rstrip() for line in stage["doc"].splitlines()))
    if stage["cites"]:
        click.echo(f"  cites {', '.join(stage['cites'])}")
    marks = (["seeded"] if stage["seeded"] else []) + ([f"workers ({stage['workers']})"] if stage["workers"] else [])
    if marks:
        click.echo(f"  takes {', '.join(marks)}")
    if stage["inputs"]:
        click.echo("\ninputs")
        print_table(
            ["NAME", "TYPE", ""], [[one["name"], one["type"], _port_words(one)] for one in stage["inputs"]], indent="  "
        )
    click.echo("\noutputs")
    print_table(["NAME", "TYPE"], [[one["name"], one["type"]] for one in stage["outputs"]], indent="  ")
    if stage["settings"]:
        click.echo("\nsettings")
        _print_fields(stage["settings"])
    click.echo(f"\nexample\n  {stage['example']}")


def _port_words(port: dict[str, Any]) -> str:
    if not port["wired"]:
        return "the facts of every stage above; not wired"
    return ", ".join(
        (["optional"] if port["optional"] else ["required"]) + (["gathers many, labelled"] if port["gathers"] else [])
    )


def _print_fields(fields: list[dict[str, Any]]) -> None:
    rows = [
        [
            one["name"],
            shorten(one["type"], 40),
            "required" if one["required"] else _default_words(one["default"]),
            one["doc"],
        ]
        for one in fields
    ]
    print_table(["NAME", "TYPE", "DEFAULT", "MEANING"], rows, indent="  ")


def _default_words(value: Any) -> str:
    import json

    return shorten(value if isinstance(value, str) and value else json.dumps(value), 40)


def _kinds(name: str | None) -> Listing:
    from orchestrator.contracts import protocol_members

    registry = _registry()
    if name is not None and name not in registry.kinds:
        raise unknown("kind", name, registry.kinds)
    counts = {kind: sum(1 for held, _ in registry.components if held == kind) for kind in registry.kinds}
    rows = [
        {
            "name": kind,
            "components": counts[kind],
            "members": protocol_members(protocol),
            "doc": first_line(protocol.__doc__),
        }
        for kind, protocol in sorted(registry.kinds.items())
        if name in (None, kind)
    ]
    return rows, ("name", "components", "doc") if name is None else ("name", "components", "members", "doc"), None


def _components(name: str | None) -> Listing:
    from orchestrator.cli._describe import describe_fields

    registry = _registry()
    kind, _, own = (name or "").partition("/")
    if kind and kind not in registry.kinds:
        raise unknown("kind", kind, registry.kinds)
    chosen = [
        one for one in registry.components.values() if (not kind or one.kind == kind) and (not own or one.name == own)
    ]
    if own and not chosen:
        raise unknown(f"{kind} component", own, [held for held_kind, held in registry.components if held_kind == kind])

    def row(one: Component) -> dict[str, Any]:
        settings = describe_fields(one.config) if one.config is not None else []
        return {
            "kind": one.kind,
            "name": one.name,
            "version": one.version,
            "plugin": registry.owners.get(f"component {one.kind}/{one.name}", ""),
            "doc": first_line(one.doc),
            "settings": settings,
        }

    rows = [row(one) for one in sorted(chosen, key=lambda one: (one.kind, one.name))]
    return rows, ("kind", "name", "version", "plugin", "doc"), _print_component if own else None


def _print_component(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        click.echo(
            f"{click.style(row['kind'] + ' ' + row['name'], bold=True)} version {row['version']}, plugin {row['plugin']}\n  {row['doc']}"
        )
        if row["settings"]:
            click.echo("\nsettings")
            _print_fields(row["settings"])


def _plugins(name: str | None) -> Listing:
    registry = _registry()
    if name is not None and name not in {record.name for record in registry.plugins}:
        raise unknown("plugin", name, [record.name for record in registry.plugins])
    rows = []
    for record in registry.plugins:
        owned = [thing for thing, owner in registry.owners.items() if owner == record.name]
        rows.append(
            {
                "name": record.name,
                "distribution": record.distribution,
                "version": record.version,
                "status": record.status,
                "builtin": record.builtin,
                "stages": sum(1 for thing in owned if thing.startswith("stage ")),
                "components": sum(1 for thing in owned if thing.startswith("component ")),
                "error": record.error,
            }
        )
    chosen = [row for row in rows if name in (None, row["name"])]
    return chosen, ("name", "distribution", "version", "status", "stages", "components", "error"), None


def _runs(name: str | None) -> Listing:
    from orchestrator.cli._runs import stages_of
    from orchestrator.home import Home
    from orchestrator.runs import list_runs

    rows = []
    for run in list_runs(Home.locate(create=False)):
        statuses = [stage["status"] for stage in stages_of(run)]
        finished = run.record.get("finished_s")
        rows.append(
            {
                "run": run.id,
                "recipe": run.record["recipe"],
                "status": run.status,
                "started": moment(run.record["started_s"]),
                "took": duration(finished - run.record["started_s"]) if finished else "",
                "executed": statuses.count("executed"),
                "cached": statuses.count("cached"),
                "overrides": " ".join(run.record["overrides"]),
            }
        )
    chosen = [row for row in rows if name is None or row["recipe"] == name or row["run"].startswith(name)]
    return chosen, ("run", "recipe", "status", "started", "took", "executed", "cached", "overrides"), None


def _artifacts(name: str | None) -> Listing:
    from orchestrator.home import Home
    from orchestrator_storage import Store

    registry = _registry()
    if name is not None and name not in registry.types:
        raise unknown("artifact type", name, registry.types)
    store = Store(Home.locate(create=False).store, registry.types)
    rows = []
    for manifest in store.manifests():
        for output_name, output in manifest.outputs.items():
            if name in (None, output.type):
                bytes_held = sum(file.size for file in output.files)
                rows.append(
                    {
                        "artifact": output.digest[:12],
                        "type": output.type,
                        "stage": manifest.stage,
                        "output": output_name,
                        "size": size(bytes_held),
                        "bytes": bytes_held,
                        "made": moment(manifest.record.get("started_s")),
                        "digest": output.digest,
                    }
                )
    rows.sort(key=lambda row: (row["made"], row["stage"], row["output"], row["digest"]))
    return rows, ("artifact", "type", "stage", "output", "size", "made"), None


LISTINGS: dict[str, Callable[[str | None], Listing]] = {
    "recipes": _recipes,
    "stages": _stages,
    "kinds": _kinds,
    "components": _components,
    "plugins": _plugins,
    "runs": _runs,
    "artifacts": _artifacts,
}
