"""Results of finished pieces, a line of JSON each, so that killed work goes on behind the last whole line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Journal:
    """Keep results by key in a file, or in memory without one.

    The file is for work that nobody else does: whoever gives it sees to that. Numbers come back as they were.
    """

    def __init__(self, file: Path | None = None):
        self._file = file
        self._known: dict[str, Any] = {}
        if file is None or not file.exists():
            return
        whole, _, torn = file.read_text().rpartition("\n")
        for line in whole.splitlines():
            key, value = json.loads(line)
            self._known[key] = value
        if torn:
            file.write_text(f"{whole}\n" if whole else "")

    def has(self, key: str) -> bool:
        """Tell whether a piece is done."""
        return key in self._known

    def get(self, key: str) -> Any:
        """Return the result of a piece that is done; KeyError for one that is not."""
        return self._known[key]

    def put(self, key: str, value: Any) -> None:
        """Keep the result of a piece."""
        self._known[key] = value
        if self._file is not None:
            with self._file.open("a") as lines:
                lines.write(json.dumps([key, value]) + "\n")
