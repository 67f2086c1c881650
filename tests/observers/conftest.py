"""A home whose MLflow database is ready: creating one takes seconds, copying one does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.events import Event
from orchestrator.home import Home, RunInfo


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs."""
    from orchestrator.observers.mlflow_store import open_client

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    open_client(f"sqlite:///{path}")
    return path


@pytest.fixture
def home(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home of its own for each test."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = Home(tmp_path / "home")
    place.runs.mkdir(parents=True)
    shutil.copyfile(empty_database, place.path / "mlflow.db")
    return place


@pytest.fixture
def observe(home: Home) -> Callable[..., RunInfo]:
    """Play events to a journal that a follower writes to MLflow, in a thread: a process of its own would import anew."""
    import threading

    from orchestrator.observers.journal import JournalObserver
    from orchestrator.observers.mlflow_follow import Follower

    def play(events: list[Event], run: str = "r1", tracking_uri: str = "") -> RunInfo:
        info = RunInfo(
            run=run,
            path=home.runs / run,
            home=home,
            tracking_uri=tracking_uri or home.tracking_uri,
            experiment="quickstart",
            quiet=True,
        )
        journal, closing = JournalObserver(info.path), threading.Event()
        journal.notify(events[0])
        follower = Follower(info.path, home, info.tracking_uri, closing)
        thread = threading.Thread(target=follower.follow)
        thread.start()
        for event in events[1:]:
            journal.notify(event)
        journal.close()
        closing.set()
        thread.join()
        return info

    return play
