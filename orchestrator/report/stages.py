"""The section of each stage: what it was told and what came of it; and for a failure why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from orchestrator.observers.record import StageRecord
from orchestrator.observers.words import duration, metrics_text, number
from orchestrator.report.artifacts import first_rows
from orchestrator.report.graph import Group
from orchestrator.report.markup import Markup, anchor, definitions, join, table, tag, without_empty

MEMBERS_SHOWN = 40
TABLES_SHOWN = 6


def group_section(group: Group, manifests: Mapping[str, Any]) -> Markup:
    """Show one stage of the recipe: itself, or the first members of its family folded away."""
    if len(group.members) == 1:
        return _details(group.members[0], manifests, id_=anchor(group.name))
    members = group.members[:MEMBERS_SHOWN]
    hidden = len(group.members) - len(members)
    more = (
        tag("p", f"{hidden} more members are in the table above and in the journal", class_="note") if hidden else None
    )
    seconds = sum(member.seconds for member in group.members if member.status == "executed")
    said = f"{len(group.members)} members" + (f", {duration(seconds)}" if seconds else "")
    summary = tag("summary", _dot(group.status), tag("b", group.name), tag("span", said, class_="soft"))
    inner = join(_details(member, manifests) for member in members)
    return tag("details", summary, tag("div", inner, more, class_="members"), id=anchor(group.name))


def failure(stage: StageRecord) -> Markup:
    """Show a stage that failed: the error, what to do, and the end of its log."""
    name = tag(
        "h3",
        tag("a", stage.title, href=f"#{anchor(stage.name)}"),
        tag("span", f"after {duration(stage.seconds)}", class_="soft"),
    )
    return tag("div", name, _error(stage), class_="failure")


def cite(reference: str) -> Markup:
    """Link an arXiv or DOI reference; anything else stands as text."""
    kind, _, identity = reference.partition(":")
    place = {"arxiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}.get(kind.lower())
    return tag("a", reference, href=place + quote(identity, safe="/.")) if place else tag("span", reference)


def _details(stage: StageRecord, manifests: Mapping[str, Any], id_: str | None = None) -> Markup:
    summary = tag(
        "summary",
        _dot(stage.status),
        tag("b", stage.title),
        tag(
            "span",
            stage.status + (f"  {duration(stage.seconds)}" if stage.status not in {"cached", "skipped"} else ""),
            class_="soft",
        ),
        tag("span", metrics_text(stage.metrics, 2), class_="told"),
    )
    parts = [_about(stage, manifests), _metrics(stage), _tables(stage), _facts(stage)]
    return tag("details", summary, tag("div", *parts, class_="stage"), id=id_)


def _dot(status: str) -> Markup:
    return tag("span", class_=f"status s-{status}", title=status)


def _about(stage: StageRecord, manifests: Mapping[str, Any]) -> Markup:
    node = stage.node
    cites = join((cite(str(one)) for one in node.get("cites") or []), " ")
    flat = json.dumps(node.get("config") or {}, sort_keys=True, default=str)
    pairs: list[tuple[object, object]] = [("stage", f"{node['uses']} version {node['version']}")]
    if cites:
        pairs.append(("after", cites))
    if flat != "{}":
        pairs.append(("config", _config(node["config"])))
    if stage.status in {"skipped", "waiting"} and node.get("reason"):
        pairs.append(("planned", node["reason"]))
    record = getattr(manifests.get(stage.spec), "record", None) or {}
    if stage.status == "cached" and record.get("run"):
        took = f", {duration(float(record['seconds']))}" if record.get("seconds") else ""
        pairs.append(("computed by", f"run {record['run']}{took}"))
    if len(stage.started) > 1:
        pairs.append(("attempts", str(len(stage.started))))
    if len(stage.labels) > 1:
        pairs.append(("also", ", ".join(dict.fromkeys(str(one["label"]) for one in stage.labels[1:13]))))
    return join([tag("p", node.get("doc") or "", class_="doc"), definitions(pairs)])


def _config(config: Mapping[str, Any]) -> Markup:
    return tag(
        "span", *(tag("code", f"{name}={_value(value)}") for name, value in sorted(config.items())), class_="config"
    )


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _error(stage: StageRecord) -> Markup | None:
    error = stage.finished.error if stage.finished is not None else None
    if not error:
        return None
    parts: list[object] = [tag("p", tag("b", f"{error.get('type')}: "), error.get("message"), class_="error")]
    if error.get("hint"):
        parts.append(tag("p", error["hint"]))
    for name in ("log_tail", "traceback"):
        if error.get(name):
            shown = "open" if name == "log_tail" else None
            parts.append(tag("details", tag("summary", name.replace("_", " ")), tag("pre", error[name]), open=shown))
    if stage.started:
        parts.append(tag("p", f"whole log: {stage.started[-1].log}", class_="note"))
    return join(parts)


def _metrics(stage: StageRecord) -> Markup | None:
    if not stage.metrics:
        return None
    chips = (
        tag("div", tag("span", name), tag("b", number(value)), class_="chip") for name, value in stage.metrics.items()
    )
    return tag("div", *chips, class_="chips")


def _tables(stage: StageRecord) -> Markup:
    shown = []
    for name, output in list((stage.finished.outputs if stage.finished is not None else {}).items())[:TABLES_SHOWN]:
        rows = first_rows(output)
        if rows is not None:
            shown.append(join([tag("h4", name), rows]))
    return join(shown)


def _facts(stage: StageRecord) -> Markup | None:
    facts = stage.finished.facts if stage.finished is not None else []
    if not facts:
        return None
    columns = ["quantity", "value", "unit", "basis", "phase", "n", "hardware", "source"]
    rows = [[_fact_cell(row, column) for column in columns] for row in facts]
    return join([tag("h4", "facts"), table(*without_empty(columns, rows))])


def _fact_cell(row: Mapping[str, Any], column: str) -> object:
    value = row.get(column)
    if column == "basis":
        return tag("span", value, class_=f"basis b-{value}")
    if column == "value" and row.get("low") is not None and row.get("high") is not None:
        return join(
            [number(row["value"]), tag("span", f" [{number(row['low'])}, {number(row['high'])}]", class_="soft")]
        )
    return value
