"""Open MLflow safely: one migration at a time, one experiment by name, files linked where they can be.

Only the following process, ``replay`` and the tests come here, because importing MLflow takes more than a second. The
public ``MlflowClient`` with explicit run ids is all that is used; the fluent API keeps a stack of active runs per
process and obeys ``MLFLOW_RUN_ID``, which a worker may have inherited.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from filelock import FileLock

from orchestrator.home import Home

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

#: Set where the user has not: no usage statistics, a server that is away is noticed within seconds, quiet logs.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}

_NAME_LIMIT = 250
_BAD_NAME = re.compile(r"[^\w.\- :/]", re.ASCII)


def prepare_environment() -> None:
    """Set the defaults of ``ENVIRONMENT`` and drop ``MLFLOW_RUN_ID``, which would override explicit run ids."""
    os.environ.pop("MLFLOW_RUN_ID", None)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def _only_one_opens(tracking_uri: str) -> Iterator[None]:
    """Hold the lock beside an SQLite file: processes that migrate one fresh file together fail (duplicate column)."""
    path = urlparse(tracking_uri).path
    if not tracking_uri.startswith("sqlite:") or not path:
        yield
        return
    database = Path(unquote(path[1:]))
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        yield


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause the collector: what 2,000 modules make on import stays, and a third of the import would be spent on looking."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def load(tracking_uri: str) -> None:
    """Import what a client of this server needs."""
    prepare_environment()
    with _without_garbage_collection():
        import mlflow.tracking

        if tracking_uri.startswith("sqlite:"):
            # Imported before the lock is taken: others need not wait for an import.
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def open_client(tracking_uri: str) -> MlflowClient:
    """Return a client whose database exists and has the schema of this MLflow.

    Raises whatever MLflow raises where the server is away or the database is of a newer version.
    """
    load(tracking_uri)
    from mlflow.tracking import MlflowClient

    with _only_one_opens(tracking_uri):
        client = MlflowClient(tracking_uri)
        client.get_experiment_by_name("Default")
    return client


def experiment_id(client: MlflowClient, name: str, tracking_uri: str, home: Home) -> str:
    """Find or create the experiment; one that was deleted in the UI comes back."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        # A server chooses where its artifacts are; a database alone would put them below the working directory.
        served = tracking_uri.startswith(("http://", "https://", "databricks"))
        location = None if served else (home.mlartifacts / safe_name(name).replace("/", "_")).as_uri()
        try:
            # The kind makes the UI open with the runs instead of with traces of a chat model.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(name, artifact_location=location, tags=tags))
        except MlflowException:
            # Another process created it between the two calls.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def safe_name(name: str) -> str:
    """Return ``name`` as MLflow accepts it for a metric, parameter or tag: its letters, no path tricks, at most 250."""
    parts = [part for part in _BAD_NAME.sub("_", name).split("/") if part not in {"", ".", ".."}]
    joined = "/".join(parts) or "_"
    if len(joined) <= _NAME_LIMIT:
        return joined
    import hashlib

    return f"{joined[: _NAME_LIMIT - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted names; lists stay values."""
    if isinstance(value, dict) and value:
        flat: dict[str, Any] = {}
        for name, inner in value.items():
            flat.update(flatten(inner, f"{prefix}.{name}" if prefix else str(name)))
        return flat
    return {prefix: value} if prefix else {}


def local_folder(artifact_uri: str) -> Path | None:
    """Return the folder behind a run's artifact URI, or None where a server holds it."""
    parsed = urlparse(artifact_uri)
    return Path(unquote(parsed.path)) if parsed.scheme in {"", "file"} else None


class ArtifactFolder:
    """The artifacts of one MLflow run: hard links and small files where they are local, uploads where not."""

    def __init__(self, client: MlflowClient, run_id: str, artifact_uri: str) -> None:
        self._client = client
        self._run_id = run_id
        self._folder = local_folder(artifact_uri)

    def add_file(self, source: Path, name: str) -> None:
        """Show the file ``source`` as ``name`` (a relative path); a second time replaces the first."""
        if self._folder is None:
            parent, _, base = name.rpartition("/")
            if base == source.name:
                self._client.log_artifact(self._run_id, str(source), parent or None)
            else:
                self.add_bytes(source.read_bytes(), name)
            return
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        temporary.replace(target)

    def add_bytes(self, content: bytes, name: str) -> None:
        """Show ``content`` as the file ``name``."""
        import tempfile

        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / Path(name).name
            source.write_bytes(content)
            self.add_file(source, name)
