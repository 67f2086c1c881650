"""What every test of the store needs: a store, and a way to commit small results to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator_storage import Artifact, Manifest, Store

Commit = Callable[..., Manifest]


def key_of(name: str) -> str:
    """Return a key for a test."""
    return hashlib.sha256(name.encode()).hexdigest()


@pytest.fixture
def key() -> Callable[[str], str]:
    """Return a function from any name to a key."""
    return key_of


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def commit() -> Commit:
    """Return a function that commits a plain artifact with the given files under a key made from a name."""

    def commit(store: Store, name: str, files: dict[str, bytes], **options: Any) -> Manifest:
        path = store.scratch(key_of(name)) / "outputs" / "result"
        for file, content in files.items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_bytes(content)
        given = {
            "key": key_of(name),
            "spec": key_of(name),
            "stage": f"test.{name}",
            "version": "1",
            "payload": {"name": name},
            "outputs": {"result": Artifact(path)},
            "facts": [],
            "metrics": {},
            "figures": {},
            "record": {},
        }
        manifest = store.commit(**(given | options))
        store.remove_scratch(key_of(name))
        return manifest

    return commit
