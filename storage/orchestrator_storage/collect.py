"""Roots and garbage collection: one rule of what is reachable, used by everybody who lists or deletes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator_storage.canonical import canonical_json
from orchestrator_storage.errors import StoreError
from orchestrator_storage.files import Files
from orchestrator_storage.manifest import Manifest

if TYPE_CHECKING:
    from orchestrator_storage.store import Store

#: Longer than any commit or expired lease: what is young may be about to be named by a root.
GRACE_S = 24 * 3600.0
_ROOT = re.compile(r"[A-Za-z0-9_.-]{1,200}")


@dataclass(frozen=True, kw_only=True)
class GcReport:
    """What gc found, and whether it deleted it. ``blocked_by`` names keys with a live lease: then nothing was deleted."""

    dry_run: bool
    deleted: bool = False
    entries: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    bytes_by_entry: dict[str, int] = field(default_factory=dict)
    reclaimable_bytes: int = 0
    blocked_by: tuple[str, ...] = ()


def _root_path(files: Files, name: str) -> Path:
    if not _ROOT.fullmatch(name) or name.startswith("."):
        raise StoreError(f"the root name {name!r} does not match [A-Za-z0-9_.-]+ or starts with a dot")
    return files.root / "roots" / f"{name}.json"


def read_roots(files: Files) -> dict[str, dict[str, Any]]:
    """Return all roots by name; raises StoreError for one that cannot be read, as deleting must never rest on a guess."""
    roots = {}
    folder = files.root / "roots"
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            content = json.loads(path.read_bytes())
            roots[path.stem] = {
                "owner": str(content["owner"]),
                "keys": list(content["keys"]),
                "digests": list(content["digests"]),
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"the root {path.stem!r} cannot be read ({error}); remove it with root_remove or add it again"
            ) from None
    return roots


def root_add(files: Files, name: str, keys: Iterable[str], digests: Iterable[str], owner: str) -> None:
    """Write a root, joined with what it names already."""
    path = _root_path(files, name)
    with files.lock("roots"):
        known: dict[str, Any] = {"owner": "", "keys": [], "digests": []}
        if path.exists():
            known = read_roots(files)[name]
        content = {
            "owner": owner or known["owner"],
            "keys": sorted({*known["keys"], *keys}),
            "digests": sorted({*known["digests"], *digests}),
        }
        if content != known or not path.exists():
            files.write(path, canonical_json(content))


def root_remove(files: Files, name: str) -> None:
    """Remove a root."""
    path = _root_path(files, name)
    with files.lock("roots"):
        files.remove(path)


def reachable(files: Files, manifests: Iterable[Manifest]) -> list[Manifest]:
    """Return the manifests that a root keeps: by key, or because an output has a digest that a root names."""
    roots = read_roots(files).values()
    keys = {key for root in roots for key in root["keys"]}
    digests = {digest for root in roots for digest in root["digests"]}
    return [
        manifest
        for manifest in manifests
        if manifest.key in keys or any(output.digest in digests for output in manifest.outputs.values())
    ]


def gc(store: Store, *, dry_run: bool, grace_s: float, now_s: float) -> GcReport:
    """Mark from the roots and sweep what is older than the grace period.

    Entries go before the objects that they name, everything by a rename into ``trash/``, which is emptied last: killed at any point,
    no manifest is left that names a missing object, and the next call finishes the work.
    """
    if not store.root.is_dir():
        return GcReport(dry_run=dry_run)
    with store.files.lock("commit"):  # no commit may count on an object that is about to go
        report, paths = _mark(store, dry_run, now_s - grace_s)
        if dry_run or report.blocked_by:
            return report
        for path in paths:
            store.files.move(path, store.root / "trash" / store.files.temporary().name)
        store.leases.remove_dead()
    trash = store.root / "trash"
    for path in sorted(trash.iterdir()) if trash.is_dir() else []:
        store.files.remove(path)
    store.objects.forget_all()
    return GcReport(**{**report.__dict__, "deleted": True})


def _mark(store: Store, dry_run: bool, before_s: float) -> tuple[GcReport, list[Path]]:
    root = store.root
    manifests = list(store.manifests())
    kept = {manifest.key for manifest in reachable(store.files, manifests)}
    kept |= {manifest.key for manifest in manifests if _touched_s(store.manifest_path(manifest.key)) >= before_s}
    dead = [manifest for manifest in manifests if manifest.key not in kept]
    needed = {entry.sha256 for manifest in manifests if manifest.key in kept for entry in manifest.files()}
    shown = {output.digest for manifest in manifests if manifest.key in kept for output in manifest.outputs.values()}
    objects = [
        path for path in _children(root / "objects", 2) if path.name not in needed and _touched_s(path) < before_s
    ]
    views = [path for path in _children(root / "views") if path.name not in shown and _touched_s(path) < before_s]
    leased = store.leases.live()
    scratch = [path for path in _children(root / "scratch") if path.name not in leased and _newest_s(path) < before_s]
    unfinished = [
        path for path in _children(root / "entries") if not any(path.iterdir()) and _touched_s(path) < before_s
    ]
    leftovers = [
        path for name in ("tmp", "trash", "quarantine") for path in _children(root / name) if _newest_s(path) < before_s
    ] + unfinished
    remembered = {
        store.objects.record(entry).name for manifest in manifests if manifest.key in kept for entry in manifest.files()
    }
    records = [
        path for path in _children(root / "verified", 2) if path.name not in remembered and _touched_s(path) < before_s
    ]
    report = GcReport(
        dry_run=dry_run,
        entries=tuple(manifest.key for manifest in dead),
        objects=tuple(path.name for path in objects),
        views=tuple(path.name for path in views),
        scratch=tuple(path.name for path in scratch),
        leftovers=tuple(path.relative_to(root).as_posix() for path in leftovers),
        bytes_by_entry=_bytes_by_entry(dead, objects),
        reclaimable_bytes=sum(map(_size, [*objects, *scratch, *leftovers])),
        blocked_by=tuple(leased),
    )
    entries = [store.manifest_path(manifest.key).parent for manifest in dead]
    return report, [
        *entries,
        *views,
        *records,
        *objects,
        *scratch,
        *(path for path in leftovers if path.parent.name != "trash"),
    ]


def _bytes_by_entry(dead: list[Manifest], objects: list[Path]) -> dict[str, int]:
    """Return what deleting each entry frees; a file that several share counts for the first."""
    free = {path.name for path in objects}
    sizes = {}
    for manifest in dead:
        own = {entry.sha256: entry.size for entry in manifest.files() if entry.sha256 in free}
        free -= set(own)
        sizes[manifest.key] = sum(own.values())
    return sizes


def _children(folder: Path, depth: int = 1) -> list[Path]:
    pattern = "/".join("*" * depth)
    return sorted(folder.glob(pattern)) if folder.is_dir() else []


def _touched_s(path: Path) -> float:
    """Return when a file was last written, renamed or linked."""
    status = path.lstat()
    return max(status.st_mtime, status.st_ctime)


def _newest_s(path: Path) -> float:
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else []
    return max([_touched_s(path), *(_touched_s(one) for one in inside)])


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(one.lstat().st_size for one in path.rglob("*") if one.is_symlink() or not one.is_dir())
