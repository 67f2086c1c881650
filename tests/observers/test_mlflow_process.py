"""The process that writes to MLflow: beside the driver while it lives, gone when it is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.home import Home, RunInfo
from orchestrator.observers.journal import JournalObserver
from orchestrator.observers.mlflow import MLflowObserver, dismiss, warm_up
from orchestrator.observers.mlflow_store import open_client
from tests.fixtures.journals import quickstart_events


def children() -> set[int]:
    """The processes below this one; other tests may have left some that serve the session."""
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("changed", [False, True])
def test_a_warm_process_writes_the_run_and_ends_with_it(
    home: Home, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    """It was started before there was a run to follow; one that does not know the environment of now is replaced.

    Tables are rendered in it too, with libraries that it does without while it imports MLflow.
    """
    info = RunInfo(
        run="r1", path=home.runs / "r1", home=home, tracking_uri=home.tracking_uri, experiment="quickstart", quiet=True
    )
    dismiss()
    before = children()
    warm_up(home.tracking_uri)
    warm = children() - before
    assert len(warm) == 1
    if changed:
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "set since")
    journal, tracking = JournalObserver(info.path), MLflowObserver(info)
    for event in quickstart_events(home.path):
        journal.notify(event)
        tracking.notify(event)
    writers = children() - before
    assert len(writers) == 1
    assert (writers == warm) is not changed
    journal.close()
    tracking.close()
    assert not writers & children()
    assert list(home.mlartifacts.rglob("outputs/*/table.json"))
    (run_id,) = json.loads((info.path / "mlflow.json").read_text()).values()
    assert open_client(home.tracking_uri).get_run(run_id).info.status == "FINISHED"


@pytest.mark.parametrize("stopped_s", [0.0, 0.5])
def test_a_writer_that_dies_is_told_and_never_raises(
    home: Home, caplog: pytest.LogCaptureFixture, stopped_s: float
) -> None:
    """The run goes on; what is missing stays in its journal, whether the last word reached the pipe or not."""
    info = RunInfo(
        run="r1", path=home.runs / "r1", home=home, tracking_uri=home.tracking_uri, experiment="quickstart", quiet=True
    )
    dismiss()
    before = children()
    journal, tracking = JournalObserver(info.path), MLflowObserver(info)
    start, *rest = quickstart_events(home.path, status="cached")
    journal.notify(start)
    tracking.notify(start)
    (writer,) = children() - before
    psutil.Process(writer).kill()
    time.sleep(stopped_s)
    for event in rest:
        journal.notify(event)
        tracking.notify(event)
    journal.close()
    tracking.close()
    assert any("its writer ended with -9" in message for message in caplog.messages)


@pytest.mark.parametrize("begun", [False, True])
def test_the_process_ends_when_its_driver_is_killed(home: Home, begun: bool) -> None:
    """Whether a run had begun or its recipe had an error."""
    program = (
        "import sys, time\nfrom pathlib import Path\nimport psutil\nfrom orchestrator.home import Home, RunInfo\n"
        "from orchestrator.observers.mlflow import MLflowObserver, warm_up\nfrom tests.fixtures.journals import quickstart_events\n"
        "home = Home(Path(sys.argv[1]))\nwarm_up(home.tracking_uri)\n"
        "info = RunInfo(run='r1', path=home.runs / 'r1', home=home, tracking_uri=home.tracking_uri, experiment='e')\n"
        "info.path.mkdir(exist_ok=True)\n"
        + ("MLflowObserver(info).notify(quickstart_events(home.path)[0])\n" if begun else "")
        + "print(psutil.Process().children()[0].pid, flush=True)\ntime.sleep(100)\n"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(home.path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as driver:
        assert driver.stdout is not None
        child = psutil.Process(int(driver.stdout.readline()))
        driver.kill()
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()
