"""One static HTML page for each run, written from its journal and manifests: no server, no other file, no script."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from orchestrator.home import Home
from orchestrator.observers.journal import read_journal
from orchestrator.observers.record import RunRecord

REPORT_NAME = "report.html"

__all__ = ["REPORT_NAME", "write_report"]


def write_report(run_path: Path, home: Home) -> Path:
    """Write ``report.html`` into a run's folder and return its path; artifacts that are gone are left out."""
    from orchestrator.report.page import page

    record = RunRecord.of(read_journal(run_path))
    html = page(record, _read_run(run_path), _manifests(record, home))
    report = run_path / REPORT_NAME
    temporary = run_path / f".{REPORT_NAME}.{os.getpid()}"
    temporary.write_text(html, encoding="utf-8")
    temporary.replace(report)
    return report


def _read_run(run_path: Path) -> dict[str, Any]:
    try:
        read = json.loads((run_path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _manifests(record: RunRecord, home: Home) -> dict[str, Any]:
    """Return the manifests of the cached stages, which say who computed them."""
    from orchestrator_storage import Store

    store = Store(home.store)
    found = {}
    for stage in record.stages.values():
        if stage.finished is not None and stage.finished.key and stage.status == "cached":
            manifest = store.peek(stage.finished.key)
            if manifest is not None:
                found[stage.spec] = manifest
    return found
