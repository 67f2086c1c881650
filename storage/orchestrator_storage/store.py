"""The store: results by key, committed once and whole, never trusted without proof.

    objects/aa/<sha256>            immutable files          verified/    stat of each object at its last verification
    entries/<key>/manifest.json    the commit point         views/       what Artifact.path points to
    leases/<key>.json              who computes a key       scratch/     resumable folders of keys
    roots/<name>.json              what gc must keep        quarantine/  what was found broken, with the reason
    tmp/  trash/                   what is being made, what is being deleted

A manifest is written after everything that it names is durable. Whatever is interrupted before leaves files that nothing refers to.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator_storage import collect, commit
from orchestrator_storage.artifact import Artifact
from orchestrator_storage.checkpoint import Model
from orchestrator_storage.collect import GcReport
from orchestrator_storage.errors import StoreError
from orchestrator_storage.files import Files, OnWrite
from orchestrator_storage.lease import Holder, Lease, Leases
from orchestrator_storage.manifest import FileEntry, Manifest, Output
from orchestrator_storage.objects import Objects
from orchestrator_storage.tables import Table, Thoughts, Traffic
from orchestrator_storage.tensors import Tensors, Tokens
from orchestrator_storage.views import open_view

BUILTIN_TYPES: dict[str, type[Artifact]] = {
    type_.type_name: type_ for type_ in (Artifact, Model, Table, Tensors, Tokens, Traffic, Thoughts)
}
_KEY = re.compile(r"[0-9a-f]{16,64}")


class Store:
    """A store on local files below ``root``, which is created by the first write.

    ``types`` adds plugins' artifact types to the built-in ones. ``on_write`` is told every change before it happens; see files.py.
    """

    def __init__(
        self, root: Path, types: Mapping[str, type[Artifact]] | None = None, *, on_write: OnWrite | None = None
    ) -> None:
        self.root = Path(root).absolute()
        self.types = {**BUILTIN_TYPES, **(types or {})}
        self.files = Files(self.root, on_write)
        self.objects = Objects(self.files)
        self.leases = Leases(self.files)
        self.problems: list[str] = []

    def take_problems(self) -> list[str]:
        """Return what was found broken since the last call, one sentence each."""
        found, self.problems = self.problems, []
        return found

    # -- reading

    def manifest_path(self, key: str) -> Path:
        """Return where the manifest of a key lies; raises StoreError for what is no key."""
        return self._entry(key) / "manifest.json"

    def _entry(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise StoreError(f"{key!r} is no key; a key is 16 to 64 lower-case hexadecimal digits")
        return self.root / "entries" / key

    def peek(self, key: str) -> Manifest | None:
        """Return the manifest of a key without verifying anything it names; None when it is missing or unreadable."""
        found = self._read(key)
        return found if isinstance(found, Manifest) else None

    def lookup(self, key: str, *, full: bool = False) -> Manifest | None:
        """Return the manifest of a key if all that it names is there and unchanged.

        Otherwise the entry, and every object that is broken, goes to quarantine, ``problems`` says why, and the answer is None:
        the result is computed again. ``full`` hashes every object, also those whose stat has not changed.
        """
        found = self._read(key)
        if found is None:
            return None
        if isinstance(found, str):
            self._quarantine_entry(key, found)
            return None
        problems = self._problems_of(found, full)
        for entry, problem in problems:
            if entry.source is None:
                self._quarantine_object(entry, problem)
        if any(entry.source is None for entry, _ in problems):
            self._quarantine_entry(key, problems[0][1], found)
        elif problems:  # the file outside may come back, and nothing in the store is broken
            self.problems.append(f"{found.stage}: {problems[0][1]}")
        return None if problems else found

    def _read(self, key: str) -> Manifest | str | None:
        """Return the manifest, what is wrong with it, or None."""
        path = self.manifest_path(key)
        try:
            manifest = Manifest.from_json(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, StoreError, RecursionError) as error:
            return f"the manifest of {key[:12]} cannot be read ({error})"
        return manifest if manifest.key == key else f"the manifest of {key[:12]} belongs to {manifest.key[:12]}"

    def _problems_of(self, manifest: Manifest, full: bool) -> list[tuple[FileEntry, str]]:
        distinct = {(entry.sha256, entry.source): entry for entry in manifest.files()}
        checked = ((entry, self.objects.problem(entry, full)) for entry in distinct.values())
        return [(entry, problem) for entry, problem in checked if problem]

    def verify(self, manifest: Manifest, full: bool = True) -> list[str]:
        """Return what is wrong with the files of a manifest; quarantines nothing, but the next :meth:`lookup` sees it too."""
        return [problem for _, problem in self._problems_of(manifest, full)]

    def manifests(self) -> Iterator[Manifest]:
        """Yield every readable manifest, by key, without verifying what it names."""
        folder = self.root / "entries"
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if _KEY.fullmatch(path.name):
                manifest = self.peek(path.name)
                if manifest is not None:
                    yield manifest

    def find(self, digest_prefix: str) -> list[tuple[Manifest, str]]:
        """Return (manifest, output name) of every output whose digest begins so."""
        return [
            (manifest, name)
            for manifest in self.manifests()
            for name, output in manifest.outputs.items()
            if output.digest.startswith(digest_prefix)
        ]

    def open(self, output: Output) -> Artifact:
        """Return an output as an artifact: its objects verified, ``path`` its view. Raises StoreError when it is broken.

        An output of a type that is not registered opens as a plain Artifact.
        """
        for entry in output.files:
            problem = self.objects.problem(entry)
            if problem:
                raise StoreError(
                    f"{output.type} {output.digest[:12]} cannot be used: {problem}; run again to compute it anew"
                )
        sources = {entry.path: Path(entry.source) for entry in output.files if entry.source is not None}
        with self._told(f"open {output.type} {output.digest[:12]}"):
            view = open_view(self.files, self.objects, output)
        return self.types.get(output.type, Artifact)(view, output.digest, output.meta, sources)

    def object_path(self, entry: FileEntry) -> Path:
        """Return the file that holds the content of an entry, for example of a figure."""
        return self.objects.locate(entry)

    # -- writing

    def commit(
        self,
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
        replace: bool = False,
        lease: Lease | None = None,
    ) -> Manifest:
        """Store a result whole and return its manifest; files of artifacts in the store's scratch are moved, all others copied.

        The first sound result of a key wins: a later one is dropped, and where its digests differ the returned manifest's record says
        so under ``nondeterministic``. With ``replace`` the new manifest takes the old one's place. A ``lease`` that was lost is refused.
        Facts with the subject ``@name`` are about that output. Raises ArtifactError or StoreError; then nothing was committed.
        """
        self._entry(key)
        with self._told(f"take the result of {stage}"), self.files.lock("commit", shared=True):
            manifest = commit.store_files(
                self.files,
                self.objects,
                key=key,
                spec=spec,
                stage=stage,
                version=version,
                payload=payload,
                outputs=outputs,
                facts=facts,
                metrics=metrics,
                figures=figures,
                record=record,
            )
            return self._publish(manifest, replace, lease)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn what the operating system refuses into a sentence for the user."""
        try:
            yield
        except OSError as error:
            hint = (
                "; free space (`orchestrate gc` shows what can go) and run again"
                if error.errno in (errno.ENOSPC, errno.EDQUOT)
                else ""
            )
            raise StoreError(f"the store {str(self.root)!r} cannot {what}: {error.strerror or error}{hint}") from error

    def _publish(self, manifest: Manifest, replace: bool, lease: Lease | None) -> Manifest:
        path = self.manifest_path(manifest.key)
        while True:
            existing = self.lookup(manifest.key)
            differing = commit.differing_outputs(existing, manifest)
            if differing:
                self.problems.append(
                    f"{manifest.stage}: the same key gave another result in {', '.join(differing)}: the stage is not deterministic"
                )
            if existing is not None and not replace:
                return commit.with_note(existing, differing)
            if differing:
                manifest = commit.with_note(manifest, differing)
            content = json.dumps(manifest.to_json(), sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"
            with self.files.lock("entries"):
                if (
                    existing is None
                    and isinstance(self._read(manifest.key), Manifest)
                    and not self._stale(manifest.key)
                ):
                    continue  # somebody committed between our look and our lock
                if lease is not None and not lease.held():
                    raise StoreError(
                        f"the lease of {manifest.key[:12]} passed to another process, whose result counts; this one is dropped"
                    )
                self.files.write(path, content)
                return manifest

    def _stale(self, key: str) -> bool:
        """Whether a manifest that can be read names something broken (a reference whose file is gone stays in place)."""
        manifest = self.peek(key)
        return manifest is None or bool(self._problems_of(manifest, False))

    def _quarantine_object(self, entry: FileEntry, problem: str) -> None:
        path = self.objects.path(entry.sha256)
        self.objects.forget(entry)
        with contextlib.suppress(OSError), self.files.lock("entries"):
            if path.exists() and self.objects.problem(entry):
                place = self._quarantine_place(entry.sha256)
                self.files.move(path, place / entry.sha256)
                self.files.write(place / "reason.txt", problem.encode() + b"\n")

    def _quarantine_entry(self, key: str, problem: str, judged: Manifest | None = None) -> None:
        told = f"{judged.stage if judged else 'store'}: {problem}"
        try:
            with self.files.lock("entries"):
                found = self._read(key)
                if found is None or (isinstance(found, Manifest) and found != judged):
                    self.problems.append(told)
                    return  # somebody else dealt with it first
                place = self._quarantine_place(key)
                self.files.move(self._entry(key), place / "entry")
                self.files.write(place / "reason.txt", problem.encode() + b"\n")
            self.problems.append(f"{told}; moved to quarantine")
        except OSError as error:
            self.problems.append(f"{told}; it could not be moved to quarantine ({error.strerror or error})")

    def _quarantine_place(self, name: str) -> Path:
        folder = self.root / "quarantine"
        number = 1
        while (folder / f"{name}-{number}").exists():
            number += 1
        self.files.make_folder(folder / f"{name}-{number}")
        return folder / f"{name}-{number}"

    # -- scratch, leases, roots

    def scratch(self, key: str) -> Path:
        """Return the resumable folder of a key, created where needed."""
        self._entry(key)
        path = self.root / "scratch" / key
        with self._told(f"make a scratch folder for {key[:12]}"):
            self.files.make_folder(path)
        return path

    def remove_scratch(self, key: str) -> None:
        """Delete the resumable folder of a key."""
        self._entry(key)
        self.files.remove(self.root / "scratch" / key)

    def lease(self, key: str, holder: Holder) -> Lease | None:
        """Return the right to compute a key; None while somebody alive holds it. A dead holder is replaced at once."""
        self._entry(key)
        with self._told(f"give a lease of {key[:12]}"):
            return self.leases.acquire(key, holder)

    def root_add(
        self,
        name: str,
        keys: list[str] | tuple[str, ...] = (),
        digests: list[str] | tuple[str, ...] = (),
        owner: str = "",
    ) -> None:
        """Let gc keep these keys and digests, beside what the root names already."""
        collect.root_add(self.files, name, keys, digests, owner)

    def root_remove(self, name: str) -> None:
        """Remove a root; what no other root names becomes garbage after the grace period."""
        collect.root_remove(self.files, name)

    def roots(self) -> dict[str, dict[str, Any]]:
        """Return name -> {"owner", "keys", "digests"} of all roots."""
        return collect.read_roots(self.files)

    def pin(self, digest: str) -> None:
        """Keep one artifact whatever happens to the runs that made it."""
        self.root_add(f"pin-{digest}", digests=[digest], owner="pin")

    def unpin(self, digest: str) -> None:
        """Undo :meth:`pin`."""
        self.root_remove(f"pin-{digest}")

    def gc(self, dry_run: bool = True, grace_s: float = collect.GRACE_S) -> GcReport:
        """Find, and with ``dry_run=False`` delete, what no root reaches and nothing touched for ``grace_s`` seconds."""
        return collect.gc(self, dry_run=dry_run, grace_s=grace_s, now_s=time.time())
