"""Settings that name a file: where it lies, and the digest of its content, by which results are kept."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from orchestrator_network.errors import WorkloadError

#: Bytes of a file whose content is looked at when a recipe is planned.
READ_WHEN_PLANNED = 1 << 26


@dataclass(frozen=True, kw_only=True)
class FileConfig:
    """A file.

    path    of the file
    sha256  of its content, by which results are kept: 64 hexadecimal digits, as `sha256sum` prints them
    """

    file: ClassVar[str] = "a file"
    error: ClassVar[type[ValueError]] = WorkloadError

    path: str = field(metadata={"identity": False})  # the content enters the key by its digest
    sha256: str

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 is `{self.sha256}`, it must be 64 hexadecimal digits; `sha256sum` prints them")

    def check_file(self) -> None:
        """Refuse a file that is not there or has other content, when the recipe is planned; large ones are read later."""
        path = Path(self.path)
        if not path.is_file():
            raise self.error(f"path is {self.path}, where no file is; give that of {self.file}")
        if path.stat().st_size <= READ_WHEN_PLANNED:
            self.verified()

    def verified(self) -> Path:
        """Return the path of a file with the content that the recipe names."""
        path = Path(self.path)
        self.compare(hashlib.sha256(path.read_bytes()).hexdigest())
        return path

    def compare(self, digest: str) -> None:
        """Refuse content with another digest than the recipe names."""
        if digest != self.sha256:
            raise self.error(f"{self.path}: its sha256 is {digest}, the recipe names another; write this one there")
