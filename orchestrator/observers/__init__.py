"""Listeners to what happens in a run: the journal, the terminal and MLflow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.events import Observer
    from orchestrator.home import Home, RunInfo


def builtin_observers(run: RunInfo) -> list[Observer]:
    """Make the observers that every run has: the journal first, because the others may read it.

    ``ORCHESTRATOR_NO_TRACKING=1`` leaves MLflow out.
    """
    from orchestrator.observers.journal import JournalObserver
    from orchestrator.observers.progress import progress_observer

    observers: list[Observer] = [JournalObserver(run.path)]
    if not run.quiet:
        observers.append(progress_observer())
    if not os.environ.get("ORCHESTRATOR_NO_TRACKING"):
        from orchestrator.observers.mlflow import MLflowObserver

        observers.append(MLflowObserver(run))
    return observers


def warm_up(home: Home) -> None:
    """Start what is slow to start: the process that imports MLflow."""
    if not os.environ.get("ORCHESTRATOR_NO_TRACKING"):
        from orchestrator.observers.mlflow import warm_up as start

        start(home.tracking_uri)
