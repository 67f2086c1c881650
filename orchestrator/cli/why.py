"""``orchestrate why``: what changed in a stage since it was last computed, leaf by leaf, both values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli._output import json_option, moment, print_json, print_table, shorten
from orchestrator.cli._recipe import split_recipe

if TYPE_CHECKING:
    from orchestrator.api import Prepared
    from orchestrator.pipeline import Input, Node
    from orchestrator.plan import PlanRow
    from orchestrator_storage import Manifest

#: What stands in place of a digest that is not known yet.
PENDING = "not computed yet"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One leaf that differs; ``note`` names the stage that made a changed input."""

    path: str
    old: Any
    new: Any
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why one member runs or is reused; ``compared`` describes the stored result that it was compared with."""

    label: str
    action: str
    reason: str
    key: str | None
    made: dict[str, Any] | None = None
    compared: dict[str, Any] | None = None
    differences: list[Difference] = field(default_factory=list)


@click.command(short_help="Name what changed in a stage since it was last computed.")
@click.argument("stage")
@click.argument("tokens", nargs=-1, metavar="[recipe=NAME [OVERRIDES]...]")
@click.option("-m", "--multirun", is_flag=True, help="Sweep: explain the stage in every point.")
@json_option
def command(stage: str, tokens: tuple[str, ...], multirun: bool, as_json: bool) -> None:
    """Compare what identifies STAGE (a label such as small/bits:4 works) with the nearest stored result of the same kind of stage.

    Without recipe=, the recipe and overrides of the latest run are taken.

    \b
    Examples:
      orchestrate why gptq4
      orchestrate why gptq4 recipe=quickstart stages.gptq4.bits=3
      orchestrate why small/bits:4 recipe=study/cost_of_thinking --json
    """  # noqa: D301 - the backslash is click's mark for text to leave as it is
    from orchestrator.api import prepare

    name, overrides, swept = _recipe_of(tokens)
    planned = prepare(name, overrides, multirun=multirun or swept)
    explained = explain(planned, stage)
    if as_json:
        print_json([asdict(one) for one in explained])
        return
    for one in explained:
        _print(one)


def _recipe_of(tokens: Sequence[str]) -> tuple[str, list[str], bool]:
    if tokens:
        return (*split_recipe(tokens), False)
    from orchestrator.cli._runs import find_run, points_of
    from orchestrator.home import Home

    last = find_run(Home.locate(create=False))
    return last.record["recipe"], list(last.record["overrides"]), len(points_of(last)) > 1


def explain(planned: Prepared, label: str) -> list[Explanation]:
    """Explain every member that a label names."""
    rows = {row.node.spec: row for row in planned.plan.rows}
    return [_explain(planned, rows[node.spec]) for node in planned.pipeline.select(label)]


def _explain(planned: Prepared, row: PlanRow) -> Explanation:
    node = row.node
    payload = known_payload(node, planned)
    own = planned.plan.manifests.get(node.spec) or (planned.store.peek(row.key) if row.key else None)
    other = nearest_other(planned, node, payload, own)
    action = row.action if row.certain else "may run"
    return Explanation(
        label=node.label,
        action=action,
        reason=row.reason,
        key=row.key,
        made=_origin(own),
        compared=_origin(other),
        differences=_differences(planned, node, payload, other) if other is not None else [],
    )


def known_payload(node: Node, planned: Prepared) -> dict[str, Any]:
    """Return the key's payload as far as it is known: inputs that are still to be computed stand as PENDING."""
    manifests = planned.plan.manifests

    def digest(one: Input) -> str:
        return manifests[one.spec].outputs[one.output].digest if one.spec in manifests else PENDING

    payload = dict(node.payload)
    payload["inputs"] = {
        name: [[one.label, one.axes, digest(one)] for one in held] if isinstance(held, list) else digest(held)
        for name, held in node.inputs.items()
        if held is not None
    }
    if node.stage.facts_port:
        payload["facts"] = [
            [one.label, one.axes, manifests[one.spec].facts_digest if one.spec in manifests else PENDING]
            for one in node.facts_from
        ]
    return payload


def nearest_other(planned: Prepared, node: Node, payload: dict[str, Any], own: Manifest | None) -> Manifest | None:
    """Return the stored result to compare with: another key of the same stage, of the same label if there is one, nearest, newest.

    For a result that is stored already only earlier ones count: they are what made it run when it did.
    """
    from orchestrator.key import differences

    best: tuple[Any, Manifest] | None = None
    for manifest in planned.store.manifests():
        started_s = manifest.record.get("started_s") or 0.0
        if manifest.stage != node.stage.name or (
            own is not None and (manifest.key == own.key or started_s > (own.record.get("started_s") or 0.0))
        ):
            continue
        rank = (manifest.record.get("label") == node.label, -len(differences(manifest.payload, payload)), started_s)
        if best is None or rank > best[0]:
            best = (rank, manifest)
    return best[1] if best else None


def _origin(manifest: Manifest | None) -> dict[str, Any] | None:
    if manifest is None:
        return None
    return {
        "key": manifest.key,
        "label": manifest.record.get("label"),
        "run": manifest.record.get("run"),
        "started_s": manifest.record.get("started_s"),
    }


def _differences(planned: Prepared, node: Node, payload: dict[str, Any], other: Manifest) -> list[Difference]:
    from orchestrator.key import differences

    producers = {name: held for name, held in node.inputs.items() if held is not None}
    found = []
    for path, old, new in differences(other.payload, payload):
        head, _, rest = path.partition(".")
        port = rest.partition("[")[0].partition(".")[0]
        note = ""
        if head == "inputs" and port in producers:
            held = producers[port]
            names = [held] if not isinstance(held, list) else held
            labels = list(dict.fromkeys(planned.pipeline.nodes[one.spec].label for one in names))
            note = f"made by {shorten(', '.join(labels), 40)}"
        found.append(Difference(path=path, old=old, new=new, note=note))
    return found


def _print(one: Explanation) -> None:
    click.echo(f"{click.style(one.label, bold=True)}: {one.action} ({one.reason})")
    if one.made is not None and one.action == "cached":
        click.echo(
            f"  key {one.made['key'][:12]}, made {moment(one.made['started_s'])} by run {one.made['run'] or 'unknown'}"
        )
    if one.compared is None:
        click.echo("  there is no other stored result of this stage to compare with")
        return
    what = f"{one.compared['label'] or 'the result'} of run {one.compared['run'] or 'unknown'}, {moment(one.compared['started_s'])}, key {one.compared['key'][:12]}"
    if not one.differences:
        click.echo(f"  nothing differs from {what}")
        return
    click.echo(f"  compared with {what}:")
    print_table(
        ["WHAT", "THEN", "NOW", ""],
        [[d.path, _leaf(d.old), _leaf(d.new), d.note] for d in one.differences],
        indent="    ",
    )


def _leaf(value: Any) -> str:
    if isinstance(value, str):
        return value[:12] if len(value) == 64 else value
    return shorten(json.dumps(value), 40)
