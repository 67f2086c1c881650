"""The base of every artifact type: a handle on an immutable directory, and the rules that all directories obey."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from orchestrator_storage.errors import ArtifactError

#: Small JSON beside data stays small: what is large belongs in a table.
MAX_JSON_BYTES = 4 * 2**20


class Artifact:
    """A directory of files with a type; on its own, a plain directory without further rules.

    ``path`` is the directory, ``digest`` its identity (None until it is committed), ``meta`` small JSON that belongs to the digest.
    ``sources`` names files that stay where they are: relative path in the artifact -> absolute path outside the store. They are
    hashed like all others, verified on use, never copied and never collected.

    A type sets ``type_name``, raises ``schema_version`` when its layout changes, and overrides :meth:`check`.
    """

    type_name: ClassVar[str] = "Artifact"
    schema_version: ClassVar[int] = 1

    def __init__(
        self,
        path: Path | str,
        digest: str | None = None,
        meta: Mapping[str, Any] | None = None,
        sources: Mapping[str, Path] | None = None,
    ) -> None:
        self.path = Path(path)
        self.digest = digest
        self.meta: dict[str, Any] = dict(meta or {})
        self.sources: dict[str, Path] = dict(sources or {})

    @classmethod
    def check(cls, path: Path, meta: dict[str, Any]) -> None:
        """Raise ArtifactError unless the directory obeys the type's rules; called before every commit."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(path={str(self.path)!r}, digest={self.digest!r}, meta={self.meta!r})"


def check_name(path: str) -> str:
    """Return a relative file name that is fit for any file system and any report; raises ArtifactError."""
    parts = PurePosixPath(path).parts
    rule = "names are relative, printable UTF-8 without backslashes or '..', at most 255 bytes a part"
    try:
        long = any(len(part.encode()) > 255 for part in parts)
    except UnicodeEncodeError:
        raise ArtifactError(f"the file name {path!r} is not UTF-8; {rule}") from None
    if long or not parts or path != "/".join(parts) or ".." in parts or "\\" in path or not path.isprintable():
        raise ArtifactError(f"the file name {path!r} cannot be stored; {rule}")
    return path


def list_files(path: Path, sources: Mapping[str, Path] | None = None) -> list[str]:
    """Return the relative names of all files below a directory, sorted; directories exist only through their files.

    Links to what ``sources`` names are left out: so does an opened artifact point to files that stay outside the store.
    Raises ArtifactError for a link, a device, a name that cannot be stored, or a directory that is not there.
    """
    if not path.is_dir():
        raise ArtifactError(
            f"the artifact's directory {path.name!r} does not exist; write the files before returning the artifact"
        )
    found: list[str] = []
    for folder, folders, names in os.walk(path):
        here = Path(folder)
        for name in [*names, *(name for name in folders if (here / name).is_symlink())]:
            relative = check_name((here / name).relative_to(path).as_posix())
            mode = (here / name).lstat().st_mode
            if stat.S_ISLNK(mode) and sources and relative in sources and (here / name).readlink() == sources[relative]:
                continue
            if stat.S_ISLNK(mode):
                raise ArtifactError(
                    f"{relative!r} is a symbolic link; an artifact holds its own files: copy the target or declare it in `sources`"
                )
            if not stat.S_ISREG(mode):
                raise ArtifactError(f"{relative!r} is not a regular file; an artifact holds files only")
            found.append(relative)
    return sorted(found)


def require(path: Path, names: Iterable[str], type_name: str) -> None:
    """Raise ArtifactError unless all these files are there."""
    for name in names:
        if not (path / name).is_file():
            there = ", ".join(sorted(one.name for one in path.iterdir())[:8]) or "nothing"
            raise ArtifactError(f"{type_name}: the file {name!r} is missing; there is {there}")


def allow_only(path: Path, names: Iterable[str], type_name: str) -> None:
    """Raise ArtifactError for any file beyond these."""
    allowed = set(names)
    for name in sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if not one.is_dir()):
        if name not in allowed:
            raise ArtifactError(
                f"{type_name}: the file {name!r} does not belong here; the type holds {', '.join(sorted(allowed))}"
            )


def read_json(path: Path, type_name: str) -> Any:
    """Return the content of a small JSON file; raises ArtifactError when it is not JSON or not small."""
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ArtifactError(
            f"{type_name}: {path.name} has {size} bytes; small JSON has at most {MAX_JSON_BYTES}, larger data belongs in a table"
        )
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{type_name}: {path.name} is not JSON ({error})") from None


def read_json_object(path: Path, type_name: str, limit: bool = True) -> dict[str, Any]:
    """Return a JSON object; raises ArtifactError for anything else."""
    try:
        content = read_json(path, type_name) if limit else json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{type_name}: {path.name} is not UTF-8 ({error})") from None
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{type_name}: {path.name} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ArtifactError(f"{type_name}: {path.name} holds a {type(content).__name__}; it must hold a JSON object")
    return content
