"""Where the state of a project lives: the store, the runs and the tracking database."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import HomeError


@dataclass(frozen=True)
class Home:
    """The folder ``ORCHESTRATOR_HOME`` (default ``./.orchestrator``) and the places in it."""

    path: Path

    @classmethod
    def locate(cls, path: Path | str | None = None, *, create: bool = True) -> Home:
        """Find the home and prove that it can be written; raises HomeError before any work starts."""
        home = cls(Path(path or os.environ.get("ORCHESTRATOR_HOME") or ".orchestrator").absolute())
        if create:
            home._prove_writable()
        return home

    @property
    def store(self) -> Path:
        """The content-addressed store."""
        return self.path / "store"

    @property
    def runs(self) -> Path:
        """One folder per run."""
        return self.path / "runs"

    @property
    def cache(self) -> Path:
        """Caches that may be deleted at any time."""
        return self.path / "cache"

    @property
    def mlartifacts(self) -> Path:
        """Files that MLflow shows."""
        return self.path / "mlartifacts"

    @property
    def tracking_uri(self) -> str:
        """``MLFLOW_TRACKING_URI``, or the database in this home."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.path / 'mlflow.db'}"

    def _prove_writable(self) -> None:
        try:
            for folder in (self.path, self.store, self.runs, self.cache):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".write-{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise HomeError(
                f"the home {str(self.path)!r} cannot be written: {error.strerror or error}",
                "set ORCHESTRATOR_HOME to a folder that you may write",
            ) from error


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What an observer needs to know of its run; ``path`` is ``runs/<run>``."""

    run: str
    path: Path
    home: Home
    tracking_uri: str
    experiment: str
    json: bool = False
    quiet: bool = False
