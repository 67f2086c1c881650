"""MLflow shows a run completely, once, whatever happens to the writer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.events import RunFinished, StageFinished, StageMetrics
from orchestrator.home import Home, RunInfo
from orchestrator.observers.journal import JournalObserver
from orchestrator.observers.mlflow import replay
from orchestrator.observers.mlflow_store import open_client
from orchestrator.observers.mlflow_writer import Writer
from tests.fixtures.journals import digest_of, failed_events, quickstart_events

Observe = Callable[..., RunInfo]


def runs_of(home: Home) -> list[Any]:
    """Every MLflow run of the experiment, oldest first."""
    client = open_client(home.tracking_uri)
    experiment = client.get_experiment_by_name("quickstart")
    return list(
        client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"], max_results=1000)
    )


def split(runs: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Parents, and nested runs by label."""
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    nested = {run.data.tags["orchestrator.label"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    return parents, nested


def folder_of(run: Any) -> Path:
    """The run's local artifacts."""
    return Path(run.info.artifact_uri.removeprefix("file://"))


def test_a_run_has_a_parent_with_params_tags_and_the_final_metrics_of_every_stage(home: Home, observe: Observe) -> None:
    """The parent alone is enough to compare two runs."""
    events = quickstart_events(home.path)
    info = observe(events)
    (parent,), _ = split(runs_of(home))

    assert json.loads((info.path / "mlflow.json").read_text()) == {"0": parent.info.run_id}
    assert parent.info.status == "FINISHED"
    assert parent.info.start_time == int(events[0].at_s * 1000)
    assert parent.info.end_time == int(events[-1].at_s * 1000)
    assert parent.data.params == {"seed": "0", "stages.base.steps": "400", "stages.base.uses": "pretrain.lm"}
    assert parent.data.tags["orchestrator.recipe"] == "quickstart"
    assert parent.data.tags["orchestrator.status"] == "succeeded"
    assert parent.data.tags["mlflow.source.name"] == "orchestrate run recipe=quickstart"
    assert parent.data.tags["orchestrator.stage.scores/variant:gptq4"].startswith("executed ")
    assert parent.data.tags["orchestrator.executed"] == "19 of 19"
    stages = json.loads((folder_of(parent) / "stages.json").read_text())
    assert stages["columns"][:5] == ["stage", "uses", "status", "seconds", "key"]
    assert [row[0] for row in stages["data"]] == [node["labels"][0]["label"] for node in events[0].nodes]
    told = {
        f"{label}/{name}": value
        for event in events
        if isinstance(event, StageFinished)
        for node in events[0].nodes
        if node["spec"] == event.spec
        for label in [node["labels"][0]["label"]]
        for name, value in event.metrics.items()
    }
    assert "accuracy/variant:reasoner/samples:8/accuracy" in told
    assert parent.data.metrics == pytest.approx(told)
    assert (folder_of(parent) / "recipe.yaml").read_text().startswith("description:")
    assert "corrupt" in (folder_of(parent) / "notes.txt").read_text()


def test_every_executed_stage_is_nested_with_its_curve_config_files_and_dataset(home: Home, observe: Observe) -> None:
    """What a stage did opens below its run."""
    events = quickstart_events(home.path)
    observe(events)
    (parent,), nested = split(runs_of(home))
    client = open_client(home.tracking_uri)

    assert len(nested) == len(events[0].nodes)
    assert {run.data.tags["mlflow.parentRunId"] for run in nested.values()} == {parent.info.run_id}
    assert {run.info.status for run in nested.values()} == {"FINISHED"}
    base = nested["base"]
    assert base.data.params == {"preset": "llama-tiny", "steps": "400", "optimizer.lr": "0.003"}
    assert [point.step for point in client.get_metric_history(base.info.run_id, "loss")] == list(range(0, 400, 20))
    assert base.data.tags["orchestrator.key"] == digest_of("keybase")
    (dataset,) = [entry.dataset for entry in client.get_run(base.info.run_id).inputs.dataset_inputs]
    assert (dataset.name, dataset.digest) == ("corpus", digest_of("corpus")[:36])
    ledger = folder_of(nested["ledger"])
    assert (ledger / "figures" / "frontier.svg").read_text().startswith("<svg")
    assert json.loads((ledger / "outputs/result/table.json").read_text()) == {
        "columns": ["variant", "value"],
        "data": [["reasoner", 0.6]],
    }
    assert {"path": "outputs/result/table.json", "type": "table"} in json.loads(
        nested["ledger"].data.tags["mlflow.loggedArtifacts"]
    )
    assert {file.path for file in client.list_artifacts(nested["ledger"].info.run_id)} == {"figures", "outputs"}


def test_small_files_are_links_and_large_ones_are_named(home: Home, observe: Observe) -> None:
    """A checkpoint is not copied, nor kept alive by a link; its config opens."""
    events = quickstart_events(home.path)
    observe(events)
    _, nested = split(runs_of(home))
    (output,) = [
        event.outputs["result"]
        for event in events
        if isinstance(event, StageFinished) and event.spec == digest_of("base")
    ]
    shown = folder_of(nested["base"]) / "outputs" / "result"

    assert (shown / "config.json").stat().st_ino == (Path(output["path"]) / "config.json").stat().st_ino
    assert not (shown / "model.safetensors").exists()
    manifest = json.loads((shown / "manifest.json").read_text())
    assert manifest["digest"] == output["digest"]
    assert {"path": "model.safetensors", "bytes": 2_000_000} in manifest["files"]


def test_a_cached_run_has_its_parent_and_nothing_nested(home: Home, observe: Observe) -> None:
    """What was computed before is shown again, not as if it ran."""
    observe(quickstart_events(home.path, status="cached"))
    (parent,), nested = split(runs_of(home))

    assert nested == {}
    assert parent.data.metrics["base/heldout_loss"] > 2.5
    assert parent.data.tags["orchestrator.stage.base"].startswith("cached ")


def test_a_sweep_has_a_parent_for_each_point_and_shared_stages_below_the_first(home: Home, observe: Observe) -> None:
    """Both points carry the metrics of what they share."""
    info = observe(quickstart_events(home.path, overrides=(("seed=0",), ("seed=1",))))
    parents, nested = split(runs_of(home))

    points = json.loads((info.path / "mlflow.json").read_text())
    assert sorted(points.values()) == sorted(parent.info.run_id for parent in parents)
    assert {run.data.tags["mlflow.parentRunId"] for run in nested.values()} == {points["0"]}
    assert parents[0].data.metrics == parents[1].data.metrics
    assert {parent.info.run_name for parent in parents} == {"quickstart seed=0", "quickstart seed=1"}


def test_a_failed_run_says_so_with_the_error_and_the_log_tail(home: Home, observe: Observe) -> None:
    """The stage that failed is the one that shows it."""
    observe(failed_events(home.path))
    (parent,), nested = split(runs_of(home))

    assert parent.info.status == "FAILED"
    assert set(nested) == {"corpus", "base"}
    assert nested["base"].info.status == "FAILED"
    assert "lr must be positive" in (folder_of(nested["base"]) / "error.txt").read_text()
    assert "step 2" in (folder_of(nested["base"]) / "error.txt").read_text()


@pytest.mark.parametrize("forget", [False, True])
def test_a_writer_that_is_killed_anywhere_is_completed_without_doubles(home: Home, forget: bool) -> None:
    """Cut the journal at every tenth event; the marker may even be older than what was written (``forget``)."""
    events = quickstart_events(home.path)
    path = home.runs / "r1"
    journal = JournalObserver(path)
    for index, event in enumerate(events):
        journal.notify(event)
        if index % 10 == 0:
            before = (path / "tracking.json").read_text() if (path / "tracking.json").exists() else None
            Writer(path, home, home.tracking_uri).sync()
            if forget and before is not None:
                (path / "tracking.json").write_text(before)
    journal.close()

    assert replay(path)
    parents, nested = split(runs_of(home))
    assert len(parents) == 1
    assert len(runs_of(home)) == 1 + len(nested) == 1 + len(events[0].nodes)
    assert {run.info.status for run in runs_of(home)} == {"FINISHED"}
    client = open_client(home.tracking_uri)
    assert [point.step for point in client.get_metric_history(nested["base"].info.run_id, "loss")] == list(
        range(0, 400, 20)
    )


def test_replaying_a_complete_run_changes_nothing(home: Home, observe: Observe) -> None:
    """Replay is idempotent."""
    info = observe(quickstart_events(home.path))
    before = [run.to_dictionary() for run in runs_of(home)]

    assert replay(info.path)
    assert [run.to_dictionary() for run in runs_of(home)] == before


def test_tracking_that_is_away_never_raises_and_is_completed_later(home: Home, observe: Observe, caplog: Any) -> None:
    """The run ends; the journal waits until the database can be reached."""
    blocker = home.path / "elsewhere"
    blocker.write_text("a file where a folder should be")
    info = observe(quickstart_events(home.path), tracking_uri=f"sqlite:///{blocker}/mlflow.db")
    assert not (info.path / "mlflow.json").exists()
    assert any("tracking is incomplete" in message for message in caplog.messages)

    blocker.unlink()
    blocker.mkdir()
    (blocker / "mlflow.db").write_bytes((home.path / "mlflow.db").read_bytes())
    assert replay(info.path)
    client = open_client(f"sqlite:///{blocker}/mlflow.db")
    (run_id,) = json.loads((info.path / "mlflow.json").read_text()).values()
    assert client.get_run(run_id).info.status == "FINISHED"


def test_limits_are_kept_by_batches_and_truncation(home: Home, observe: Observe) -> None:
    """250 parameters, a value of 20,000 characters and 2,500 points all arrive."""
    events = quickstart_events(home.path)
    start, base = events[0], digest_of("base")
    start.points[0]["params"] = {f"vars.name{index}": index for index in range(250)} | {"vars.long": "x" * 20_000}
    many = [
        StageMetrics(spec=base, metrics={"odd name!/../é": float(step)}, step=step, at_s=start.at_s + step)
        for step in range(2500)
    ]
    end = next(index for index, event in enumerate(events) if isinstance(event, StageFinished) and event.spec == base)
    observe([*events[:end], *many, *events[end:]])
    (parent,), nested = split(runs_of(home))

    assert len(parent.data.params) == 251
    assert parent.data.params["vars.long"] == "x" * 6000
    client = open_client(home.tracking_uri)
    assert len(client.get_metric_history(nested["base"].info.run_id, "odd name_/_")) == 2500


def test_what_mlflow_refuses_does_not_hold_up_the_rest(home: Home, caplog: Any) -> None:
    """A parameter that changed its value is reported; the run is completed."""
    events = quickstart_events(home.path, status="cached")
    path = home.runs / "r1"
    journal = JournalObserver(path)
    journal.notify(events[0])
    Writer(path, home, home.tracking_uri).sync()
    events[0].points[0]["params"]["seed"] = 7
    for event in events:
        journal.notify(event)
    journal.close()

    assert replay(path)
    assert any("refused" in message for message in caplog.messages)
    (parent,), _ = split(runs_of(home))
    assert parent.data.params["seed"] == "0"
    assert parent.info.status == "FINISHED"


def test_an_experiment_that_was_deleted_comes_back(home: Home, observe: Observe) -> None:
    """A click in the UI does not end tracking."""
    observe(quickstart_events(home.path, status="cached"))
    client = open_client(home.tracking_uri)
    client.delete_experiment(client.get_experiment_by_name("quickstart").experiment_id)
    observe(quickstart_events(home.path, status="cached", run="r2"), run="r2")

    assert client.get_experiment_by_name("quickstart").lifecycle_stage == "active"
    assert len(runs_of(home)) == 2


def test_an_inherited_run_id_is_ignored(home: Home, observe: Observe, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLFLOW_RUN_ID of a surrounding job neither receives our metrics nor reaches a stage."""
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    observe(quickstart_events(home.path, status="cached"))

    assert "MLFLOW_RUN_ID" not in os.environ
    assert [run.info.run_id == "0" * 32 for run in runs_of(home)] == [False]


def test_a_cancelled_run_closes_the_stage_it_left(home: Home, observe: Observe) -> None:
    """No MLflow run stays RUNNING behind a run that ended."""
    events = quickstart_events(home.path)
    cut = next(index for index, event in enumerate(events) if isinstance(event, StageMetrics)) + 1
    observe([*events[:cut], RunFinished(run="r1", status="cancelled", seconds=1.0, at_s=events[cut].at_s)])
    (parent,), nested = split(runs_of(home))

    assert parent.info.status == nested["base"].info.status == "KILLED"
