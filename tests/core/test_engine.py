"""The engine on the local executor: caching, resume, failures, retries, cancel, and what reruns when something changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.errors import InfeasibleResources
from orchestrator.home import Home
from orchestrator.plugins import installed
from orchestrator.runs import list_runs

TEXT = """
description: A toy.
stages:
  base: {uses: toy.number, value: 2}
  small: {uses: toy.add, inputs: {number: base}, each: {amount: [1, 2]}}
  total: {uses: toy.sum, inputs: {numbers: small}}
  facts: {uses: toy.ledger, inputs: {number: total}}
"""


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about the engine; MLflow has its own."""
    monkeypatch.setenv("ORCHESTRATOR_NO_TRACKING", "1")


@pytest.fixture
def run(home: Path, write_recipe: Any) -> Any:
    """Return a function that runs a recipe text on the local executor and returns label -> stage object."""

    def go(*overrides: str, text: str = TEXT, **options: Any) -> dict[str, Any]:
        result = api.run(write_recipe(text), overrides, executor="local", quiet=True, **options)
        return {"_": result, **{row["label"]: row for point in result.points for row in point["stages"]}}

    return go


def statuses(rows: dict[str, Any]) -> dict[str, str]:
    return {label: row["status"] for label, row in rows.items() if label != "_"}


def executed(rows: dict[str, Any]) -> set[str]:
    return {label for label, status in statuses(rows).items() if status == "executed"}


def test_a_run_computes_and_the_next_one_is_cached(run: Any) -> None:
    """Values, statuses, digests and the JSON object."""
    first = run()
    assert statuses(first) == dict.fromkeys(
        ["base", "small/amount:1.0", "small/amount:2.0", "total", "facts"], "executed"
    )
    number = json.loads((Path(first["total"]["outputs"]["result"]["path"]) / "number.json").read_text())
    assert number == 7.0
    assert first["facts"]["metrics"]["facts"] == 1
    document = first["_"].to_json()
    assert list(document) == ["run", "status", "mlflow_run_id", "report", "seconds", "stages"]
    assert list(document["stages"][0]) == ["name", "axes", "label", "status", "key", "seconds", "outputs", "metrics"]
    second = run()
    assert set(statuses(second).values()) == {"cached"}
    assert {label: row["outputs"] for label, row in second.items() if label != "_"} == {
        label: row["outputs"] for label, row in first.items() if label != "_"
    }
    assert second["total"]["metrics"] == {"count": 2.0}


def test_a_changed_field_reruns_what_depends_on_it(run: Any) -> None:
    """And nothing else."""
    run()
    assert executed(run("stages.small.each.amount=[1,3]")) == {"small/amount:3.0", "total", "facts"}


def test_unchanged_outputs_stop_reruns(run: Any) -> None:
    """Early cut-off: small computes the same bytes from another base."""
    text = "stages:\n  base: {uses: toy.number, value: 2}\n  flat: {uses: toy.operate, inputs: {number: base}, operation: {name: power, exponent: 0}}\n  end: {uses: toy.add, inputs: {number: flat}}\n"
    run(text=text)
    assert executed(run("stages.base.value=5", text=text)) == {"base", "flat"}


def test_execution_settings_rerun_nothing(run: Any) -> None:
    """Resources, retries, time limits, workers and execution-only fields."""
    run()
    assert (
        executed(
            run(
                "stages.base.resources.cpus=0.5",
                "stages.base.retries=2",
                "stages.base.timeout_s=99",
                "stages.base.note=hello",
            )
        )
        == set()
    )
    gang = "stages:\n  g: {uses: toy.gang}\n"
    run(text=gang)
    assert executed(run("stages.g.workers=2", text=gang)) == set()


def test_renaming_reruns_only_consumers_of_the_label(run: Any) -> None:
    """Total gathers labels; so do the facts of its ancestors."""
    run()
    renamed = TEXT.replace("small:", "tiny:").replace("numbers: small", "numbers: tiny")
    assert executed(run(text=renamed)) == {"total", "facts"}


