"""The core's own plugin: foreign artifacts and the observers that every run has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.events import Observer
    from orchestrator.home import Home, RunInfo

orchestrator_api = "1"


@hookimpl
def orchestrator_stages() -> list[Callable[..., Any]]:
    """Offer ``artifact.import``."""
    from orchestrator.importing import import_artifact

    return [import_artifact]


@hookimpl
def orchestrator_before_planning(home: Home) -> None:
    """Start the MLflow writer's process."""
    from orchestrator.observers import warm_up

    warm_up(home)


@hookimpl
def orchestrator_observers(run: RunInfo) -> list[Observer]:
    """Offer the journal, the progress display and the MLflow writer."""
    from orchestrator.observers import builtin_observers

    return builtin_observers(run)
