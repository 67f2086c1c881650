"""``orchestrate diff``: two runs, only what differs in their settings and all their metrics side by side."""

from __future__ import annotations

from typing import Any

import click
import yaml

from orchestrator.cli._output import json_option, number, print_json, print_table
from orchestrator.cli._runs import events_of, find_point, points_of
from orchestrator.home import Home
from orchestrator.runs import Run


@click.command(short_help="Compare two runs: settings that differ, metrics side by side.")
@click.argument("first")
@click.argument("second")
@json_option
def command(first: str, second: str, as_json: bool) -> None:
    """Compare the runs FIRST and SECOND: an id, the beginning of one, or `latest`; `RUN:1` is point 1 of a sweep.

    \b
    Examples:
      orchestrate diff smoke-20260101-101500 latest
      orchestrate diff latest:0 latest:2 --json
    """  # noqa: D301 - the backslash is click's mark for text to leave as it is
    home = Home.locate(create=False)
    (left, left_point), (right, right_point) = find_point(home, first), find_point(home, second)
    settings = compare(_settings(left, left_point), _settings(right, right_point))
    metrics = compare(_metrics(left, left_point), _metrics(right, right_point), keep_equal=True)
    if as_json:
        print_json(
            {"runs": [left.id, right.id], "points": [left_point, right_point], "settings": settings, "metrics": metrics}
        )
        return
    headers = [left.id, right.id]
    if settings:
        click.echo("settings that differ")
        print_table(
            ["NAME", *headers],
            [[row["name"], _shown(row["first"]), _shown(row["second"])] for row in settings],
            indent="  ",
        )
    else:
        click.echo("the settings are equal")
    click.echo("\nmetrics" if metrics else "\nno metrics")
    rows = [
        [row["name"], _shown(row["first"]), _shown(row["second"]), _change(row["first"], row["second"])]
        for row in metrics
    ]
    print_table(["NAME", *headers, "CHANGE"], rows, indent="  ")


def compare(first: dict[str, Any], second: dict[str, Any], keep_equal: bool = False) -> list[dict[str, Any]]:
    """List the names whose values differ (or all), in the order in which they appear."""
    names = list(dict.fromkeys([*first, *second]))
    rows = [{"name": name, "first": first.get(name), "second": second.get(name)} for name in names]
    return rows if keep_equal else [row for row in rows if row["first"] != row["second"]]


def _settings(run: Run, point: int) -> dict[str, Any]:
    started = next((event for event in events_of(run) if event["event"] == "RunStarted"), None)
    points = started["points"] if started else []
    if point < len(points):
        params: dict[str, Any] = points[point]["params"]
        return params
    path = run.path / "recipe.yaml"
    return flatten(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.exists() else {}


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """Write a nested mapping as dotted names."""
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    flat: dict[str, Any] = {}
    for name, held in tree.items():
        flat |= flatten(held, f"{path}.{name}" if path else str(name))
    return flat


def _metrics(run: Run, point: int) -> dict[str, Any]:
    points = points_of(run)
    stages = points[point]["stages"] if points else []
    return {
        f"{stage['label']} {name}": value for stage in stages for name, value in (stage.get("metrics") or {}).items()
    }


def _shown(value: Any) -> str:
    return "-" if value is None else number(value) if isinstance(value, float) else str(value)


def _change(first: Any, second: Any) -> str:
    if not all(isinstance(one, (int, float)) for one in (first, second)) or first == second:
        return ""
    return f"{(second - first) / abs(first) * 100:+.1f}%" if first else f"{second - first:+.4g}"