def test_a_new_component_version_reruns_the_stages_that_name_it(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The author's version is in the key, also where a list of names holds it."""
    text = (
        "stages:\n  base: {uses: toy.number}\n  d: {uses: toy.operate, inputs: {number: base}}\n"
        "  p: {uses: toy.operate, inputs: {number: base}, operation: power}\n  m: {uses: toy.operate, inputs: {number: base}, operation: power, more: [double]}\n"
    )
    run(text=text)
    monkeypatch.setenv("TOYS_DOUBLE_VERSION", "2")
    installed.cache_clear()
    try:
        assert executed(run(text=text)) == {"d", "m"}
    finally:
        monkeypatch.delenv("TOYS_DOUBLE_VERSION")
        installed.cache_clear()


def test_outside_content_enters_the_key_its_path_does_not(run: Any, tmp_path: Path) -> None:
    """Moving a file reruns nothing, editing it does."""
    text = "stages:\n  r: {uses: toy.read, path: one.txt}\n"
    (tmp_path / "one.txt").write_text("5")
    run(text=text)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "one.txt").write_text("5")
    assert executed(run("stages.r.path=sub/one.txt", text=text)) == set()
    (tmp_path / "one.txt").write_text("6")
    assert executed(run(text=text)) == {"r"}


def test_the_seed_reaches_seeded_stages_only(run: Any) -> None:
    """A recipe's seed, and a stage's own."""
    text = "stages:\n  base: {uses: toy.number}\n  d: {uses: toy.draw}\n  e: {uses: toy.draw, seed: 5}\n"
    run(text=text)
    assert executed(run("seed=7", text=text)) == {"d"}


def test_a_failure_spares_independent_branches(run: Any) -> None:
    """Descendants are skipped; the failure carries the log's tail."""
    text = "stages:\n  bad: {uses: toy.mishap}\n  after: {uses: toy.add, inputs: {number: bad}}\n  other: {uses: toy.number}\n"
    rows = run(text=text)
    assert statuses(rows) == {"bad": "failed", "after": "skipped", "other": "executed"}
    assert rows["_"].status == "failed"
    failure = rows["_"].failures[0]
    assert (failure["type"], failure["message"]) == ("ValueError", "a mishap")
    assert "last words of the mishap" in failure["log_tail"]
    assert "Traceback" in failure["traceback"]


def test_a_stage_authors_error_has_no_traceback(run: Any) -> None:
    """The message and the hint are the author's."""
    failure = run(text="stages: {bad: {uses: toy.mishap, kind: user}}\n")["_"].failures[0]
    assert (failure["message"], failure["hint"], failure["traceback"]) == (
        "the number is not to be had",
        "ask for another",
        "",
    )


def test_retries_go_on_from_scratch(run: Any) -> None:
    """The second attempt finds what the first one left."""
    assert statuses(run(text="stages: {f: {uses: toy.mishap, kind: flaky, retries: 1}}\n")) == {"f": "executed"}


def test_a_time_limit_ends_a_stage(run: Any) -> None:
    """The message names the limit."""
    rows = run(text="stages: {s: {uses: toy.mishap, kind: sleep, timeout_s: 0.5}}\n")
    assert "timeout_s = 0.5" in rows["_"].failures[0]["message"]


def test_until_and_rerun_from(run: Any) -> None:
    """Stop early; run again from a member on."""
    assert set(statuses(run(until=["small"]))) == {"base", "small/amount:1.0", "small/amount:2.0"}
    run()
    assert executed(run(rerun_from=["small/amount:2.0"])) == {"small/amount:2.0", "total", "facts"}


