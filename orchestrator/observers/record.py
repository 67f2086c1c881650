"""What a journal says about one run, gathered event by event.

The MLflow observer and the HTML report both read a run through this record, so they cannot disagree about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.events import (
    Event,
    Note,
    RunFinished,
    RunStarted,
    StageFinished,
    StageMetrics,
    StageRetried,
    StageStarted,
)

#: The states in which a stage stops for good.
ENDED = ("executed", "cached", "failed", "skipped", "cancelled")


@dataclass
class StageRecord:
    """One node of a run: what was planned for it and what became of it so far."""

    node: dict[str, Any]
    title: str = ""
    started: list[StageStarted] = field(default_factory=list)
    retried: list[StageRetried] = field(default_factory=list)
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    finals: dict[str, float] = field(default_factory=dict)
    finished: StageFinished | None = None

    @property
    def spec(self) -> str:
        """The identity of the node within the run."""
        return str(self.node["spec"])

    @property
    def labels(self) -> list[dict[str, Any]]:
        """Every name of the node: {"point", "name", "axes", "label"}."""
        return list(self.node["labels"])

    @property
    def label(self) -> str:
        """The first name of the node."""
        return str(self.node["labels"][0]["label"]) if self.node["labels"] else self.spec[:12]

    @property
    def name(self) -> str:
        """The recipe's stage name, shared by the members of a family."""
        return str(self.node["labels"][0]["name"]) if self.node["labels"] else self.spec[:12]

    @property
    def axes(self) -> dict[str, Any]:
        """The coordinates of the first name."""
        return dict(self.node["labels"][0].get("axes") or {}) if self.node["labels"] else {}

    @property
    def status(self) -> str:
        """executed, cached, failed, skipped, cancelled, running or waiting."""
        if self.finished is not None:
            return self.finished.status
        return "running" if self.started else "waiting"

    @property
    def seconds(self) -> float:
        """How long the node took, 0 while it has not ended."""
        return self.finished.seconds if self.finished is not None else 0.0

    @property
    def metrics(self) -> dict[str, float]:
        """Final metrics; those logged without a step stand in for a stage that did not end well."""
        return {**self.finals, **(self.finished.metrics if self.finished is not None else {})}


def titles_of(event: RunStarted) -> dict[str, str]:
    """Name every node by its first label; where points of a sweep share a label, what the point sets stands beside it."""
    specs: dict[str, set[str]] = {}
    for node in event.nodes:
        for label in node["labels"]:
            specs.setdefault(label["label"], set()).add(node["spec"])
    points = {point["index"]: short_overrides(point.get("overrides") or []) for point in event.points}
    titles = {}
    for node in event.nodes:
        first = node["labels"][0] if node["labels"] else {"label": node["spec"][:12], "point": 0}
        doubtful = len(specs.get(first["label"], ())) > 1 and points.get(first["point"])
        titles[node["spec"]] = f"{first['label']} ({points[first['point']]})" if doubtful else str(first["label"])
    return titles


def short_overrides(overrides: Iterable[str]) -> str:
    """Shorten ``stages.gptq4.bits=3`` to ``bits=3``."""
    parts = (token.partition("=") for token in overrides)
    return " ".join(f"{name.rpartition('.')[2]}{mark}{value}" for name, mark, value in parts)


@dataclass
class RunRecord:
    """One run; ``stages`` is in topological order. ``keep_series`` also keeps every metric that has a step."""

    keep_series: bool = True
    started: RunStarted | None = None
    finished: RunFinished | None = None
    stages: dict[str, StageRecord] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    last_s: float = 0.0

    @classmethod
    def of(cls, events: Iterable[Event]) -> RunRecord:
        """Gather a whole journal."""
        record = cls()
        for event in events:
            record.apply(event)
        return record

    def apply(self, event: Event) -> None:
        """Take one event in; an event about a node that was never planned is ignored."""
        self.last_s = max(self.last_s, event.at_s)
        if isinstance(event, RunStarted):
            self.started = event
            titles = titles_of(event)
            self.stages = {node["spec"]: StageRecord(node=node, title=titles[node["spec"]]) for node in event.nodes}
        elif isinstance(event, RunFinished):
            self.finished = event
        elif isinstance(event, Note):
            self.notes.append(event)
        else:
            stage = self.stages.get(getattr(event, "spec", ""))
            if stage is not None:
                self._apply_stage(stage, event)

    def _apply_stage(self, stage: StageRecord, event: Event) -> None:
        if isinstance(event, StageStarted):
            stage.started.append(event)
        elif isinstance(event, StageRetried):
            stage.retried.append(event)
        elif isinstance(event, StageFinished):
            stage.finished = event
        elif isinstance(event, StageMetrics) and event.step is None:
            stage.finals.update(event.metrics)
        elif isinstance(event, StageMetrics) and self.keep_series:
            for name, value in event.metrics.items():
                stage.series.setdefault(name, []).append((event.step or 0, value))

    def of_point(self, point: int) -> list[tuple[dict[str, Any], StageRecord]]:
        """List (label record, stage) of one point in topological order."""
        return [(label, stage) for stage in self.stages.values() for label in stage.labels if label["point"] == point]

    def point_status(self, point: int) -> str:
        """succeeded, failed or cancelled, as far as this point is concerned."""
        statuses = [stage.status for _, stage in self.of_point(point)]
        if statuses and all(status in {"executed", "cached"} for status in statuses):
            return "succeeded"
        if "failed" in statuses:
            return "failed"
        return self.finished.status if self.finished is not None else "killed"
