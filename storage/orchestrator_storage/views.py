"""Views: what ``Artifact.path`` points to, a read-only directory of hard links to objects (and links to referenced files)."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator_storage.artifact import check_name
from orchestrator_storage.files import Files
from orchestrator_storage.hashing import hash_file
from orchestrator_storage.manifest import FileEntry, Output
from orchestrator_storage.objects import Objects


def open_view(files: Files, objects: Objects, output: Output) -> Path:
    """Return the view of an output whose objects are sound, made or mended where needed."""
    view = files.root / "views" / output.digest
    if view.is_dir() and _is_whole(view, objects, output.files):
        return view
    made = build_view(files, objects, output.files)
    try:
        for folder, folders, _ in os.walk(made):
            for name in folders:
                (Path(folder) / name).chmod(0o555)
        files.make_folder(view.parent)
        with files.lock("views"):
            if not (view.is_dir() and _is_whole(view, objects, output.files)):  # somebody else may have been faster
                _replace(files, view, made)
    finally:
        files.remove(made)
    return view


def _replace(files: Files, view: Path, made: Path) -> None:
    broken = files.root / "trash" / made.name
    if view.exists():
        files.move(view, broken)
    files.move(made, view)
    view.chmod(0o555)  # only now: a folder that is read-only cannot be renamed into another
    files.remove(broken)


def build_view(files: Files, objects: Objects, entries: tuple[FileEntry, ...]) -> Path:
    """Return a fresh temporary directory with the entries' files."""
    made = files.temporary()
    try:
        files.make_folder(made, durable=False)
        for entry in entries:
            target = made / check_name(entry.path)
            files.make_folder(target.parent, durable=False)
            if entry.source is None:
                files.link(objects.path(entry.sha256), target)
            else:
                files.symlink(Path(entry.source), target)
    except BaseException:
        files.remove(made)
        raise
    return made


def _is_whole(view: Path, objects: Objects, entries: tuple[FileEntry, ...]) -> bool:
    """Whether the view holds the entries' files and no other."""
    expected = {entry.path: entry for entry in entries}
    found = 0
    for folder, folders, names in os.walk(view):
        for name in [*names, *(name for name in folders if (Path(folder) / name).is_symlink())]:
            entry = expected.get((Path(folder) / name).relative_to(view).as_posix())
            if entry is None or not _is_same(Path(folder) / name, objects, entry):
                return False
            found += 1
    return found == len(entries)


def _is_same(path: Path, objects: Objects, entry: FileEntry) -> bool:
    if entry.source is not None:
        return path.is_symlink() and path.readlink() == Path(entry.source)
    if path.is_symlink():
        return False
    if path.stat().st_ino == objects.path(entry.sha256).stat().st_ino:
        return True
    return hash_file(path)[0] == entry.sha256  # where links cannot be made, a view holds copies
