"""Two runs of one recipe on one home at the same moment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.e2e.conftest import Site, by_label


@pytest.mark.ray
@pytest.mark.slow
def test_two_smoke_runs_at_once_compute_each_stage_once(new_site: Callable[[], Site]) -> None:
    """Both succeed; what one executes the other reports as cached, with the same outputs."""
    site = new_site()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "run", "recipe=smoke", "--json", "--quiet"],
            cwd=site.folder,
            env=site.environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    first, second = (
        by_label(json.loads(process.communicate(timeout=280)[0].strip().splitlines()[-1])) for process in processes
    )
    assert [process.returncode for process in processes] == [0, 0]
    assert first.keys() == second.keys()
    for label, row in first.items():
        assert {row["status"], second[label]["status"]} == {"executed", "cached"}, label
        assert row["outputs"] == second[label]["outputs"]
    assert not list((site.home / "store" / "leases").glob("*.json"))
    assert len(list((site.home / "store" / "entries").glob("*/manifest.json"))) == len(first)
