"""Addresses on the command line: runs, sweep points, stages of a run and artifacts."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.errors import RecipeError, near, unknown
from orchestrator.family import matches, parse_label
from orchestrator.home import Home
from orchestrator.runs import Run, list_runs, open_run


def find_run(home: Home, address: str = "latest") -> Run:
    """Find a run by id, by an unambiguous beginning of it, or ``latest``; raises RecipeError with near matches."""
    if next(list_runs(home), None) is None:
        raise RecipeError(f"there are no runs in {home.path}", "start one with: orchestrate run recipe=quickstart")
    return open_run(address, home.path)


def points_of(run: Run) -> list[dict[str, Any]]:
    """Return the result of each sweep point: one entry without a sweep, none for a run that never ended."""
    result = run.result
    return list(result["points"]) if "points" in result else [result] if result else []


def stages_of(run: Run) -> list[dict[str, Any]]:
    """Return the stages of all points; what several points share under one label is listed once."""
    seen = {
        (stage["label"], stage.get("key")): stage
        for point in reversed(points_of(run))
        for stage in reversed(point["stages"])
    }
    return list(reversed(seen.values()))


def find_point(home: Home, address: str) -> tuple[Run, int]:
    """Find ``RUN`` or ``RUN:POINT``, one point of a sweep (0 where none is given)."""
    name, _, index = address.partition(":")
    run = find_run(home, name)
    count = len(points_of(run))
    if index and (not index.isdigit() or int(index) >= count):
        raise RecipeError(
            f"run {run.id} has no point {index!r}", f"its points are 0 to {count - 1}" if count else "it never ended"
        )
    return run, int(index or 0)


def matching_stages(run: Run, label: str) -> list[dict[str, Any]]:
    """Return the stages of a run that a label names: a member, a subfamily or a whole family; raises with near matches."""
    name, _, picks = parse_label(label)
    stages = stages_of(run)
    found = [stage for stage in stages if stage["name"] == name and matches(stage["axes"], picks)]
    if not found:
        raise unknown(
            "stage", label, {stage["label"] for stage in stages} | {stage["name"] for stage in stages}, f"run {run.id}"
        )
    return found


def events_of(run: Run) -> list[dict[str, Any]]:
    """Read a run's journal; a last line that a crash cut short is left out."""
    path = run.path / "journal.jsonl"
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def find_artifact(home: Home, address: str) -> tuple[str, Any, Any]:
    """Find an artifact by a digest's beginning, or as ``STAGE[.output][/axis:value]`` of the latest run.

    Returns the output's name, its store record (``Output``) and the ``Manifest`` of what made it; raises RecipeError when none or several fit.
    """
    from orchestrator.plugins import installed
    from orchestrator_storage import Store

    store = Store(home.store, installed().types)
    digest = address if is_digest(address) else _digest_of_stage(home, address)
    found = {
        manifest.outputs[name].digest: (name, manifest.outputs[name], manifest) for manifest, name in store.find(digest)
    }
    if not found:
        raise RecipeError(f"no artifact begins with {address!r}", "see: orchestrate list artifacts")
    if len(found) > 1:
        raise RecipeError(
            f"{address!r} begins {len(found)} artifacts", ", ".join(one[:16] for one in sorted(found)[:5])
        )
    return next(iter(found.values()))


def is_digest(text: str) -> bool:
    """Whether a text can only be the beginning of a digest."""
    return 6 <= len(text) <= 64 and all(one in "0123456789abcdef" for one in text)


def _digest_of_stage(home: Home, address: str) -> str:
    run = find_run(home)
    stages = matching_stages(run, address)
    if len(stages) > 1:
        raise RecipeError(
            f"{address!r} names {len(stages)} members", f"pick one: {', '.join(one['label'] for one in stages[:6])}"
        )
    outputs = stages[0].get("outputs") or {}
    if not outputs:
        raise RecipeError(f"{stages[0]['label']} made nothing in run {run.id}: it is {stages[0]['status']}")
    output = parse_label(address)[1] or (
        "result" if "result" in outputs else next(iter(outputs)) if len(outputs) == 1 else ""
    )
    if output not in outputs:
        raise RecipeError(f"{stages[0]['label']} has no output {output!r}", near(output, outputs))
    digest: str = outputs[output]["digest"]
    return digest
