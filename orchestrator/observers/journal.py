"""The journal of a run: every event as one JSON line in ``runs/<id>/journal.jsonl``.

The journal is what is left of a killed driver, so each event reaches the operating system before ``notify`` returns.
Reports are written from it and tracking follows it: ``read_from`` lets a reader go on where it stopped.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import BinaryIO

from orchestrator.events import EVENTS, Event, from_json

JOURNAL_NAME = "journal.jsonl"

_logger = logging.getLogger(__name__)


class JournalObserver:
    """Append every event to the journal of ``run_path``; a full disk is reported once and never raises into the run."""

    def __init__(self, run_path: Path) -> None:
        run_path.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file: BinaryIO | None = (run_path / JOURNAL_NAME).open("ab", buffering=0)
        self._torn = False
        self._complained = False

    def notify(self, event: Event) -> None:
        """Write one event as one line in one system call."""
        line = json.dumps(event.to_json(), default=str, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if self._file is None:
                return
            try:
                # After a short write the next event starts on a line of its own, so that only the torn one is lost.
                written = self._file.write(b"\n" + line if self._torn else line)
                self._torn = (written or 0) < len(line)
            except OSError as error:
                self._torn = True
                if not self._complained:
                    self._complained = True
                    _logger.warning("the journal of this run is incomplete: %s", error)

    def close(self) -> None:
        """Close the file; events that come later are dropped."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def read_from(path: Path, offset: int = 0, limit: int = 2000) -> tuple[list[Event], int]:
    """Read at most ``limit`` whole lines from byte ``offset``; return their events and the offset after them.

    A last line without its newline is left for later. Torn lines and events of another version are skipped.
    A journal that does not exist yet has no events.
    """
    events: list[Event] = []
    if not path.exists():
        return events, offset
    with path.open("rb") as file:
        file.seek(offset)
        for _ in range(limit):
            line = file.readline()
            if not line.endswith(b"\n"):
                break
            offset += len(line)
            event = _parse(line, path)
            if event is not None:
                events.append(event)
    return events, offset


def read_journal(path: Path) -> list[Event]:
    """Read a whole journal (the file, or the run folder that holds it); a torn last line is dropped."""
    if path.is_dir():
        path = path / JOURNAL_NAME
    events: list[Event] = []
    offset = 0
    while True:
        batch, after = read_from(path, offset)
        if after == offset:
            return events
        events.extend(batch)
        offset = after


def _parse(line: bytes, path: Path) -> Event | None:
    text = line.strip()
    if not text:
        return None
    try:
        record = json.loads(text)
        if record["event"] in EVENTS:
            return from_json(record)
    except (ValueError, TypeError, KeyError):
        _logger.warning("a torn line in %s was skipped", path)
    return None
