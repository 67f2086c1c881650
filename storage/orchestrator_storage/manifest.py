"""What the store remembers of a result: its outputs file by file, and everything that was reported beside them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator_storage.canonical import canonical_json
from orchestrator_storage.errors import StoreError

MANIFEST_SCHEMA = 1


@dataclass(frozen=True)
class FileEntry:
    """One file: its relative path, size in bytes and SHA-256.

    ``source`` is the absolute path of a file that stays outside the store (a reference); it is no part of any digest.
    """

    path: str
    size: int
    sha256: str
    source: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        plain: dict[str, Any] = {"path": self.path, "size": self.size, "sha256": self.sha256}
        return plain if self.source is None else {**plain, "source": self.source}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> FileEntry:
        """Read what :meth:`to_json` wrote."""
        return cls(path=plain["path"], size=plain["size"], sha256=plain["sha256"], source=plain.get("source"))


@dataclass(frozen=True, kw_only=True)
class Output:
    """One committed output: everything that is needed to open it."""

    type: str
    digest: str
    meta: dict[str, Any] = field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()
    schema_version: int = 1

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(entry.size for entry in self.files)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "type": self.type,
            "schema_version": self.schema_version,
            "digest": self.digest,
            "meta": self.meta,
            "files": [entry.to_json() for entry in self.files],
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Output:
        """Read what :meth:`to_json` wrote."""
        return cls(
            type=plain["type"],
            schema_version=plain["schema_version"],
            digest=plain["digest"],
            meta=dict(plain["meta"]),
            files=tuple(FileEntry.from_json(entry) for entry in plain["files"]),
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The result of a key. Its file is written last: a result exists when, and only when, its manifest does.

    ``facts``, ``metrics``, ``figures`` and ``record`` (run, host, seconds, ...) lie beside the outputs and enter no digest of theirs.
    """

    key: str
    spec: str
    stage: str
    version: str
    payload: dict[str, Any]
    outputs: dict[str, Output]
    facts: list[dict[str, Any]]
    facts_digest: str
    metrics: dict[str, float]
    figures: dict[str, FileEntry]
    record: dict[str, Any]
    schema: int = MANIFEST_SCHEMA

    def files(self) -> list[FileEntry]:
        """Return every file of the outputs and the figures."""
        return [entry for output in self.outputs.values() for entry in output.files] + list(self.figures.values())

    def to_json(self) -> dict[str, Any]:
        """Return plain data, closed by a checksum over the rest; a metric that is not finite becomes text."""
        plain = {
            "schema": self.schema,
            "key": self.key,
            "spec": self.spec,
            "stage": self.stage,
            "version": self.version,
            "payload": self.payload,
            "outputs": {name: output.to_json() for name, output in self.outputs.items()},
            "facts": self.facts,
            "facts_digest": self.facts_digest,
            "metrics": {name: value if math.isfinite(value) else repr(value) for name, value in self.metrics.items()},
            "figures": {name: entry.to_json() for name, entry in self.figures.items()},
            "record": self.record,
        }
        return {**plain, "checksum": _checksum(plain)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Manifest:
        """Read what :meth:`to_json` wrote; raises StoreError when it was changed since or has another schema."""
        body = {name: value for name, value in plain.items() if name != "checksum"}
        if body.get("schema") != MANIFEST_SCHEMA:
            raise StoreError(f"the manifest has schema {body.get('schema')!r}; this version reads {MANIFEST_SCHEMA}")
        if plain.get("checksum") != _checksum(body):
            raise StoreError("the manifest's content does not match its checksum")
        return cls(
            schema=body["schema"],
            key=body["key"],
            spec=body["spec"],
            stage=body["stage"],
            version=body["version"],
            payload=body["payload"],
            facts=body["facts"],
            facts_digest=body["facts_digest"],
            record=body["record"],
            outputs={name: Output.from_json(output) for name, output in body["outputs"].items()},
            metrics={name: float(value) for name, value in body["metrics"].items()},
            figures={name: FileEntry.from_json(entry) for name, entry in body["figures"].items()},
        )


def _checksum(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(dict(plain))).hexdigest()
