"""Digests of files outside the store, remembered while the files do not change."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import RecipeError
from orchestrator.home import Home
from orchestrator_storage import StatCache, canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Hashing that takes longer than this says how far it is.
PATIENCE_S = 1.0
REPORT_EVERY_S = 0.5


def fingerprint(paths: Iterable[Path], base: Path | None = None) -> str:
    """Return a digest over (name, content) of files, cached by size, mtime and inode.

    With ``base`` the names are relative to it, otherwise bare file names: where files lie never enters a key. Order does not matter.
    Raises RecipeError for a file that is not there.
    """
    files = list(paths)
    cache = StatCache(Home.locate(create=False).cache / "fingerprints.json")
    progress = _Progress(files)
    rows = []
    for path in files:
        try:
            rows.append([path.relative_to(base).as_posix() if base else path.name, cache.digest(path, progress.add)])
        except FileNotFoundError as error:
            raise RecipeError(f"the file {str(path)!r} does not exist") from error
        except OSError as error:
            raise RecipeError(f"the file {str(path)!r} cannot be read: {error.strerror or error}") from error
    progress.end()
    cache.save()
    return hashlib.sha256(canonical_json(sorted(rows))).hexdigest()


class _Progress:
    """One line on standard error that counts the bytes hashed, once the user has waited a while."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._done_bytes = 0
        self._total_bytes = 0
        self._next_s = time.monotonic() + PATIENCE_S
        self._shown = False

    def add(self, amount_bytes: int) -> None:
        self._done_bytes += amount_bytes
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + REPORT_EVERY_S
        if not self._shown:
            self._total_bytes = sum(path.stat().st_size for path in self._files if path.is_file())
        self._shown = True
        end = "\r" if sys.stderr.isatty() else "\n"
        sys.stderr.write(f"hashing {self._done_bytes / 1e6:,.0f} of at most {self._total_bytes / 1e6:,.0f} MB{end}")
        sys.stderr.flush()

    def end(self) -> None:
        if self._shown and sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
