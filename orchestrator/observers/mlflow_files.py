"""What MLflow shows of a stage's results: manifests, small files, tables and figures.

The store keeps the artifacts. MLflow gets a manifest of each with its digest and path, links to files small enough to
look at (a link to a checkpoint would keep its blocks alive after ``orchestrate gc``), and tables in the form that the
MLflow UI renders (``mlflow.loggedArtifacts``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.events import StageFinished
from orchestrator.observers.mlflow_store import ArtifactFolder

#: Files up to this size are linked or uploaded; larger ones are named in the manifest.
SMALL_FILE_BYTES = 1 << 20
#: A table up to this size is rendered whole, a longer one by its first rows.
TABLE_ROWS = 1000
_FILES_PER_OUTPUT = 50


def add_outputs(folder: ArtifactFolder, event: StageFinished) -> list[str]:
    """Add every output, figure and fact of a finished stage; return the names of the files that are tables."""
    tables: list[str] = []
    for name, output in event.outputs.items():
        tables += _add_output(folder, name, output)
    for name, path in event.figures.items():
        if Path(path).is_file():
            folder.add_file(Path(path), f"figures/{Path(name).name}")
    if event.facts:
        folder.add_bytes(table_of_rows(event.facts), "facts.json")
        tables.append("facts.json")
    if event.error:
        parts = [event.error.get(part) for part in ("message", "hint", "traceback", "log_tail")]
        folder.add_bytes("\n\n".join(str(part) for part in parts if part).encode(), "error.txt")
    return tables


def table_of_rows(rows: list[dict[str, Any]]) -> bytes:
    """Render rows as a table of the MLflow UI; a row may lack columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return _split_json(columns, [[row.get(name) for name in columns] for row in rows])


def _add_output(folder: ArtifactFolder, name: str, output: Mapping[str, Any]) -> list[str]:
    root = Path(str(output.get("path") or ""))
    files = sorted(path for path in root.rglob("*") if path.is_file()) if output.get("path") and root.is_dir() else []
    sizes = {path.relative_to(root).as_posix(): path.stat().st_size for path in files}
    manifest = {**output, "files": [{"path": path, "bytes": size} for path, size in sizes.items()]}
    folder.add_bytes(json.dumps(manifest, indent=2, default=str).encode(), f"outputs/{name}/manifest.json")
    small = [path for path in files if path.stat().st_size <= SMALL_FILE_BYTES and path.name != "manifest.json"]
    for path in small[:_FILES_PER_OUTPUT]:
        folder.add_file(path, f"outputs/{name}/{path.relative_to(root).as_posix()}")
    parquet = root / "table.parquet"
    if parquet not in files:
        return []
    rendered = f"outputs/{name}/table.json"
    folder.add_bytes(_table_of_parquet(parquet), rendered)
    return [rendered]


def _table_of_parquet(path: Path) -> bytes:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=TABLE_ROWS):
            return _split_json(
                batch.schema.names, list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
            )
        return _split_json(file.schema_arrow.names, [])


def _split_json(columns: list[str], data: list[Any]) -> bytes:
    """Encode in pandas' "split" layout, the one that the MLflow UI reads."""
    return json.dumps({"columns": columns, "data": data}, default=str).encode()
