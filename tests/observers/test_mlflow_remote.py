"""A tracking server behind http: what is local is uploaded, and a server that was away gets everything later."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.home import RunInfo
from orchestrator.observers.mlflow import replay
from orchestrator.observers.mlflow_store import open_client
from tests.fixtures.journals import quickstart_events

pytestmark = pytest.mark.slow


class Server:
    """An MLflow server on the loopback address that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}",
            "--artifacts-destination", str(self._folder / "uploads"), "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
        ]  # fmt: skip
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=self._folder)
        for _ in range(240):
            assert self._process.poll() is None, (self._folder / "server.log").read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        pytest.fail("the MLflow server does not answer")

    def stop(self) -> None:
        """End the server."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None


@pytest.fixture
def server(tmp_path: Path, empty_database: Path) -> Iterator[Server]:
    """A server that is not started yet."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copyfile(empty_database, folder / "mlflow.db")
    made = Server(folder)
    yield made
    made.stop()


def test_a_server_receives_runs_metrics_and_uploaded_files(
    server: Server, observe: Callable[..., RunInfo], home: Any, tmp_path: Path
) -> None:
    """Small files are uploaded, large ones are named in the manifest."""
    server.start()
    info = observe(quickstart_events(home.path), tracking_uri=server.uri)
    (run_id,) = json.loads((info.path / "mlflow.json").read_text()).values()
    client = open_client(server.uri)
    run = client.get_run(run_id)

    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert run.data.metrics["ledger/product_here"] == pytest.approx(1.7)
    assert Path(client.download_artifacts(run_id, "recipe.yaml", str(tmp_path))).read_text().startswith("description:")
    (base,) = client.search_runs([run.info.experiment_id], "tags.`orchestrator.label` = 'base'")
    names = {file.path for file in client.list_artifacts(base.info.run_id, "outputs/result")}
    assert names == {"outputs/result/config.json", "outputs/result/manifest.json"}
    assert len(client.get_metric_history(base.info.run_id, "loss")) == 20


def test_a_server_that_was_away_gets_the_whole_run_later(
    server: Server, observe: Callable[..., RunInfo], home: Any, caplog: Any
) -> None:
    """The run ends with one warning; replay writes all of it once."""
    info = observe(quickstart_events(home.path), tracking_uri=server.uri)
    assert any("tracking is incomplete" in message for message in caplog.messages)

    server.start()
    assert replay(info.path)
    assert replay(info.path)
    client = open_client(server.uri)
    experiment = client.get_experiment_by_name("quickstart")
    assert len(client.search_runs([experiment.experiment_id])) == 20
