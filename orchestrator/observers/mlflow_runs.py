"""The MLflow runs of one experiment: created once, written in batches that MLflow takes.

Its limits: 1000 metrics and 100 params or tags in a batch, 1 MB in a request, 6000 characters in a parameter, 250 in a
name. One call with 1000 metrics takes as long as seven calls with one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.home import Home
from orchestrator.observers.mlflow_store import ArtifactFolder, experiment_id, open_client, safe_name

if TYPE_CHECKING:
    from mlflow.entities import Metric

_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100
_PARAM_CHARACTERS = 6000
_TAG_CHARACTERS = 5000
_DIGEST_CHARACTERS = 36
_RUN_NAME_CHARACTERS = 250
#: Answers of a tracking server that will not change when asked again.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_ALREADY_EXISTS")

_logger = logging.getLogger(__name__)


class TrackedRuns:
    """Writes to MLflow runs by id; metrics wait for ``flush``. Raises what MLflow raises, refusals excepted."""

    def __init__(self, tracking_uri: str, experiment: str, home: Home) -> None:
        self.client = open_client(tracking_uri)
        self._experiment = experiment_id(self.client, experiment, tracking_uri, home)
        self._folders: dict[str, ArtifactFolder] = {}
        self._metrics: dict[str, list[Metric]] = {}

    def create(self, name: str, at_s: float, tags: Mapping[str, str]) -> str:
        """Create a run and return its id."""
        short = {key: value[:_TAG_CHARACTERS] for key, value in tags.items() if value}
        run = self.client.create_run(self._experiment, _ms(at_s), short, name[:_RUN_NAME_CHARACTERS])
        run_id = str(run.info.run_id)
        self._folders[run_id] = ArtifactFolder(self.client, run_id, run.info.artifact_uri)
        return run_id

    def find(self, tags: Mapping[str, str]) -> str | None:
        """Find a run by its tags."""
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self.client.search_runs([self._experiment], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def folder(self, run_id: str) -> ArtifactFolder:
        """Return where the run's artifacts go."""
        if run_id not in self._folders:
            uri = self.client.get_run(run_id).info.artifact_uri
            self._folders[run_id] = ArtifactFolder(self.client, run_id, uri)
        return self._folders[run_id]

    def params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log flat parameters; long values are cut."""
        from mlflow.entities import Param

        entries = [Param(safe_name(name), _text(value)[:_PARAM_CHARACTERS]) for name, value in params.items()]
        for chunk in _chunks(entries, _PARAMS_PER_BATCH):
            unless_refused(self.client.log_batch, run_id, params=chunk)

    def tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags; long values are cut."""
        from mlflow.entities import RunTag

        entries = [RunTag(safe_name(name), value[:_TAG_CHARACTERS]) for name, value in tags.items()]
        for chunk in _chunks(entries, _PARAMS_PER_BATCH):
            unless_refused(self.client.log_batch, run_id, tags=chunk)

    def metrics(self, run_id: str, metrics: Mapping[str, float], at_s: float, step: int) -> None:
        """Hold metrics for the next ``flush``."""
        from mlflow.entities import Metric

        entries = self._metrics.setdefault(run_id, [])
        entries += [Metric(safe_name(name), float(value), _ms(at_s), step) for name, value in metrics.items()]

    def flush(self) -> None:
        """Write the metrics that are held."""
        for run_id, entries in self._metrics.items():
            for chunk in _chunks(entries, _METRICS_PER_BATCH):
                unless_refused(self.client.log_batch, run_id, metrics=chunk)
        self._metrics.clear()

    def dataset(self, run_id: str, name: str, digest: str, path: str, context: str) -> None:
        """Log an input dataset; MLflow keeps 36 characters of a digest, a tag of the input keeps all of it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": path})
        dataset = Dataset(name=name, digest=digest[:_DIGEST_CHARACTERS], source_type="local", source=source)
        tags = [InputTag("mlflow.data.context", context), InputTag("orchestrator.digest", digest)]
        unless_refused(self.client.log_inputs, run_id, [DatasetInput(dataset, tags)])

    def terminate(self, run_id: str, status: str, at_s: float) -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status, _ms(at_s))


def unless_refused(write: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """Call ``write``; what MLflow will never accept is reported and left out, so that it does not hold up the rest."""
    from mlflow.exceptions import MlflowException

    try:
        write(*arguments, **named)
    except MlflowException as error:
        if error.error_code not in _REFUSALS:
            raise
        _logger.warning("MLflow refused a part of this run: %s", error)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _ms(at_s: float) -> int:
    return int(at_s * 1000)


def _chunks(entries: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (entries[start : start + size] for start in range(0, len(entries), size))
