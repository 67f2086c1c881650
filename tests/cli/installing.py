"""Make a folder look like an installed distribution, without an installer and without a network."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from orchestrator.plugins import installed


def install(name: str, folder: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a folder on the import path with the metadata of an installed distribution in it."""
    metadata = folder / f"orchestrator_{name}-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: orchestrator-{name}\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(f"[orchestrator]\n{name} = {module}\n")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    installed.cache_clear()
