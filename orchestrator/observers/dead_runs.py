"""Close the runs that a killed driver left open."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from orchestrator.events import now_s
from orchestrator.home import Home
from orchestrator.observers.journal import JOURNAL_NAME


def driver_is_dead(run_path: Path) -> bool:
    """Tell whether the process that drove a run is gone for certain; one on another host counts as alive."""
    from orchestrator_storage import Holder

    record = _read(run_path)
    if record is None or not record.get("driver"):
        return False
    return Holder.from_json(record["driver"]).alive() is False


def close_dead_runs(home: Home) -> list[str]:
    """Mark runs as killed whose driver is dead, and return their ids; their MLflow runs are closed by the next writer.

    Imports nothing heavy: a start with no dead runs reads one small file for each run.
    """
    closed = []
    for path in sorted(home.runs.glob("*/run.json")):
        record = _read(path.parent)
        if record is None or record.get("status") != "running" or not driver_is_dead(path.parent):
            continue
        journal = path.parent / JOURNAL_NAME
        finished_s = journal.stat().st_mtime if journal.exists() else now_s()
        temporary = path.with_name(f".run.json.{os.getpid()}")
        temporary.write_text(json.dumps({**record, "status": "killed", "finished_s": finished_s}, indent=1))
        temporary.replace(path)
        closed.append(path.parent.name)
    return closed


def _read(run_path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((run_path / "run.json").read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