def test_merged_sweeps_run_shared_stages_once(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three points, one base: five executions in all."""
    monkeypatch.setenv("TOYS_COUNT", str(tmp_path / "count"))
    text = "stages:\n  base: {uses: toy.number}\n  s: {uses: toy.add, inputs: {number: base}}\n"
    result = run("stages.s.amount=1,2,3", text=text, multirun=True)["_"]
    assert (tmp_path / "count").read_text().count("x") == 4
    document = result.to_json()
    assert list(document) == ["status", "seconds", "points"]
    assert [[row["status"] for row in point["stages"]] for point in document["points"]] == [
        ["executed", "executed"],
        ["cached", "executed"],
        ["cached", "executed"],
    ]


def test_impossible_resources_fail_before_anything_runs(run: Any, home: Path) -> None:
    """Exit code 3, and no run folder with work in it."""
    with pytest.raises(InfeasibleResources, match="999 cpus") as caught:
        run("stages.small.resources.cpus=999")
    assert caught.value.exit_code == 3
    assert not list(list_runs(Home.locate(home)))


def test_impossible_resources_do_not_matter_for_what_is_cached(run: Any) -> None:
    """Only stages that would execute are checked."""
    run()
    assert executed(run("stages.small.resources.cpus=999")) == set()


def test_a_gang_runs_in_processes_of_its_own(run: Any) -> None:
    """Ranks in order; rank 0's metrics and facts are kept."""
    rows = run(text="stages: {g: {uses: toy.gang, workers: 2, offset: 3}}\n")
    assert statuses(rows) == {"g": "executed"}
    assert rows["g"]["metrics"] == {"rank": 0.0}


def test_a_flipped_byte_is_found_quarantined_and_recomputed(run: Any) -> None:
    """Just that stage and its like."""
    rows = run()
    path = Path(rows["small/amount:1.0"]["outputs"]["result"]["path"]) / "number.json"
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(bytes(content))
    again = run()
    assert again["_"].status == "succeeded"
    assert executed(again) == {"small/amount:1.0"}
    assert again["total"]["outputs"] == rows["total"]["outputs"]


def test_a_killed_driver_is_followed_by_one_that_goes_on(run: Any, write_recipe: Any, home: Path) -> None:
    """SIGKILL in the middle, twice: the same bytes, no lease, no run marked running."""
    text = "stages: {s: {uses: toy.slow, steps: 30}}\n"
    write_recipe(text)
    command = [sys.executable, "-m", "orchestrator", "run", "recipe=toy", "--executor", "local", "--quiet"]
    for _ in range(2):
        process = subprocess.Popen(
            command, cwd=home.parent, env=os.environ, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        scratch = home / "store" / "scratch"
        before = time.monotonic()
        while not list(scratch.glob("*/work/count")) and time.monotonic() - before < 60:
            time.sleep(0.05)
        time.sleep(0.4)
        process.kill()
        process.communicate()
    rows = run(text=text)
    assert statuses(rows) == {"s": "executed"}
    assert not list((home / "store" / "leases").glob("*.json"))
    assert "running" not in {one.status for one in list_runs(Home.locate(home))}
    start = next(
        fact["value"]
        for fact in json.loads(next((home / "store" / "entries").glob("*/manifest.json")).read_text())["facts"]
    )
    assert start > 0


def test_cancel_ends_a_run_cleanly(run: Any, write_recipe: Any, home: Path) -> None:
    """SIGINT: status cancelled, exit code 4, resumable."""
    write_recipe("stages: {s: {uses: toy.slow, steps: 600}}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "run", "recipe=toy", "--executor", "local", "--quiet"],
        cwd=home.parent,
        env=os.environ,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    before = time.monotonic()
    while not list((home / "store" / "scratch").glob("*/work/count")) and time.monotonic() - before < 60:
        time.sleep(0.05)
    process.send_signal(2)
    process.communicate(timeout=60)
    assert process.returncode == 4
    assert [one.status for one in list_runs(Home.locate(home))] == ["cancelled"]


@pytest.mark.timeout(60)
def test_cancel_ends_what_waits_behind_a_stage_that_does_not_heed(
    run: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The local executor runs one stage at a time; one that was queued when the grace period ended is cancelled too."""
    monkeypatch.setattr("orchestrator.engine.CANCEL_GRACE_S", 0.2)
    ask = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    ask.start()
    stage = "{{uses: toy.mishap, kind: sleep, seconds: {}, heed: false}}"
    rows = run(text=f"stages:\n  first: {stage.format(4)}\n  second: {stage.format(300)}\n")
    assert rows["_"].status == "cancelled"
    assert statuses(rows)["second"] == "skipped"  # as results call what a cancelled run did not compute
    assert not list((home / "store" / "leases").glob("*.json"))


def test_two_runs_at_once_execute_each_stage_once(run: Any, write_recipe: Any, home: Path, tmp_path: Path) -> None:
    """The other one reports cached."""
    write_recipe("stages:\n  s: {uses: toy.slow, steps: 10}\n  t: {uses: toy.add, inputs: {number: s}}\n")
    environment = {**os.environ, "TOYS_COUNT": str(tmp_path / "count")}
    command = [sys.executable, "-m", "orchestrator", "run", "recipe=toy", "--executor", "local", "--json"]
    outputs: list[str] = []

    def go() -> None:
        outputs.append(
            subprocess.run(command, cwd=home.parent, env=environment, capture_output=True, text=True, check=True).stdout
        )

    threads = [threading.Thread(target=go) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    documents = [json.loads(one.strip().splitlines()[-1]) for one in outputs]
    assert [one["status"] for one in documents] == ["succeeded", "succeeded"]
    assert (tmp_path / "count").read_text().count("x") == 2
    for position in range(2):
        assert sorted(one["stages"][position]["status"] for one in documents) == ["cached", "executed"]
