"""Finding runs and what is in them: the folders under ``runs/``, their journals and results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import RecipeError, near, unknown
from orchestrator.home import Home


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """One run on disk; ``info`` is run.json, ``result`` the object that ``run --json`` printed (None while it runs)."""

    run: str
    path: Path
    info: dict[str, Any]
    result: dict[str, Any] | None

    @property
    def points(self) -> list[dict[str, Any]]:
        """The result of each sweep point; one entry for a run without a sweep."""
        if self.result is None:
            return []
        points: list[dict[str, Any]] = self.result.get("points") or [self.result]
        return points

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The stages of all points, each label once."""
        seen: dict[str, dict[str, Any]] = {}
        for point in self.points:
            for stage in point.get("stages", []):
                seen.setdefault(stage["label"] if len(self.points) == 1 else f"{stage['label']} {stage.get('key')}", stage)
        return list(seen.values())

    def events(self) -> list[dict[str, Any]]:
        """Read the journal; a last line that a crash cut short is left out."""
        path = self.path / "journal.jsonl"
        found = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return found


def all_runs(home: Home) -> list[RunFolder]:
    """List the runs of a home, newest first."""
    folders = [path for path in home.runs.iterdir() if (path / "run.json").exists()] if home.runs.is_dir() else []
    runs = [_read(path) for path in folders]
    return sorted(runs, key=lambda run: (run.info.get("started_s") or 0.0, run.run), reverse=True)


def _read(path: Path) -> RunFolder:
    return RunFolder(run=path.name, path=path, info=_json(path / "run.json") or {}, result=_json(path / "result.json"))


def _json(path: Path) -> dict[str, Any] | None:
    try:
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None  # not written yet, or the run died while it wrote
    return read


def find_run(home: Home, address: str = "last") -> RunFolder:
    """Find a run by id, by an unambiguous beginning of it, or ``last``; raises RecipeError with near matches."""
    runs = all_runs(home)
    if not runs:
        raise RecipeError(f"there are no runs in {home.path}", "start one with: orchestrate run recipe=quickstart")
    if address == "last":
        return runs[0]
    exact = [run for run in runs if run.run == address]
    found = exact or [run for run in runs if run.run.startswith(address)]
    if not found:
        raise unknown("run", address, [run.run for run in runs])
    if len(found) > 1:
        raise RecipeError(f"{address!r} begins {len(found)} runs", ", ".join(run.run for run in found[:5]))
    return found[0]


def find_point(home: Home, address: str) -> tuple[RunFolder, int]:
    """Find ``RUN`` or ``RUN:POINT``, one point of a sweep (0 where none is given)."""
    name, _, index = address.partition(":")
    run = find_run(home, name)
    if index and (not index.isdigit() or int(index) >= len(run.points)):
        raise RecipeError(f"run {run.run} has no point {index!r}", f"its points are 0 to {len(run.points) - 1}")
    return run, int(index or 0)


def matching_stages(run: RunFolder, label: str) -> list[dict[str, Any]]:
    """Return the stages of a run that a label names: a member, a subfamily or a whole family; raises with near matches."""
    name, *picks = label.split("/")
    wanted = dict(pick.partition(":")[::2] for pick in picks)
    found = [
        stage for stage in run.stages
        if stage["name"] == name and all(str(stage["axes"].get(axis)) == value for axis, value in wanted.items())
    ]
    if not found:
        labels = [stage["label"] for stage in run.stages]
        raise unknown("stage", label, [*labels, *(stage["name"] for stage in run.stages)], f"run {run.run}")
    return found


def find_artifact(home: Home, address: str) -> tuple[str, Any, dict[str, Any]]:
    """Find an artifact by a digest's beginning, or as ``STAGE[/axis:value][.output]`` of the last run.

    Returns its output name, its store record (``Output``) and the manifest's summary; raises RecipeError when none or several fit.
    """
    from orchestrator_storage import Store

    from orchestrator.plugins import installed

    store = Store(home.store, installed().types)
    digest = address if is_digest(address) else _digest_of_stage(home, address)
    found = {output.digest: (manifest, name) for manifest, name in store.find(digest) for output in [manifest.outputs[name]]}
    if not found:
        raise RecipeError(f"no artifact begins with {address!r}", "see: orchestrate list artifacts")
    if len(found) > 1:
        raise RecipeError(f"{address!r} begins {len(found)} artifacts", ", ".join(one[:16] for one in sorted(found)[:5]))
    manifest, name = next(iter(found.values()))
    return name, manifest.outputs[name], {
        "stage": manifest.stage, "version": manifest.version, "key": manifest.key, "record": manifest.record, "payload": manifest.payload,
        "metrics": manifest.metrics, "facts": manifest.facts,
    }


def is_digest(text: str) -> bool:
    """Whether a text can only be the beginning of a digest."""
    return 6 <= len(text) <= 64 and all(one in "0123456789abcdef" for one in text)


def _digest_of_stage(home: Home, address: str) -> str:
    run = find_run(home)
    head, _, tail = address.partition("/")
    name, _, output = head.partition(".")
    label = f"{name}/{tail}" if tail else name
    stages = matching_stages(run, label)
    if len(stages) > 1:
        raise RecipeError(f"{address!r} names {len(stages)} members", f"pick one: {', '.join(one['label'] for one in stages[:6])}")
    outputs = stages[0].get("outputs") or {}
    if not outputs:
        raise RecipeError(f"{stages[0]['label']} made nothing in run {run.run}: it is {stages[0]['status']}")
    wanted = output or ("result" if "result" in outputs else next(iter(outputs)) if len(outputs) == 1 else "")
    if wanted not in outputs:
        raise RecipeError(f"{name} has no output {wanted!r}", near(wanted, outputs))
    digest: str = outputs[wanted]["digest"]
    return digest
