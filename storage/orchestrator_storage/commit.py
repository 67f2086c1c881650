"""The steps of a commit before its manifest: check, hash, store the files, resolve the facts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator_storage.artifact import Artifact, check_name, list_files
from orchestrator_storage.canonical import artifact_digest, canonical_json
from orchestrator_storage.errors import ArtifactError
from orchestrator_storage.facts import check_fact, facts_digest
from orchestrator_storage.files import Files
from orchestrator_storage.hashing import hash_file
from orchestrator_storage.manifest import FileEntry, Manifest, Output
from orchestrator_storage.objects import Objects

_OUTPUT = re.compile(r"[a-z][a-z0-9_]*")


def store_files(
    files: Files,
    objects: Objects,
    *,
    key: str,
    spec: str,
    stage: str,
    version: str,
    payload: dict[str, Any],
    outputs: Mapping[str, Artifact],
    facts: list[dict[str, Any]],
    metrics: Mapping[str, float],
    figures: Mapping[str, Path],
    record: dict[str, Any],
) -> Manifest:
    """Make every file of a result durable and return the manifest to publish. Everything is checked before anything is stored."""
    canonical_json({"payload": payload, "record": record})
    described = {name: _describe(files, name, artifact) for name, artifact in outputs.items()}
    drawn = {check_name(name): _entry(path, name) for name, path in figures.items()}
    digests = {name: output.digest for name, output in described.items()}
    rows = sorted((check_fact(row, digests) for row in facts), key=canonical_json)
    folders: set[Path] = set()
    for name, output in described.items():
        for entry in output.files:
            if entry.source is None:
                _put(files, objects, outputs[name].path / entry.path, entry, folders)
    for name, entry in drawn.items():
        _put(files, objects, figures[name], entry, folders, figure=True)
    for folder in sorted(folders):
        files.sync_folder(folder)
    return Manifest(
        key=key,
        spec=spec,
        stage=stage,
        version=version,
        payload=payload,
        outputs=described,
        facts=rows,
        facts_digest=facts_digest(rows),
        metrics={name: float(value) for name, value in metrics.items()},
        figures=drawn,
        record=record,
    )


def _describe(files: Files, name: str, artifact: Artifact) -> Output:
    if not _OUTPUT.fullmatch(name):
        raise ArtifactError(f"the output name {name!r} does not match [a-z][a-z0-9_]*")
    kind = type(artifact)
    try:
        canonical_json(artifact.meta)
    except TypeError as error:
        raise ArtifactError(f"output {name!r}: its meta cannot be stored ({error})") from None
    entries = _entries(artifact, name)
    try:
        _check(files, artifact, entries)
    except ArtifactError as error:
        raise ArtifactError(f"output {name!r}: {error}") from None
    return Output(
        type=kind.type_name,
        schema_version=kind.schema_version,
        meta=artifact.meta,
        files=entries,
        digest=artifact_digest(kind.type_name, kind.schema_version, artifact.meta, entries),
    )


def _entries(artifact: Artifact, name: str) -> tuple[FileEntry, ...]:
    own = list_files(artifact.path, artifact.sources) if artifact.path.is_dir() or not artifact.sources else []
    twice = sorted(set(own) & set(artifact.sources))
    if twice:
        raise ArtifactError(
            f"output {name!r}: the file {twice[0]!r} is both in the directory and in `sources`; keep one"
        )
    entries = [_entry(artifact.path / one, one) for one in own]
    for one, source in artifact.sources.items():
        if not source.is_absolute() or not source.is_file():
            raise ArtifactError(
                f"output {name!r}: the source {str(source)!r} of {one!r} is not the absolute path of a file"
            )
        entries.append(dataclasses.replace(_entry(source, check_name(one)), source=str(source)))
    if not entries:
        raise ArtifactError(f"output {name!r}: its directory is empty; write the files before returning the artifact")
    return tuple(sorted(entries, key=lambda entry: entry.path))


def _entry(path: Path, name: str) -> FileEntry:
    try:
        digest, size = hash_file(path)
    except OSError as error:
        raise ArtifactError(f"the file {name!r} cannot be read ({error.strerror or error})") from None
    return FileEntry(path=name, size=size, sha256=digest)


def _check(files: Files, artifact: Artifact, entries: tuple[FileEntry, ...]) -> None:
    if not artifact.sources:
        artifact.check(artifact.path, artifact.meta)
        return
    gathered = files.temporary()  # the type's rules hold for own and referenced files together
    for entry in entries:
        target = gathered / entry.path
        files.make_folder(target.parent, durable=False)
        files.symlink(Path(entry.source) if entry.source else (artifact.path / entry.path).absolute(), target)
    try:
        artifact.check(gathered, artifact.meta)
    finally:
        files.remove(gathered)


def _put(
    files: Files, objects: Objects, path: Path, entry: FileEntry, folders: set[Path], figure: bool = False
) -> None:
    try:
        path.absolute().relative_to(files.root / "scratch")
        move = not figure
    except ValueError:
        move = False  # not ours: a view, or a directory of the caller
    objects.put(path, entry, move=move)
    folders.add(objects.path(entry.sha256).parent)


def differing_outputs(one: Manifest | None, other: Manifest) -> list[str]:
    """Return the names of outputs whose digests differ between two results of one key."""
    if one is None:
        return []
    names = sorted(set(one.outputs) | set(other.outputs))
    return [
        name
        for name in names
        if name not in one.outputs
        or name not in other.outputs
        or one.outputs[name].digest != other.outputs[name].digest
    ]


def with_note(manifest: Manifest, differing: list[str]) -> Manifest:
    """Return the manifest with a note about outputs that came out differently before."""
    if not differing:
        return manifest
    return dataclasses.replace(manifest, record={**manifest.record, "nondeterministic": differing})
