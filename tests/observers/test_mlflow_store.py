"""Opening MLflow: the migration race, and names and values that it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.observers.mlflow_store import flatten, local_folder, prepare_environment, safe_name

OPEN_TOGETHER = """
import os, sys
from orchestrator.observers.mlflow_store import open_client, experiment_id
from orchestrator.home import Home
import mlflow.store.tracking.sqlalchemy_store
read, write = os.pipe()
children = []
for index in range(6):
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)  # returns at once for all when the parent closes its end
        status = 1
        try:
            client = open_client(sys.argv[1])
            experiment = experiment_id(client, "shared", sys.argv[1], Home(__import__("pathlib").Path(sys.argv[2])))
            for number in range(3):
                client.log_metric(client.create_run(experiment).info.run_id, "index", index)
            status = 0
        finally:
            os._exit(status)
    children.append(child)
os.close(write)
statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(statuses)
sys.exit(any(statuses))
"""


def test_six_processes_open_one_fresh_database(tmp_path: Path) -> None:
    """One migrates, five wait, all write; unguarded, five fail with "duplicate column name"."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", OPEN_TOGETHER, uri, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("shared")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.metrics["index"] for run in runs) == sorted([0, 1, 2, 3, 4, 5] * 3)
    assert experiment.artifact_location == (tmp_path / "mlartifacts" / "shared").as_uri()


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("scores/variant:gptq4/token_perplexity", "scores/variant:gptq4/token_perplexity"),
        ("a//b/../c/.", "a/b/c"),
        ("/loss (%)", "loss ___"),
        ("", "_"),
    ],
)
def test_names_become_what_mlflow_accepts(name: str, accepted: str) -> None:
    """A label stays as it is; what MLflow would refuse is replaced."""
    from mlflow.utils.validation import _validate_metric_name

    assert safe_name(name) == accepted
    _validate_metric_name(safe_name(name))


def test_long_names_stay_distinct() -> None:
    """Two names that differ after 250 characters do not fall together."""
    one, two = safe_name("x" * 300 + "a"), safe_name("x" * 300 + "b")

    assert one != two
    assert len(one) == len(two) == 250


def test_flatten_keeps_lists_and_names_the_path() -> None:
    """Nested mappings become dotted names; an empty mapping is a value."""
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [1, 2], "e": {}}


def test_only_local_artifacts_have_a_folder() -> None:
    """Spaces survive the URI; a server's artifacts are uploaded."""
    assert local_folder("file:///a%20b/c") == Path("/a b/c")
    assert local_folder("/a/b") == Path("/a/b")
    assert local_folder("mlflow-artifacts:/0/abc/artifacts") is None
    assert local_folder("s3://bucket/x") is None


def test_defaults_yield_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user set stays set."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    prepare_environment()

    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
    assert "MLFLOW_RUN_ID" not in os.environ
