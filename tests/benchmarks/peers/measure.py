"""What a tool's process does in common with the others': read its job, time its phases, write what they took.

Standard library only: this file runs in the environments of all tools.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Phases:
    """Collect seconds, processor seconds and peak memory of named phases of this process."""

    def __init__(self) -> None:
        self.measured: dict[str, dict[str, float]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        _forget_peak()
        resident = _resident()
        started_s, cpu_s = time.perf_counter(), time.process_time()
        yield
        self.measured[name] = {
            "seconds": time.perf_counter() - started_s,
            "cpu_seconds": time.process_time() - cpu_s,
            "resident_before_bytes": resident,
            "peak_bytes": _peak(),
        }

    def write(self, path: str, **more: Any) -> None:
        """Write the phases, and whatever else is worth knowing, as JSON."""
        Path(path).write_text(json.dumps({"phases": self.measured, **more}, indent=1))


def job() -> dict[str, Any]:
    """Read the job that the first argument names."""
    settings: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    return settings


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def _resident() -> int:
    return _status("VmRSS:") if sys.platform == "linux" else 0


def _forget_peak() -> None:
    """Let the kernel forget the largest resident set so far (Linux only: elsewhere peaks include earlier phases)."""
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    if sys.platform == "linux":
        return _status("VmHWM:")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
