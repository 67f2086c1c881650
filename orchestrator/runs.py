"""The record of runs: written by the driver, read by notebooks, reports and the commands that list and compare."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orchestrator_storage as storage
from orchestrator.errors import RecipeError, unknown
from orchestrator.family import matches, parse_label
from orchestrator.home import Home


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


@dataclass(frozen=True)
class Run:
    """One run on disk."""

    path: Path
    record: dict[str, Any]

    @property
    def id(self) -> str:
        """The run's name."""
        return str(self.record["run"])

    @property
    def status(self) -> str:
        """Running, succeeded, failed, cancelled or killed."""
        return str(self.record["status"])

    @property
    def result(self) -> dict[str, Any]:
        """The object that ``run --json`` printed; empty for a run that never ended."""
        path = self.path / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @staticmethod
    def tracking(folder: Path) -> dict[str, str]:
        """Return point index -> MLflow run id, as far as tracking has come."""
        path = folder / "mlflow.json"
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {point: value for point, value in held.items() if isinstance(value, str)}

    def stages(self, point: int = 0) -> list[dict[str, Any]]:
        """Return the stage objects of a point."""
        result = self.result
        return list((result["points"][point] if "points" in result else result).get("stages", []))

    def __getitem__(self, label: str) -> Selection:
        """Return a stage's whole family, a subfamily or one member by its label."""
        stage, output, picks = parse_label(label)
        rows = [row for row in self.stages() if row["name"] == stage and matches(row["axes"], picks)]
        if not rows:
            raise unknown(
                "stage",
                label,
                {row["label"] for row in self.stages()} | {row["name"] for row in self.stages()},
                f"run {self.id}",
            )
        return Selection(rows, output)


@dataclass(frozen=True)
class Selection:
    """The members of a family that a label picked."""

    rows: list[dict[str, Any]]
    output: str | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of a single member."""
        return dict(self._single()["metrics"])

    def artifact(self, output: str | None = None) -> storage.Artifact:
        """Return an output of a single member as its typed artifact."""
        row = self._single()
        held = self._output(row, output)
        from orchestrator.plugins import installed

        return installed().types[held["type"]](Path(held["path"]), held["digest"])

    def table(self, output: str | None = None) -> Any:
        """Return the Table output of all members as one pyarrow.Table with one column per axis in front."""
        import pyarrow as pa

        axes = list(dict.fromkeys(axis for row in self.rows for axis in row["axes"]))
        tables = []
        for row in self.rows:
            table = storage.Table(Path(self._output(row, output)["path"])).read()
            for position, axis in enumerate(axes):
                if axis in table.column_names:  # the stage tabulated its own setting: the coordinate says the same
                    table = table.drop_columns([axis])
                table = table.add_column(position, axis, pa.array([row["axes"].get(axis)] * table.num_rows))
            tables.append(table)
        return pa.concat_tables(tables, promote_options="permissive")

    def _single(self) -> dict[str, Any]:
        if len(self.rows) != 1:
            raise RecipeError(
                f"{len(self.rows)} members are selected, this needs one",
                "pick: " + ", ".join(row["label"] for row in self.rows[:5]),
            )
        return self.rows[0]

    def _output(self, row: dict[str, Any], output: str | None) -> dict[str, Any]:
        name = (
            output or self.output or ("result" if "result" in row["outputs"] else next(iter(row["outputs"]), "result"))
        )
        if name not in row["outputs"]:
            raise unknown("output", name, row["outputs"], row["label"])
        return dict(row["outputs"][name])


def list_runs(home: Home) -> Iterator[Run]:
    """Yield every run, newest first."""
    if not home.runs.is_dir():
        return
    found = []
    for folder in home.runs.iterdir():
        try:
            found.append(Run(folder, json.loads((folder / "run.json").read_text(encoding="utf-8"))))
        except (OSError, ValueError):
            continue  # a folder that was being made when its driver died holds no run
    yield from sorted(found, key=lambda run: run.record["started_s"], reverse=True)


def open_run(identity: str = "latest", home: Path | str | None = None) -> Run:
    """Open a run by its id, a unique prefix of it, or ``latest``."""
    place = Home.locate(home, create=False)
    runs = list(list_runs(place))
    if identity == "latest" and runs:
        return runs[0]
    found = [run for run in runs if run.id == identity] or [run for run in runs if run.id.startswith(identity)]
    if len(found) != 1:
        raise unknown("run", identity, [run.id for run in runs], str(place.path))
    return found[0]


def close_dead_runs(home: Home) -> list[Run]:
    """Mark the runs whose driver is gone as killed and return them; the MLflow observer closes theirs there."""
    closed = []
    for run in list_runs(home):
        holder = run.record.get("driver")
        if run.status == "running" and holder and storage.Holder.from_json(holder).alive() is False:
            write_json(run.path / "run.json", run.record | {"status": "killed"})
            closed.append(run)
    return closed
