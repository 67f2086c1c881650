"""What happens in a run, as data.

The engine emits these records; observers (MLflow, progress, journal) consume them; the journal holds them as JSON lines,
from which reports are written and tracking is replayed. A node is one execution with many names: ``labels`` lists every
name that a point of the run gives it.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

JSON = Any


def now_s() -> float:
    """Return the wall clock in seconds since 1970."""
    return time.time()


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of every event; ``at_s`` is the wall clock in seconds since 1970."""

    at_s: float = field(default_factory=now_s)

    def to_json(self) -> dict[str, JSON]:
        """Return the event as plain JSON with its type under ``event``."""
        return {"event": type(self).__name__, **dataclasses.asdict(self)}


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A run was planned and begins.

    ``points``: one per recipe execution: {"index", "overrides": [str], "params": {flat name: value}, "recipe_yaml"}.
    ``nodes``: one per distinct spec, in topological order: {"spec", "uses", "version", "doc", "cites", "config", "parents": [spec],
    "workers", "resources", "labels": [{"point", "name", "axes", "label"}], "action": "run"|"cached", "reason", "key"}.
    """

    run: str
    recipe: str
    description: str
    experiment: str
    executor: str
    argv: list[str]
    home: str
    points: list[dict[str, JSON]]
    nodes: list[dict[str, JSON]]
    tracking_uri: str = ""


@dataclass(frozen=True, kw_only=True)
class StageStarted(Event):
    """An attempt at a stage begins on an executor."""

    spec: str
    key: str
    attempt: int
    log: str


@dataclass(frozen=True, kw_only=True)
class StageWaiting(Event):
    """A stage waits: for another run that computes the same key, or for resources."""

    spec: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class StageProgress(Event):
    """A running stage has done ``done`` of ``total`` units."""

    spec: str
    done: float
    total: float
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class StageMetrics(Event):
    """Metrics of a running stage; ``step`` None marks final values."""

    spec: str
    metrics: dict[str, float]
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class StageRetried(Event):
    """An attempt failed and another follows."""

    spec: str
    attempt: int
    error: dict[str, JSON]


@dataclass(frozen=True, kw_only=True)
class StageFinished(Event):
    """A stage ended.

    ``status``: executed, cached, failed, skipped or cancelled. ``outputs``: {name: {"type", "digest", "path", "meta"}};
    ``figures``: {file name: absolute path}; ``facts``: facts.v1 rows; ``error``: {"type", "message", "hint", "traceback", "log_tail"} or None.
    """

    spec: str
    key: str | None
    status: str
    seconds: float
    outputs: dict[str, JSON] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    facts: list[dict[str, JSON]] = field(default_factory=list)
    error: dict[str, JSON] | None = None


@dataclass(frozen=True, kw_only=True)
class Note(Event):
    """Something the user should know: a corrupt object, a stage that is not deterministic, a tracking server that is away."""

    text: str
    level: str = "warning"


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """The run ended; ``status`` is succeeded, failed or cancelled."""

    run: str
    status: str
    seconds: float


EVENTS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        RunStarted,
        StageStarted,
        StageWaiting,
        StageProgress,
        StageMetrics,
        StageRetried,
        StageFinished,
        Note,
        RunFinished,
    )
}


def from_json(record: dict[str, JSON]) -> Event:
    """Rebuild an event from a journal line; fields that this version does not know are dropped."""
    kind = EVENTS[record["event"]]
    names = {one.name for one in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in record.items() if name in names})


class Observer(Protocol):
    """A listener in the driver; it may be slow to import but ``notify`` must return quickly and never raise into the run."""

    def notify(self, event: Event) -> None: ...

    def close(self) -> None:
        """Flush and let go; called once after RunFinished."""
        ...
