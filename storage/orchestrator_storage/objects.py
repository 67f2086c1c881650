"""The immutable files of a store, named by their SHA-256, and the proof that each is still what its name says."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from orchestrator_storage.errors import ArtifactError
from orchestrator_storage.files import Files, signature
from orchestrator_storage.hashing import hash_file
from orchestrator_storage.manifest import FileEntry


class Objects:
    """``objects/aa/<sha256>``, and in ``verified/`` the stat of each at its last verification.

    An object whose size, modification time and inode are those of its last verification is taken as sound; any other is hashed.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self.folder = files.root / "objects"
        self._verified: dict[Path, list[int]] = {}

    def path(self, sha256: str) -> Path:
        """Return where an object lies."""
        return self.folder / sha256[:2] / sha256

    def locate(self, entry: FileEntry) -> Path:
        """Return where the content of an entry lies: its object, or the file outside that it refers to."""
        return self.path(entry.sha256) if entry.source is None else Path(entry.source)

    def problem(self, entry: FileEntry, full: bool = False) -> str:
        """Return what is wrong with the content of an entry, "" when it is sound; ``full`` hashes whatever the stat says."""
        path = self.locate(entry)
        now = signature(path)
        name = (
            f"object {entry.sha256[:12]} ({entry.path})"
            if entry.source is None
            else f"the referenced file {entry.source!r}"
        )
        if now is None:
            return f"{name} is missing"
        if now[0] != entry.size:
            return f"{name} has {now[0]} bytes instead of {entry.size}"
        if not full and self._remembered(entry) == now:
            return ""
        try:
            found, _ = hash_file(path)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
        if found != entry.sha256:
            self.forget(entry)
            return f"{name} was changed: its content hashes to {found[:12]}, not to {entry.sha256[:12]}"
        self._remember(entry, now)
        return ""

    def put(self, file: Path, entry: FileEntry, *, move: bool) -> None:
        """Store a file that was hashed to the entry, unless a sound object is there; one that is broken is replaced.

        The caller syncs the folder. Raises OSError, and ArtifactError when the file changed since it was hashed.
        """
        if not self.problem(entry):
            return
        temporary = self.files.bring(file, move=move)
        try:
            if (not move or temporary.stat().st_nlink > 1) and hash_file(temporary)[0] != entry.sha256:
                raise ArtifactError(
                    f"{entry.path!r} changed while it was being stored; nothing may write to an artifact that was returned"
                )
            path = self.path(entry.sha256)
            with self.files.lock(
                "objects"
            ):  # of two processes that store one content, the second must not change the inode
                if not self.problem(entry):
                    return
                self.files.publish(temporary, path)
            now = signature(path)
            if now is not None and now[0] == entry.size:
                self._remember(entry, now)
        finally:
            temporary.unlink(missing_ok=True)

    def record(self, entry: FileEntry) -> Path:
        """Return the file that remembers the stat of an entry's content at its last verification."""
        name = (
            entry.sha256
            if entry.source is None
            else hashlib.sha256(f"{entry.sha256} {entry.source}".encode()).hexdigest()
        )
        return self.files.root / "verified" / name[:2] / name

    def _remembered(self, entry: FileEntry) -> list[int] | None:
        record = self.record(entry)
        if record not in self._verified:
            try:
                self._verified[record] = json.loads(record.read_bytes())
            except (OSError, ValueError):
                return None
        return self._verified[record]

    def _remember(self, entry: FileEntry, now: list[int]) -> None:
        record = self.record(entry)
        self._verified[record] = now
        with contextlib.suppress(OSError):  # not remembering costs a hash next time, nothing more
            self.files.write(record, json.dumps(now).encode(), durable=False)

    def forget(self, entry: FileEntry) -> None:
        """Let the next check hash the content of an entry."""
        record = self.record(entry)
        self._verified.pop(record, None)
        with contextlib.suppress(OSError):
            self.files.remove(record)

    def forget_all(self) -> None:
        """Drop what this process remembers, so that what gc deleted is looked up again."""
        self._verified.clear()
