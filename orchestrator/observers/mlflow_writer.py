"""Carry the journal of one run into MLflow, from where it was left to where the journal ends.

``runs/<id>/tracking.json`` marks how far the writing came. Everything that is written twice is written to the same
effect (runs are looked up by their tags; params, tags and metric points are equal; files are replaced), so a writer
that is killed anywhere is followed by one that completes its work.

    recipe execution (one per sweep point)  -> parent run: params, tags, recipe.yaml, <label>/<metric>
    stage that executes                     -> nested run below the first point that needs it: metrics by step, outputs
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.events import Event, RunFinished, RunStarted, StageFinished, StageMetrics, StageRetried, StageStarted
from orchestrator.home import Home
from orchestrator.observers.journal import JOURNAL_NAME, read_from
from orchestrator.observers.mlflow_files import add_outputs, table_of_rows
from orchestrator.observers.mlflow_runs import TrackedRuns
from orchestrator.observers.mlflow_store import flatten
from orchestrator.observers.record import RunRecord, StageRecord
from orchestrator.observers.words import command

MARKER_NAME = "tracking.json"
POINTS_NAME = "mlflow.json"

_STATUS = {"succeeded": "FINISHED", "executed": "FINISHED", "cached": "FINISHED", "failed": "FAILED"}
#: A point of more stages than this lists them in stages.json alone.
_STAGE_TAGS = 50
_IDENTITY_TAGS = ("orchestrator.run", "orchestrator.point", "orchestrator.spec")


@dataclass
class Marker:
    """How far a run is written: bytes of its journal, and the MLflow run of each point and of each executed stage."""

    tracking_uri: str
    offset: int = 0
    complete: bool = False
    points: dict[str, str] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, run_path: Path) -> Marker | None:
        """Return what an earlier writer left, or None where there was none."""
        try:
            return cls(**json.loads((run_path / MARKER_NAME).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, run_path: Path) -> None:
        """Write the marker, and ``mlflow.json`` as soon as a point has its run."""
        _replace(run_path / MARKER_NAME, asdict(self))
        if self.points:
            _replace(run_path / POINTS_NAME, self.points)


def open_markers(home: Home) -> Iterator[tuple[Path, Marker]]:
    """Iterate over the runs that a writer began and did not complete."""
    for path in sorted(home.runs.glob(f"*/{MARKER_NAME}")):
        marker = Marker.read(path.parent)
        if marker is not None and not marker.complete:
            yield path.parent, marker


class Writer:
    """Writes one run's journal to MLflow; ``sync`` may be called as often as there is something new.

    After an exception the writer is dropped and a new one made: it reads the journal again up to the marker.
    """

    def __init__(self, run_path: Path, home: Home, tracking_uri: str) -> None:
        self._path = run_path
        self._home = home
        earlier = Marker.read(run_path)
        # Only a run that was begun by an earlier writer can have MLflow runs that the marker does not name yet.
        self._look_up = earlier is not None
        self._marker = earlier or Marker(tracking_uri=tracking_uri)
        self._marker.save(run_path)
        self._record = RunRecord(keep_series=False)
        self._last_step: dict[str, int] = {}
        self._opened: TrackedRuns | None = None
        self._catch_up()

    @property
    def offset(self) -> int:
        """How many bytes of the journal are written."""
        return self._marker.offset

    @property
    def complete(self) -> bool:
        """Whether the end of the run is written."""
        return self._marker.complete

    def sync(self) -> None:
        """Write what the journal holds beyond the marker; raises whatever the tracking server raises."""
        while not self.complete:
            events, after = read_from(self._path / JOURNAL_NAME, self.offset)
            if after == self.offset:
                return
            for event in events:
                self._record.apply(event)
                if self._record.started is not None:
                    self._write(event)
            if self._opened is not None:
                self._opened.flush()
            self._marker.offset = after
            self._marker.save(self._path)

    def finish(self, status: str, at_s: float | None = None) -> None:
        """Close every MLflow run of this run; called at RunFinished, or for a driver that died before it."""
        if self.complete:
            return
        end_s = self._record.last_s if at_s is None else at_s
        for spec, run_id in self._marker.stages.items():
            if (stage := self._record.stages.get(spec)) is not None and stage.finished is None:
                self._runs.terminate(run_id, "KILLED", end_s)
        for point, run_id in self._marker.points.items():
            self._finish_point(int(point), run_id, status, end_s)
        self._marker.complete = True
        self._marker.save(self._path)

    def add_report(self, report: Path) -> None:
        """Show the HTML report among the artifacts of every point."""
        if report.is_file():
            for run_id in self._marker.points.values():
                self._runs.folder(run_id).add_file(report, report.name)

    def _catch_up(self) -> None:
        offset = 0
        while offset < self.offset:
            events, after = read_from(self._path / JOURNAL_NAME, offset, limit=1)
            if after == offset:
                return
            for event in events:
                self._record.apply(event)
                if isinstance(event, StageMetrics):
                    self._step_of(event)
            offset = after

    @property
    def _runs(self) -> TrackedRuns:
        if self._opened is None:
            assert self._record.started is not None
            self._opened = TrackedRuns(self._marker.tracking_uri, self._record.started.experiment, self._home)
        return self._opened

    def _write(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._start_run(event)
            case StageStarted():
                self._stage_run(event.spec, event.key, event.at_s)
            case StageMetrics():
                if (run_id := self._stage_run(event.spec, "", event.at_s)) is not None:
                    self._runs.metrics(run_id, event.metrics, event.at_s, self._step_of(event))
            case StageRetried():
                if (run_id := self._stage_run(event.spec, "", event.at_s)) is not None:
                    self._runs.tags(run_id, {"orchestrator.attempts": str(event.attempt + 1)})
            case StageFinished():
                self._finish_stage(event)
            case RunFinished():
                self.finish(event.status, event.at_s)

    def _start_run(self, event: RunStarted) -> None:
        for point in event.points:
            index, overrides = str(point["index"]), " ".join(point.get("overrides") or [])
            tags = {
                "orchestrator.run": event.run,
                "orchestrator.point": index,
                "orchestrator.recipe": event.recipe,
                "orchestrator.overrides": overrides,
                "orchestrator.executor": event.executor,
                "orchestrator.status": "running",
                "mlflow.note.content": event.description,
                "mlflow.source.name": command(event.argv, event.recipe, point.get("overrides") or []),
                "mlflow.source.type": "LOCAL",
                "mlflow.user": _user(),
            }
            if index not in self._marker.points:
                self._marker.points[index] = self._create(f"{event.recipe} {overrides}".strip(), event.at_s, tags)
                self._marker.save(self._path)
            run_id = self._marker.points[index]
            self._runs.params(run_id, flatten(point.get("params") or {}))
            self._runs.folder(run_id).add_bytes(str(point.get("recipe_yaml") or "").encode(), "recipe.yaml")

    def _stage_run(self, spec: str, key: str, at_s: float) -> str | None:
        """Return the nested run of a stage, made at its first attempt; None for a node that was never planned."""
        if spec in self._marker.stages:
            return self._marker.stages[spec]
        stage = self._record.stages.get(spec)
        if stage is None or not stage.labels:
            return None
        assert self._record.started is not None
        first = min(stage.labels, key=lambda label: int(label["point"]))
        tags = {
            "mlflow.parentRunId": self._marker.points[str(first["point"])],
            "orchestrator.run": self._record.started.run,
            "orchestrator.spec": spec,
            "orchestrator.stage": str(first["name"]),
            "orchestrator.label": str(first["label"]),
            "orchestrator.uses": str(stage.node["uses"]),
            "orchestrator.version": str(stage.node["version"]),
            "orchestrator.key": key or str(stage.node.get("key") or ""),
        }
        self._marker.stages[spec] = run_id = self._create(str(first["label"]), at_s, tags)
        self._marker.save(self._path)
        self._runs.params(run_id, flatten(stage.node.get("config") or {}))
        self._add_datasets(run_id, stage)
        return run_id

    def _create(self, name: str, at_s: float, tags: dict[str, str]) -> str:
        """Create a run, or find the one that a writer made before it was killed."""
        identity = {name: tags[name] for name in _IDENTITY_TAGS if name in tags}
        found = self._runs.find(identity) if self._look_up else None
        return found or self._runs.create(name, at_s, tags)

    def _add_datasets(self, run_id: str, stage: StageRecord) -> None:
        for spec in stage.node.get("parents") or []:
            parent = self._record.stages.get(spec)
            if parent is None or parent.finished is None:
                continue
            for output in parent.finished.outputs.values():
                if output.get("type") == "Tokens":
                    path = str(output.get("path"))
                    self._runs.dataset(run_id, parent.label, str(output["digest"]), path, context=stage.name)

    def _step_of(self, event: StageMetrics) -> int:
        step = event.step if event.step is not None else self._last_step.get(event.spec, 0)
        self._last_step[event.spec] = step
        return step

    def _finish_stage(self, event: StageFinished) -> None:
        stage = self._record.stages.get(event.spec)
        if stage is None:
            return
        if event.status in {"executed", "cached"}:
            for label in stage.labels:
                named = {f"{label['label']}/{name}": value for name, value in event.metrics.items()}
                self._runs.metrics(self._marker.points[str(label["point"])], named, event.at_s, 0)
        if event.status not in {"executed", "failed"} and event.spec not in self._marker.stages:
            return
        run_id = self._stage_run(event.spec, event.key or "", event.at_s)
        if run_id is None:
            return
        self._runs.metrics(run_id, event.metrics, event.at_s, self._last_step.get(event.spec, 0))
        tables = add_outputs(self._runs.folder(run_id), event)
        tags = {"orchestrator.status": event.status, "orchestrator.key": event.key or ""}
        if tables:
            tags["mlflow.loggedArtifacts"] = json.dumps([{"path": path, "type": "table"} for path in tables])
        if event.error:
            tags["orchestrator.error"] = str(event.error.get("message"))
        self._runs.tags(run_id, tags)
        self._runs.flush()
        self._runs.terminate(run_id, _STATUS.get(event.status, "KILLED"), event.at_s)

    def _finish_point(self, point: int, run_id: str, status: str, at_s: float) -> None:
        own = status if status == "killed" else self._record.point_status(point)
        stages = self._record.of_point(point)
        executed = sum(stage.status == "executed" for _, stage in stages)
        tags = {"orchestrator.status": own, "orchestrator.executed": f"{executed} of {len(stages)}"}
        tags["mlflow.loggedArtifacts"] = json.dumps([{"path": "stages.json", "type": "table"}])
        if len(stages) <= _STAGE_TAGS:
            tags |= {
                f"orchestrator.stage.{label['label']}": f"{stage.status} {_key(stage)[:12]}" for label, stage in stages
            }
        self._runs.tags(run_id, tags)
        folder = self._runs.folder(run_id)
        folder.add_bytes(table_of_rows([_stage_row(label, stage) for label, stage in stages]), "stages.json")
        if self._record.notes:
            notes = "\n".join(f"{note.level}: {note.text}" for note in self._record.notes)
            folder.add_bytes(notes.encode(), "notes.txt")
        self._runs.flush()
        self._runs.terminate(run_id, _STATUS.get(own, "KILLED"), at_s)


def _stage_row(label: dict[str, Any], stage: StageRecord) -> dict[str, Any]:
    own = {
        "stage": label["label"],
        "uses": stage.node["uses"],
        "status": stage.status,
        "seconds": round(stage.seconds, 3),
    }
    return {**own, "key": _key(stage), **stage.metrics}


def _key(stage: StageRecord) -> str:
    return (stage.finished.key if stage.finished is not None else None) or ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""  # a container's user may have no name


def _replace(path: Path, content: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)
