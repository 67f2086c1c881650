"""The built-in plugins keep the contract that third parties' keep, through the same suite."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from orchestrator.contracts import check_plugin
from orchestrator.plugins import load_registry

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["orchestrator"]


def test_the_built_in_plugins_are_those_of_pyproject():
    """They are found by their entry points, like any other plugin."""
    builtin = {record.name: record for record in load_registry(safe=True).plugins if record.builtin}

    assert set(builtin) == {"orchestrator", *ENTRIES}
    assert {name: record.error for name, record in builtin.items() if record.status != "ok"} == {}


@pytest.mark.parametrize("plugin", ["orchestrator", *ENTRIES])
def test_a_built_in_plugin_keeps_the_contract(plugin: str):
    """Everything but the runs, which its own tests and the smoke recipe make."""
    checks = list(check_plugin(plugin, execute=False))

    assert [check for check in checks if check.status == "failed"] == []
    assert len(checks) > 2
