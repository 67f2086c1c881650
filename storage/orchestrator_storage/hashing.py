"""SHA-256 of files, and a cache of it for files outside the store."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator_storage.files import Files, signature

_CHUNK_BYTES = 2**20
#: A file changed within this time may change again without its stat showing it: such a digest is not remembered.
_SETTLED_S = 2.0


def hash_file(path: Path, on_bytes: Callable[[int], object] | None = None) -> tuple[str, int]:
    """Return (SHA-256 hex digest, size in bytes) of a file; ``on_bytes`` is told the size of each chunk that was read."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
    return digest.hexdigest(), size


class StatCache:
    """Digests of files, remembered as long as size, modification time and inode stay the same.

    ``path`` is the JSON file that remembers; a missing or broken one only costs hashing again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = self._read()
        self._fresh: dict[str, list[object]] = {}

    def _read(self) -> dict[str, list[object]]:
        try:
            known = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def digest(self, file: Path, on_bytes: Callable[[int], object] | None = None) -> str:
        """Return the SHA-256 hex digest of a file; raises OSError when it cannot be read."""
        name = str(file.absolute())
        now = signature(file)
        known = self._known.get(name)
        if now is not None and isinstance(known, list) and len(known) == 4 and known[:3] == now:
            return str(known[3])
        digest, _ = hash_file(file, on_bytes)
        if now is not None and now == signature(file) and time.time() - now[1] / 1e9 > _SETTLED_S:
            self._known[name] = self._fresh[name] = [*now, digest]
        return digest

    def save(self) -> None:
        """Keep what was learnt since the last save, beside what others saved meanwhile; a cache that cannot be written is left."""
        if not self._fresh:
            return
        self._known = {**self._read(), **self._fresh}
        self._fresh = {}
        files = Files(self.path.parent)
        with contextlib.suppress(OSError):
            files.write(self.path, json.dumps(self._known, sort_keys=True).encode(), durable=False)
