"""Digests of files outside the store, remembered while the files do not change."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator_storage import StatCache, canonical_json

from orchestrator.errors import RecipeError
from orchestrator.home import Home

if TYPE_CHECKING:
    from collections.abc import Iterable


def fingerprint(paths: Iterable[Path], base: Path | None = None) -> str:
    """Return a digest over (name, content) of files, cached by size, mtime and inode.

    With ``base`` the names are relative to it, otherwise bare file names: where files lie never enters a key. Order does not matter.
    Raises RecipeError for a file that is not there.
    """
    cache = StatCache(Home.locate(create=False).cache / "fingerprints.json")
    rows = []
    for path in paths:
        try:
            rows.append([path.relative_to(base).as_posix() if base else path.name, cache.digest(path)])
        except FileNotFoundError as error:
            raise RecipeError(f"the file {str(path)!r} does not exist") from error
        except OSError as error:
            raise RecipeError(f"the file {str(path)!r} cannot be read: {error.strerror or error}") from error
    cache.save()
    return hashlib.sha256(canonical_json(sorted(rows))).hexdigest()
