"""The executor for debugging: one stage after the other, in this process, where a breakpoint works."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.executors.base import NodeShape, this_machine
from orchestrator.executors.gang import launch_processes
from orchestrator.worker import Task, execute

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.context import Context


class _Tee:
    """Writes to the stage's log and to the terminal."""

    def __init__(self, *files: TextIO) -> None:
        self._files = files

    def write(self, text: str) -> int:
        for file in self._files:
            file.write(text)
        return len(text)

    def flush(self) -> None:
        for file in self._files:
            file.flush()

    def isatty(self) -> bool:
        return False


class LocalExecutor:
    """Runs tasks in submission order; ``poll`` does the work. Standard output of a stage goes to its log and to standard error."""

    name = "local"

    def __init__(self, cpus: float | None = None) -> None:
        self._cpus = cpus
        self._queue: deque[Task] = deque()
        # The engine kills from the thread that watches flags while a stage runs in the main one.
        self._lock = threading.Lock()
        self._killed: list[str] = []

    def shapes(self) -> list[NodeShape]:
        """Describe this machine."""
        return [this_machine(self._cpus)]

    def submit(self, task: Task) -> None:
        """Queue a task."""
        with self._lock:
            self._queue.append(task)

    def poll(self, timeout_s: float) -> list[tuple[str, dict[str, Any]]]:  # noqa: ARG002 - there is never anything to wait for
        """Run the oldest task to its end, once those that were killed in the queue are reported."""
        with self._lock:
            killed, self._killed = self._killed, []
            task = self._queue.popleft() if self._queue and not killed else None
        if task is None:
            return [(spec, _stopped()) for spec in killed]
        with task.log.open("a", encoding="utf-8") as log:
            tee: Any = _Tee(log, sys.stderr)
            with contextlib.redirect_stdout(tee), contextlib.redirect_stderr(tee):
                outcome = execute(task, launch=_launch)
        return [(task.spec, outcome)]

    def kill(self, spec: str) -> None:
        """End a queued task, which `poll` then reports; a running one is this very process and ends by its flag."""
        with self._lock:
            left = deque(task for task in self._queue if task.spec != spec)
            if len(left) < len(self._queue):
                self._queue = left
                self._killed.append(spec)

    def stop(self) -> None:
        """Forget what is queued."""
        with self._lock:
            self._queue.clear()
            self._killed.clear()


def _stopped() -> dict[str, Any]:
    return {
        "status": "cancelled",
        "error": {"type": "Cancelled", "message": "the stage was stopped", "hint": "", "traceback": ""},
        "seconds": 0.0,
    }


def _launch(task: Task, context: Context, function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
    return launch_processes(context, function, arguments, task.driver)
