"""Shared fixtures: a home of one's own, recipes written by a test, and the toy plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = [REPOSITORY, REPOSITORY / "storage", REPOSITORY / "plugins", REPOSITORY / "tests" / "fixtures"]

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Subprocesses (the command line, Ray workers, gangs) must find what this process finds.
os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])])


_PACKETS = ("network", "e2e", "examples", "benchmarks")  # folders of tests that simulate packets


def pytest_collection_finish(session: pytest.Session) -> None:
    """Compile the packet simulator beside the tests that do not need it yet; those that do wait for it, or find it."""
    folders = {item.path.relative_to(REPOSITORY / "tests").parts[0] for item in session.items}
    if session.config.option.collectonly or not folders.intersection(_PACKETS) or len(folders) == 1:
        return
    code = "from orchestrator_network.packet import kernel; kernel.load(False); kernel.load(True)"
    command = ["nice", sys.executable, "-c", code]
    session.config.stash[_COMPILER] = subprocess.Popen(command, stderr=subprocess.DEVNULL)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave nothing running behind a session that ended early."""
    compiler = session.config.stash.get(_COMPILER, None)
    if compiler is not None:
        compiler.terminate()
        compiler.wait()


_COMPILER = pytest.StashKey[subprocess.Popen[bytes]]()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh ORCHESTRATOR_HOME, with the working directory beside it."""
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def write_recipe(tmp_path: Path) -> Any:
    """Return a function that writes a recipe under ./recipes and returns its name."""

    def write(text: str, name: str = "toy") -> str:
        path = tmp_path / "recipes" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return name

    return write


@pytest.fixture
def orchestrate(home: Path) -> Any:
    """Return a function that runs the command line in a process of its own."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *arguments],
            cwd=home.parent,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    return call
