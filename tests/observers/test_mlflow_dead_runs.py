"""Runs whose driver was killed: their MLflow runs are closed by the next start, from the journal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.events import StageMetrics
from orchestrator.home import Home, RunInfo
from orchestrator.observers.mlflow import kill_tracked_runs, replay
from orchestrator.observers.mlflow_store import open_client
from orchestrator.observers.mlflow_writer import Writer
from orchestrator_storage import Holder
from tests.fixtures.journals import quickstart_events, write_run


@pytest.fixture
def dead_driver() -> dict[str, Any]:
    """The holder of a process that has ended."""
    program = "import json; from orchestrator_storage import Holder; print(json.dumps(Holder.here('r1').to_json()))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout))


def half_a_run(home: Home, driver: dict[str, Any], run: str = "r1", tracked: bool = True) -> Path:
    """A run that was killed in the middle of its second stage, tracked up to there."""
    events = quickstart_events(home.path, run=run)
    cut = next(index for index, event in enumerate(events) if isinstance(event, StageMetrics)) + 5
    path = write_run(home.path, events[:cut], run=run, status="running", driver=driver)
    writer = Writer(path, home, home.tracking_uri)
    if tracked:
        writer.sync()
    return path


def statuses(home: Home, run: str = "r1") -> dict[str, str]:
    """Name -> status of the MLflow runs of one run."""
    client = open_client(home.tracking_uri)
    experiment = client.get_experiment_by_name("quickstart")
    found = client.search_runs([experiment.experiment_id], f"tags.`orchestrator.run` = '{run}'")
    return {one.info.run_name: one.info.status for one in found}


def test_the_mlflow_runs_of_a_dead_driver_are_killed(home: Home, dead_driver: dict[str, Any]) -> None:
    """What was finished stays finished, the rest is KILLED, and doing it again changes nothing."""
    path = half_a_run(home, dead_driver)
    assert statuses(home) == {"quickstart": "RUNNING", "corpus": "FINISHED", "base": "RUNNING"}
    kill_tracked_runs(home, [path])
    kill_tracked_runs(home, [path])

    assert statuses(home) == {"quickstart": "KILLED", "corpus": "FINISHED", "base": "KILLED"}


def test_the_next_run_completes_what_a_dead_one_left(
    home: Home, dead_driver: dict[str, Any], observe: Callable[..., RunInfo]
) -> None:
    """Also a run of which MLflow knows nothing yet."""
    half_a_run(home, dead_driver, tracked=False)
    observe(quickstart_events(home.path, status="cached", run="r2"), run="r2")

    assert statuses(home, "r1") == {"quickstart": "KILLED", "corpus": "FINISHED", "base": "KILLED"}
    assert statuses(home, "r2") == {"quickstart": "FINISHED"}


def test_a_driver_that_lives_is_left_alone(home: Home, observe: Callable[..., RunInfo]) -> None:
    """Two runs at the same time do not close each other."""
    path = half_a_run(home, Holder.here("r1").to_json())
    observe(quickstart_events(home.path, status="cached", run="r2"), run="r2")

    assert not replay(path)
    assert statuses(home, "r1") == {"quickstart": "RUNNING", "corpus": "FINISHED", "base": "RUNNING"}


def test_what_belongs_to_another_server_waits_for_replay(
    home: Home, dead_driver: dict[str, Any], observe: Callable[..., RunInfo]
) -> None:
    """A server that is away must not hold up runs that track elsewhere."""
    path = half_a_run(home, dead_driver, tracked=False)
    marker = json.loads((path / "tracking.json").read_text())
    (path / "tracking.json").write_text(json.dumps({**marker, "tracking_uri": "http://127.0.0.1:9"}))
    observe(quickstart_events(home.path, status="cached", run="r2"), run="r2")

    assert statuses(home, "r1") == {}
    assert json.loads((path / "tracking.json").read_text())["complete"] is False


def test_a_run_that_cannot_be_completed_does_not_hold_up_others(
    home: Home, dead_driver: dict[str, Any], caplog: Any
) -> None:
    """Each is tried for itself."""
    bad, good = half_a_run(home, dead_driver, "r0", tracked=False), half_a_run(home, dead_driver, "r1", tracked=False)
    marker = json.loads((bad / "tracking.json").read_text())
    (bad / "tracking.json").write_text(json.dumps({**marker, "tracking_uri": "nonsense://x"}))
    kill_tracked_runs(home, [bad, good])

    assert statuses(home, "r1")["quickstart"] == "KILLED"
    assert any("r0 is still incomplete" in message for message in caplog.messages)
