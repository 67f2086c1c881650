"""The MLflow observer: a thread in the driver that follows the journal, the only writer to MLflow.

The queue between the run and MLflow is the journal itself: it is on disk, so it needs no bound, and a slow server, a
server that is away and a driver that is killed are one case, a writer that is behind. ``notify`` only starts the
thread, which imports MLflow (more than a second) beside the run. Nothing here raises into the run: at the end the
thread has a last try, and what is missing then is completed by ``replay`` or by the next run of this home.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.events import Event, RunStarted
from orchestrator.home import Home, RunInfo
from orchestrator.observers.mlflow_store import prepare_environment
from orchestrator.observers.mlflow_writer import Writer, open_markers

#: Metrics are gathered this long before they are written together.
GATHER_S = 1.0
#: After a failure the next try waits this long, then twice as long, up to the last.
RETRY_S = (1.0, 2.0, 5.0, 15.0, 60.0)
#: ``close`` waits for a writer that advances, and this long for one that does not.
STALLED_S = 30.0

_logger = logging.getLogger(__name__)


class MLflowObserver:
    """Show one run in MLflow while it goes on."""

    def __init__(self, run: RunInfo) -> None:
        prepare_environment()
        self._run = run
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._writer: Writer | None = None
        self._offset = 0
        self._trouble = ""

    def notify(self, event: Event) -> None:
        """Start the writer with the run; what happens later it reads from the journal."""
        if self._thread is None and isinstance(event, RunStarted):
            self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait until everything is written, or until the writer makes no progress any more."""
        self._closing.set()
        if self._thread is None:
            return
        waited_s, seen = 0.0, self._offset
        while self._thread.is_alive() and waited_s < STALLED_S:
            self._thread.join(1.0)
            waited_s = waited_s + 1.0 if seen == self._offset else 0.0
            seen = self._offset
            if waited_s == 3.0 and not self._run.quiet:
                sys.stderr.write(f"waiting for MLflow at {self._run.tracking_uri}\n")
        if self._trouble or self._thread.is_alive():
            trouble = self._trouble or "it does not answer"
            _logger.warning("tracking is incomplete and will be completed by the next run: %s", trouble)

    def _follow(self) -> None:
        tries, helped = 0, False
        try:
            with FileLock(self._run.path / "tracking.lock"):
                while True:
                    # Asked before the journal is read: the last round then sees all that was told before close().
                    closing = self._closing.is_set()
                    tries = 0 if self._round(closing) else tries + 1
                    if not tries and not helped:
                        complete_dead_runs(self._run.home, self._run.tracking_uri)
                        helped = True
                    if closing or (tries and self._closing.is_set()):
                        break
                    self._closing.wait(RETRY_S[min(tries, len(RETRY_S)) - 1] if tries else GATHER_S)
                self._attach_report()
        except Exception as error:
            _logger.warning("tracking stopped: %s", error)

    def _round(self, closing: bool) -> bool:
        """Write what is new with a writer of its own making; say whether that went well."""
        try:
            writer = self._writer
            if writer is None:
                writer = Writer(self._run.path, self._run.home, self._run.tracking_uri)
            writer.sync()
        except Exception as error:
            self._writer = None
            self._trouble = f"{type(error).__name__}: {error}".splitlines()[0]
            _logger.log(logging.INFO if closing else logging.WARNING, "tracking waits: %s", self._trouble)
            return False
        self._writer, self._offset, self._trouble = writer, writer.offset, ""
        return True

    def _attach_report(self) -> None:
        if self._writer is not None:
            self._writer.add_report(self._run.path / "report.html")


def replay(run_path: Path) -> bool:
    """Complete the tracking of a run from its journal; return whether its end is written. Twice is the same as once.

    Raises what MLflow raises where the tracking server is away, and ``filelock.Timeout`` while another process writes.
    """
    home = Home(run_path.parent.parent)
    with FileLock(run_path / "tracking.lock", timeout=0):
        writer = Writer(run_path, home, home.tracking_uri)
        writer.sync()
        if not writer.complete and _driver_is_dead(run_path):
            writer.finish("killed")
        return writer.complete


def complete_dead_runs(home: Home, tracking_uri: str) -> list[str]:
    """Replay the runs whose driver died before this server had all of them; return the ids of those it now has.

    What was meant for another server stays for ``replay``: it may be away, and this run shall not wait for it.
    """
    completed = []
    for path, marker in open_markers(home):
        if marker.tracking_uri != tracking_uri or not _driver_is_dead(path):
            continue
        if _replay_quietly(path):
            completed.append(path.name)
    return completed


def kill_tracked_runs(home: Home, run_paths: Iterable[Path]) -> None:
    """Close the MLflow runs of runs whose driver was killed; those that cannot be reached now stay for later."""
    for path, _ in open_markers(home):
        if path in set(run_paths):
            _replay_quietly(path)


def _replay_quietly(run_path: Path) -> bool:
    try:
        return replay(run_path)
    except Timeout:
        return False  # another process is at it
    except Exception as error:
        _logger.warning("the tracking of run %s is still incomplete: %s", run_path.name, error)
        return False


def _driver_is_dead(run_path: Path) -> bool:
    """Tell whether the process that drove a run is gone for certain; one on another host counts as alive."""
    from orchestrator_storage import Holder

    try:
        driver = json.loads((run_path / "run.json").read_text()).get("driver")
    except (OSError, ValueError):
        return False
    return bool(driver) and Holder.from_json(driver).alive() is False
