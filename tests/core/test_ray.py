"""The Ray executor: gangs, workers that die, errors that survive the way back, and stages that ignore their cancel flag."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api, errors
from orchestrator.executors.base import NodeShape, prove_feasible
from orchestrator.home import Home
from orchestrator.runs import list_runs
from orchestrator.stage import Resources

pytestmark = pytest.mark.ray


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about the executor."""
    monkeypatch.setenv("ORCHESTRATOR_NO_TRACKING", "1")


def test_one_run_with_a_gang_a_crash_and_a_user_error(home: Path, write_recipe: Any) -> None:
    """Two workers in a placement group, a worker process that exits, an error with a hint, fractions of a CPU."""
    write_recipe(
        "stages:\n"
        "  g: {uses: toy.gang_counted, workers: 2, resources: {cpus: 0.5}}\n"
        "  gone: {uses: toy.mishap, kind: exit}\n"
        "  told: {uses: toy.mishap, kind: user}\n"
        "  late: {uses: toy.mishap, kind: sleep, timeout_s: 1}\n"
        "  fine: {uses: toy.number, resources: {cpus: 0.5}}\n"
    )
    result = api.run("toy", quiet=True, local_cpus=2)
    rows = {row["label"]: row for row in result.points[0]["stages"]}
    failures = {one["label"]: one for one in result.failures}
    assert {label: row["status"] for label, row in rows.items()} == {
        "g": "executed",
        "gone": "failed",
        "told": "failed",
        "late": "failed",
        "fine": "executed",
    }
    assert json.loads((Path(rows["g"]["outputs"]["result"]["path"]) / "number.json").read_text()) == 2.0
    assert "died" in failures["gone"]["message"]
    assert "last words of the mishap" in failures["gone"]["log_tail"]
    assert (failures["told"]["message"], failures["told"]["hint"]) == ("the number is not to be had", "ask for another")
    assert "timeout_s = 1" in failures["late"]["message"]
    assert not list((home / "store" / "leases").glob("*.json"))


@pytest.mark.slow
def test_a_stage_that_ignores_cancel_is_killed_after_the_grace_period(home: Path, write_recipe: Any) -> None:
    """SIGTERM to the driver: exit code 4, the worker gone, nothing marked running."""
    write_recipe("stages: {s: {uses: toy.mishap, kind: sleep, seconds: 300, heed: false}}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "run", "recipe=toy", "--quiet"],
        cwd=home.parent,
        env=os.environ,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    before = time.monotonic()
    while (
        not any("last words" in path.read_text() for path in (home / "runs").glob("*/logs/*.log"))
        and time.monotonic() - before < 90
    ):
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=90)
    assert process.returncode == 4
    assert [one.status for one in list_runs(Home.locate(home))] == ["cancelled"]


@pytest.mark.parametrize(
    "kind",
    [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.OrchestratorError)
    ],
)
def test_errors_survive_pickling(kind: type[errors.OrchestratorError]) -> None:
    """An exception that does not is an UnserializableException after Ray."""
    error = pickle.loads(pickle.dumps(kind("what", "fix")))
    assert (type(error), error.message, error.hint, str(error)) == (kind, "what", "fix", "what\n  fix")


class _Node:
    def __init__(self, workers: int, resources: Resources) -> None:
        self.workers = workers
        self.label = "stage"
        self.decl = type("Decl", (), {"resources": resources, "name": "stage"})


@pytest.mark.parametrize(
    ("workers", "resources", "fits"),
    [
        (1, Resources(cpus=4), True),
        (1, Resources(cpus=5), False),
        (8, Resources(cpus=1), True),
        (9, Resources(cpus=1), False),
        (2, Resources(cpus=3), True),
        (3, Resources(cpus=3), False),
        (1, Resources(cpus=1, gpus=1), False),
        (16, Resources(cpus=0.5), True),
        (1, Resources(cpus=1, memory_gib=9), False),
        (1, Resources(cpus=0, custom={"tpu": 1}), False),
        (1, Resources(cpus=0), True),
    ],
)
def test_every_bundle_must_fit_one_node_and_all_at_once(workers: int, resources: Resources, fits: bool) -> None:
    """Two nodes of 4 CPUs and 8 GiB are not one of 8 CPUs."""
    shapes = [NodeShape("a", 4, 0, 8), NodeShape("b", 4, 0, 8)]
    if fits:
        prove_feasible([_Node(workers, resources)], shapes)  # type: ignore[list-item]
    else:
        with pytest.raises(errors.InfeasibleResources, match="can never be placed"):
            prove_feasible([_Node(workers, resources)], shapes)  # type: ignore[list-item]
