"""One smoke run on Ray that the tests of this folder share, and ways to run the command line on its home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Site:
    """A home with its working directory."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "ORCHESTRATOR_HOME": str(self.home), "ORCHESTRATOR_PLUGINS": "", **more}

    def call(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=self.folder,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )

    def run(self, *words: str, **more: str) -> dict[str, Any]:
        """Run a recipe and return the object that stands on the last line of stdout."""
        done = self.call("run", *words, "--json", **more)
        assert done.returncode == 0, done.stderr[-4000:]
        document: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return document


def by_label(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return label -> stage object."""
    return {row["label"]: row for row in document["stages"]}


def executed(document: dict[str, Any]) -> set[str]:
    """Return the labels of the stages that ran."""
    return {row["label"] for row in document["stages"] if row["status"] == "executed"}


@pytest.fixture(scope="session")
def new_site(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Site]:
    """Return a function that makes a fresh home."""

    def make() -> Site:
        folder = tmp_path_factory.mktemp("site")
        return Site(folder)

    return make


@pytest.fixture(scope="session")
def site(new_site: Callable[[], Site]) -> Site:
    """The home of the shared smoke run."""
    return new_site()


@pytest.fixture(scope="session")
def smoke(site: Site) -> dict[str, Any]:
    """The first smoke run: everything is computed."""
    return site.run("recipe=smoke")
