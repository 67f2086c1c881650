"""Faults at every write of the store, a full disk, and a driver that is killed in the middle of pretraining."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import Site, by_label

TOY = "stages:\n  base: {uses: toy.number, value: 3}\n  two: {uses: toy.halve, inputs: {number: base}}\n  plot: {uses: toy.plot, inputs: {number: two.low}}\n"
MOST_WRITES = 400


def toy_site(new_site: Callable[[], Site]) -> Site:
    site = new_site()
    (site.folder / "recipes").mkdir()
    (site.folder / "recipes" / "toy.yaml").write_text(TOY)
    return site


def toy_run(site: Site, **environment: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import json\nfrom orchestrator import api\n"
        "result = api.run('toy', executor='local', quiet=True)\nprint(json.dumps(result.to_json()))"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=site.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=site.environment(ORCHESTRATOR_PLUGINS="toys", ORCHESTRATOR_NO_TRACKING="1", **environment),
    )


def outputs_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout.strip().splitlines()[-1])
    assert document["status"] == "succeeded"
    return {
        row["label"]: {name: output["digest"] for name, output in row["outputs"].items()} for row in document["stages"]
    }


@pytest.mark.parametrize(
    "stride", [pytest.param(17, id="every-seventeenth"), pytest.param(1, id="every", marks=pytest.mark.slow)]
)
def test_a_kill_at_any_write_loses_nothing(new_site: Callable[[], Site], stride: int) -> None:
    """SIGKILL just before write n, then the same command: the same digests, no lease, no run marked running."""
    expected = outputs_of(toy_run(toy_site(new_site)))
    survived = False
    for number in range(1, MOST_WRITES, stride):
        site = toy_site(new_site)
        killed = toy_run(site, ORCHESTRATOR_STORE_CRASH_AT=str(number))
        if killed.returncode == 0:
            survived = True
            break
        assert killed.returncode == -signal.SIGKILL
        assert outputs_of(toy_run(site)) == expected, f"after a kill at write {number}"
        assert not list((site.home / "store" / "leases").glob("*.json"))
        assert {json.loads(path.read_text())["status"] for path in (site.home / "runs").glob("*/run.json")} <= {
            "killed",
            "succeeded",
        }
    assert survived, f"the run has more than {MOST_WRITES} writes"


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(new_site: Callable[[], Site]) -> None:
    """ENOSPC in the middle of a commit."""
    site = toy_site(new_site)
    done = site.call(
        "run",
        "recipe=toy",
        "--executor",
        "local",
        ORCHESTRATOR_PLUGINS="toys",
        ORCHESTRATOR_STORE_FULL_AT="25",
        ORCHESTRATOR_NO_TRACKING="1",
    )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert outputs_of(toy_run(site)) == outputs_of(toy_run(toy_site(new_site)))


def _start(site: Site) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "orchestrator",
            "run",
            "recipe=smoke",
            "stages.base.steps=400",
            "stages.base.checkpoint_every=20",
            "--until",
            "base",
            "--json",
        ],
        cwd=site.folder,
        env=site.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _steps_of(site: Site, process: subprocess.Popen[bytes]) -> list[int]:
    """Return the training steps that this very driver has reported: a killed one's worker may still write to its own run."""
    for record in (site.home / "runs").glob("*/run.json"):
        if json.loads(record.read_text())["driver"]["pid"] == process.pid:
            lines = [
                json.loads(line)
                for path in (record.parent / "stages").glob("*.jsonl")
                for line in path.read_bytes().splitlines()
                if line.endswith(b"}")
            ]
            return [int(one["done"]) for one in lines if one.get("event") == "progress" and one.get("unit") == "step"]
    return []


def _wait_for_steps(site: Site, process: subprocess.Popen[bytes], already: int) -> tuple[int, int]:
    """Wait until the training has reported more steps than before; return the first and the last one it reported."""
    before = time.monotonic()
    while time.monotonic() - before < 120:
        assert process.poll() is None, "the run ended before it could be killed"
        done = _steps_of(site, process)
        if done and max(done) > already:
            return min(done), max(done)
        time.sleep(0.1)
    raise AssertionError("training never started")


@pytest.mark.ray
@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_driver_killed_in_pretraining_ends_with_the_same_bytes(new_site: Callable[[], Site], kills: int) -> None:
    """Kill -9, restarted at once each time: resumed from the last checkpoint, no orphan, no lease, nothing marked running."""
    undisturbed = new_site()
    expected = undisturbed.run("recipe=smoke", "stages.base.steps=400", "--until", "base", "--executor", "local")
    site = new_site()
    reached = 0
    for attempt in range(kills):
        process = _start(site)
        first, reached = _wait_for_steps(site, process, reached + 20)
        assert attempt == 0 or first >= 20, "it began anew instead of at the last checkpoint"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    document = json.loads(_start(site).communicate(timeout=200)[0].decode().strip().splitlines()[-1])
    assert document["status"] == "succeeded"
    for label in ("corpus", "base"):
        assert (
            by_label(document)[label]["outputs"]["result"]["digest"]
            == by_label(expected)[label]["outputs"]["result"]["digest"]
        )
    assert not list((site.home / "store" / "leases").glob("*.json"))
    statuses = [json.loads(path.read_text())["status"] for path in sorted((site.home / "runs").glob("*/run.json"))]
    assert sorted(statuses) == ["killed"] * kills + ["succeeded"]
    _no_process_of(site.home)
    _nothing_running_in_mlflow(site.home)


def _no_process_of(home: Path) -> None:
    before = time.monotonic()
    while time.monotonic() - before < 20:
        ours = [
            one.pid
            for one in psutil.process_iter(["environ"])
            if (one.info["environ"] or {}).get("ORCHESTRATOR_HOME") == str(home)
        ]
        if not ours:
            return
        time.sleep(0.5)
    raise AssertionError(
        f"processes left: {[psutil.Process(pid).cmdline()[:4] for pid in ours if psutil.pid_exists(pid)]}"
    )


def _nothing_running_in_mlflow(home: Path) -> None:
    import sqlite3

    with sqlite3.connect(home / "mlflow.db") as database:
        statuses = [row[0] for row in database.execute("select status from runs")]
    assert statuses
    assert "RUNNING" not in statuses
