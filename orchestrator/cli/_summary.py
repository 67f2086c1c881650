"""What ``orchestrate run`` prints when it is done: what happened, the headline, where to look, what to try, how to resume."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.cli._output import duration, number, print_table
from orchestrator.observers.words import reading_order

LOG_TAIL_LINES = 20
#: Columns of a headline that people read first, in this order; stored JSON keeps none.
FIRST = ("variant", "accuracy", "low", "high", "cost_text", "cost", "unit", "basis", "scope", "verdict")
STATUSES = ("executed", "cached", "failed", "cancelled", "skipped")


def print_summary(described: dict[str, Any], recipe: str) -> None:
    """Print the summary of a finished run; ``described`` is the object that --json prints."""
    points = described.get("points") or [described]
    stages = [stage for point in points for stage in point["stages"]]
    counts = {status: sum(1 for stage in stages if stage["status"] == status) for status in STATUSES}
    what = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    click.echo(f"{click.style(recipe, bold=True)} {described['status']} in {duration(described['seconds'])}: {what}")
    for point in points:
        rows = headline(point)
        if rows:
            click.echo()
            if len(points) > 1:
                click.echo(" ".join(point.get("overrides") or []) or f"point {points.index(point)}")
            columns, cells = headline_cells(rows)
            print_table(
                [column.removesuffix("_text").upper().replace("_", " ") for column in columns], cells, indent="  "
            )
    reports = [point["report"] for point in points if point.get("report")]
    if reports:
        click.echo(
            f"\nreport  {_short(reports[0])}" + (f" (and {len(reports) - 1} more)" if len(set(reports)) > 1 else "")
        )
    if described["status"] == "succeeded":
        click.echo("try next")
        for line in suggestions(recipe, stages):
            click.echo(f"  {line}")


def _short(path: str) -> str:
    """Write a path below the current folder relative to it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def headline(point: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that a table of the run offers as its headline: the list ``headline`` of a Table's data.json, last stage first."""
    for stage in reversed(point["stages"]):
        for output in (stage.get("outputs") or {}).values():
            data = Path(output["path"]) / "data.json"
            if output["type"] == "Table" and data.exists():
                read = json.loads(data.read_text(encoding="utf-8"))
                rows = read.get("headline") if isinstance(read, dict) else None
                if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
                    return rows
    return []


def headline_cells(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Lay out headline rows; ``low`` and ``high`` (or ``x_low``, ``x_high``) become an interval beside the value that they bound."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if "variant" in names:  # a ledger's headline
        names = [name for name in FIRST if name in names] + sorted(set(names).difference(FIRST), key=reading_order)
        # The text is the cost, or its bound where there is none; the verdict says what `matched` says.
        replaced = {"cost_text": "cost", "verdict": "matched"}
        names = [name for name in names if name not in {replaced[one] for one in replaced if one in names}]
    bounds: dict[str, tuple[str, str]] = {}
    for position, name in enumerate(names):
        prefix = name.removesuffix("low")
        if name.endswith("low") and f"{prefix}high" in names:
            owner = prefix.rstrip("_") if prefix.rstrip("_") in names else names[position - 1] if position else ""
            if owner:
                bounds[owner] = (name, f"{prefix}high")
    hidden = {bound for pair in bounds.values() for bound in pair}
    columns = [name for name in names if name not in hidden]

    def cell(row: dict[str, Any], name: str) -> str:
        value = row.get(name)
        shown = (
            ""
            if value is None
            else number(float(value))
            if isinstance(value, (int, float)) and not isinstance(value, bool)
            else str(value)
        )
        low, high = (row.get(bound) for bound in bounds.get(name, ("", "")))
        return (
            f"{shown} [{number(float(low))}, {number(float(high))}]" if low is not None and high is not None else shown
        )

    return columns, [[cell(row, name) for name in columns] for row in rows]


def suggestions(recipe: str, stages: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield commands that make sense after this run, with its own names in them."""
    named = f"recipe={recipe}"
    varied = next((stage for stage in stages if stage["axes"]), stages[-1] if stages else None)
    yield f"orchestrate plan {named}"
    if varied is not None:
        yield shlex.join(["orchestrate", "show", "latest", varied["label"]])
        yield f"orchestrate why {varied['name']}"
    yield "orchestrate report --open"
    yield "orchestrate ui"


def print_failures(failures: Sequence[dict[str, Any]], described: dict[str, Any], resume: str) -> None:
    """Print each failed stage's error and the end of its log to stderr; the last line is the command that resumes."""
    for failure in failures:
        click.echo(
            f"\n{click.style('failed:', fg='red', bold=True)} {failure['label']}: {failure.get('type')}: {failure.get('message')}",
            err=True,
        )
        if failure.get("hint"):
            click.echo(f"  {failure['hint']}", err=True)
        tail = (failure.get("log_tail") or "").rstrip().splitlines()[-LOG_TAIL_LINES:]
        if tail:
            click.echo("\n".join(f"  | {line}" for line in tail), err=True)
        click.echo(f"  whole log: {failure['log']}", err=True)
    click.echo(f"{described['status']} after {duration(described['seconds'])}; resume with:\n{resume}", err=True)


def resume_command(words: Sequence[str]) -> str:
    """Return the command line that goes on where this one stopped: the same, without --rerun-from, which would repeat finished work."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--rerun-from":
            next(rest, None)
        elif not word.startswith("--rerun-from="):
            kept.append(word)
    return f"orchestrate {shlex.join(kept)}"
