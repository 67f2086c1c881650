"""The MLflow observer: a process beside the driver follows the journal, and is the only writer to MLflow.

The queue between the run and MLflow is the journal itself: it is on disk, so it needs no bound, and a slow server, a
server that is away and a driver that is killed are one case, a writer that is behind. A process and not a thread:
importing MLflow takes longer than a run in which everything is cached, and would hold the driver's interpreter lock.
Nothing here raises into the run: at the end the process has a last try, and what is missing then is completed by
``replay`` or by the next run of this home.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.events import Event, RunStarted
from orchestrator.home import Home, RunInfo
from orchestrator.observers.mlflow_writer import Marker, Writer, open_markers

#: ``close`` waits for a process that advances, and this long for one that does not.
STALLED_S = 30.0

_logger = logging.getLogger(__name__)
#: The process that waits for a run, and the environment that it was started with.
_waiting: list[tuple[dict[str, str], subprocess.Popen[str]]] = []


def warm_up(tracking_uri: str) -> None:
    """Start the process that will follow the next run, so that it imports MLflow while the run is planned."""
    if not _waiting:
        _waiting.append((dict(os.environ), _start(tracking_uri)))


@atexit.register
def dismiss() -> None:
    """End the process that was started for a run that never came: its recipe had an error."""
    while _waiting:
        _, process = _waiting.pop()
        process.kill()
        process.communicate()


def _take(tracking_uri: str) -> subprocess.Popen[str]:
    """Return the process that waits, or a new one where it died or does not know what was set since (a server's password)."""
    if _waiting and _waiting[0][0] == dict(os.environ) and _waiting[0][1].poll() is None:
        return _waiting.pop()[1]
    dismiss()
    return _start(tracking_uri)


def _start(tracking_uri: str) -> subprocess.Popen[str]:
    # The driver's own paths and nothing of the working directory: the process shall import what the driver imports.
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "orchestrator.observers.mlflow_follow", tracking_uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
        text=True,
        start_new_session=True,  # Ctrl-C is for the driver, which says how the run ended
    )


class MLflowObserver:
    """Show one run in MLflow while it goes on."""

    def __init__(self, run: RunInfo) -> None:
        self._run = run
        self._process: subprocess.Popen[str] | None = None

    def notify(self, event: Event) -> None:
        """Let the process follow the run from its start; what happens later it reads from the journal."""
        if self._process is None and isinstance(event, RunStarted):
            self._process = _take(self._run.tracking_uri)
            about = {
                "path": str(self._run.path),
                "home": str(self._run.home.path),
                "tracking_uri": self._run.tracking_uri,
            }
            self._say(json.dumps(about))

    def close(self) -> None:
        """Wait until everything is written, or until the process makes no progress any more."""
        process = self._process
        if process is None:
            return
        self._say("close")
        waited_s, seen = 0.0, self._offset()
        while waited_s < STALLED_S:
            try:
                process.wait(1.0)
                break
            except subprocess.TimeoutExpired:
                offset = self._offset()
                waited_s, seen = (waited_s + 1.0 if seen == offset else 0.0), offset
                if waited_s == 3.0 and not self._run.quiet:
                    sys.stderr.write(f"waiting for MLflow at {self._run.tracking_uri}\n")
        stalled = process.poll() is None
        if stalled:
            process.kill()
            process.wait()
        if process.stdin is not None:
            # What a dead process never read is still in the buffer, and closing tries once more to write it.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        if process.returncode:
            why = "it does not answer" if stalled else f"its writer ended with {process.returncode}"
            _logger.warning("tracking is incomplete and will be completed by the next run: %s", why)

    def _say(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError as error:
            _logger.warning("tracking ended early and will be completed by the next run: %s", error.strerror)

    def _offset(self) -> int:
        marker = Marker.read(self._run.path)
        return -1 if marker is None else marker.offset


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
