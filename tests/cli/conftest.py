"""A home of its own for each test, and a plugin that is installed as far as Python can tell."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.cli import invoke
from orchestrator.plugins import installed
from orchestrator.scaffold import write_plugin
from tests.cli.installing import install

Invoke = Callable[..., "Outcome"]


class Outcome:
    """What one command left: exit code, stdout, stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home; the current folder is empty too, so that no recipe of the repository is found by accident."""
    folder = tmp_path / "home"
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(folder))
    monkeypatch.delenv("ORCHESTRATOR_DEBUG", raising=False)
    monkeypatch.chdir(work)
    return folder


@pytest.fixture
def orchestrate(home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Call the command line in this process."""

    def call(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["orchestrate", *words])
        capfd.readouterr()
        code = invoke(list(words))
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def demo_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `new-plugin demo` writes."""
    folder = tmp_path_factory.mktemp("plugins") / "demo"
    write_plugin("demo", folder)
    return folder


@pytest.fixture
def demo(tmp_path: Path, demo_source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The scaffold's plugin, installed for one test."""
    folder = tmp_path / "site"
    shutil.copytree(demo_source, folder)
    install("demo", folder, "orchestrator_demo.plugin", monkeypatch)
    yield folder
    for module in [one for one in sys.modules if one.partition(".")[0] == "orchestrator_demo"]:
        del sys.modules[module]
    installed.cache_clear()
