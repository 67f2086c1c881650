"""The process that follows a run's journal and writes it to MLflow, until the driver says that the run is over.

The driver talks on standard input: one line of JSON that names the run, and ``close`` at its end. When the input ends
without that word the driver was killed; this process then ends too, wherever it is, and the next run completes its work.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import queue
import sys
import threading
from pathlib import Path
from typing import TextIO

from filelock import FileLock

from orchestrator.home import Home
from orchestrator.observers.mlflow import complete_dead_runs
from orchestrator.observers.mlflow_store import load
from orchestrator.observers.mlflow_writer import Writer

#: MLflow does without these (mlflow-skinny is MLflow installed without them), and importing them is a fifth of importing
#: it. They are hidden while MLflow is imported and not after: tables that are shown are read with pyarrow.
NOT_NEEDED = ("numpy", "pandas", "pyarrow", "scipy")
#: Metrics are gathered this long before they are written together.
GATHER_S = 1.0
#: After a failure the next try waits this long, then twice as long, up to the last.
RETRY_S = (1.0, 2.0, 5.0, 15.0, 60.0)

_logger = logging.getLogger(__name__)


class Follower:
    """Writes the journal of one run as it grows; set ``closing`` when nothing more will come."""

    def __init__(self, path: Path, home: Home, tracking_uri: str, closing: threading.Event) -> None:
        self._path = path
        self._home = home
        self._tracking_uri = tracking_uri
        self._closing = closing
        self._writer: Writer | None = None
        self._trouble = ""

    def follow(self) -> None:
        """Write until the end; never raises: what is missing is told once and stays in the journal."""
        try:
            with FileLock(self._path / "tracking.lock"):
                self._rounds()
                if self._writer is not None:
                    self._writer.add_report(self._path / "report.html")
        except Exception as error:
            self._trouble = str(error)
        if self._trouble:
            _logger.warning("tracking is incomplete and will be completed by the next run: %s", self._trouble)

    def _rounds(self) -> None:
        tries, helped = 0, False
        while True:
            # Asked before the journal is read: the last round then sees all that was told before the end.
            closing = self._closing.is_set()
            tries = 0 if self._round(closing) else tries + 1
            if not tries and not helped:
                complete_dead_runs(self._home, self._tracking_uri)
                helped = True
            if closing or (tries and self._closing.is_set()):
                return
            self._closing.wait(RETRY_S[min(tries, len(RETRY_S)) - 1] if tries else GATHER_S)

    def _round(self, closing: bool) -> bool:
        """Write what is new with a writer of its own making; say whether that went well."""
        try:
            writer = self._writer
            if writer is None:
                writer = Writer(self._path, self._home, self._tracking_uri)
            writer.sync()
        except Exception as error:
            self._writer = None
            self._trouble = f"{type(error).__name__}: {error}".splitlines()[0]
            _logger.log(logging.INFO if closing else logging.WARNING, "tracking waits: %s", self._trouble)
            return False
        self._writer, self._trouble = writer, ""
        return True


def _listen(lines: TextIO, begun: queue.SimpleQueue[str], closing: threading.Event) -> None:
    for line in lines:
        if line == "close\n":
            closing.set()
        else:
            begun.put(line)
    if not closing.is_set():
        os._exit(1)  # the driver is gone, and the main thread may be anywhere


def main(tracking_uri: str) -> None:
    """Import MLflow, wait for a run, and follow it to its end."""
    begun: queue.SimpleQueue[str] = queue.SimpleQueue()
    closing = threading.Event()
    threading.Thread(target=_listen, args=(sys.stdin, begun, closing), name="driver", daemon=True).start()
    for name in NOT_NEEDED:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's mark for "cannot be imported"
    load(tracking_uri)
    for name in NOT_NEEDED:
        del sys.modules[name]
    gc.freeze()  # what was imported stays: looking through it again takes longer than writing a short run
    about = json.loads(begun.get())
    Follower(Path(about["path"]), Home(Path(about["home"])), about["tracking_uri"], closing).follow()
    sys.stderr.flush()
    os._exit(0)  # everything is committed, and taking 2,000 modules apart is time that the driver waits


if __name__ == "__main__":
    main(sys.argv[1])
