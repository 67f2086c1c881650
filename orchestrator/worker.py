"""Run one stage where an executor put it: inputs verified, reports followed, outputs committed.

Both executors call :func:`execute`. It holds an operating-system lock on the scratch folder, so that a successor of a killed driver
waits until the old process is gone, and it leaves when its driver dies.
"""

from __future__ import annotations

import fcntl
import functools
import importlib
import os
import platform
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orchestrator_storage as storage
from orchestrator.context import Context
from orchestrator.errors import Cancelled, OrchestratorError, StoreError
from orchestrator.plugins import installed
from orchestrator.stage import Facts, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

WATCH_INTERVAL_S = 0.5
#: What numerical libraries read when they are loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that a process needs to run a stage; pickles small.

    ``inputs``: port -> None, an Output, a list of [label, axes, Output] (gather) or a list of fact rows (Facts).
    ``driver`` is the Holder of the driver as JSON; None in tests, where nobody is watched.
    """

    run: str
    spec: str
    key: str
    payload: dict[str, Any]
    stage: str
    version: str
    entry: str
    config: Any
    inputs: dict[str, Any]
    store: Path
    log: Path
    events: Path
    cancel: Path
    seed: int = 0
    workers: int = 1
    resources: dict[str, Any] = field(default_factory=dict)
    replace: bool = False
    driver: dict[str, Any] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


def load_entry(entry: str) -> Callable[..., Any]:
    """Import "package.module:function"."""
    module, _, name = entry.partition(":")
    return functools.reduce(getattr, name.split("."), importlib.import_module(module))  # type: ignore[return-value]


def threads_of(resources: dict[str, Any]) -> int:
    """Return the torch threads for a process with these resources."""
    return max(1, int(resources.get("cpus", 1)))


def set_threads(threads: int) -> None:
    """Bind the numerical libraries of this process to a number of threads; equal threads are part of equal bytes."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def watch(driver: dict[str, Any] | None) -> threading.Event:
    """End this process soon after the driver is gone; returns an event that stops the watching."""
    stop = threading.Event()
    if driver is None:
        return stop
    holder = storage.Holder.from_json(driver)

    def look() -> None:
        while not stop.wait(WATCH_INTERVAL_S):
            if holder.alive() is False:
                os._exit(
                    70
                )  # the driver is dead: nobody will commit or clean up after us, and a successor waits for our lock

    threading.Thread(target=look, name="driver-watch", daemon=True).start()
    return stop


def execute(task: Task, launch: Callable[..., list[Any]] | None = None) -> dict[str, Any]:
    """Run the task and return {"status": "executed"|"cached"|"failed"|"cancelled", "manifest" or "error", "seconds", "log_tail"}."""
    started_s = time.time()
    stop = watch(task.driver)
    try:
        os.environ.update(task.environment)
        set_threads(threads_of(task.resources))
        store = storage.Store(task.store, installed().types)
        with _scratch_lock(store.scratch(task.key)):
            existing = None if task.replace else store.lookup(task.key)
            if existing is not None:
                return {"status": "cached", "manifest": existing.to_json(), "seconds": time.time() - started_s}
            manifest = _run(task, store, launch, started_s)
        store.remove_scratch(task.key)
        return {"status": "executed", "manifest": manifest.to_json(), "seconds": time.time() - started_s}
    except Cancelled as error:
        return {"status": "cancelled", "error": describe(error), "seconds": time.time() - started_s}
    except Exception as error:
        return {"status": "failed", "error": describe(error), "seconds": time.time() - started_s}
    finally:
        stop.set()


def describe(error: BaseException) -> dict[str, Any]:
    """Return an exception as plain data; errors that are meant for the user carry no traceback."""
    plain = isinstance(error, OrchestratorError)
    return {
        "type": type(error).__name__,
        "message": error.message if isinstance(error, OrchestratorError) else str(error),
        "hint": error.hint if isinstance(error, OrchestratorError) else "",
        "traceback": "" if plain else "".join(traceback.format_exception(error)),
    }


class _scratch_lock:  # noqa: N801 - reads as a verb at its one use
    """Hold the folder's lock until the block ends; waits for a predecessor that is still leaving."""

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._file = (scratch / "lock").open("a")

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _run(
    task: Task, store: storage.Store, launch: Callable[..., list[Any]] | None, started_s: float
) -> storage.Manifest:
    function = load_entry(task.entry)
    spec = spec_of(function)
    scratch = store.scratch(task.key)
    arguments, axes = _open_inputs(task, store, spec)
    context = Context(
        scratch=scratch,
        seed=task.seed,
        workers=task.workers,
        threads=threads_of(task.resources),
        resources=task.resources,
        axes=axes,
        events=task.events,
        cancel=task.cancel,
        launch=launch and functools.partial(launch, task),
    )
    config = () if spec.config is None else (task.config,)
    returned = function(context, *config, **arguments)
    outputs = dict(
        zip(spec.outputs, returned if len(spec.outputs) > 1 or _is_named(returned) else (returned,), strict=True)
    )
    for name, artifact in outputs.items():
        if not isinstance(artifact, storage.Artifact):
            raise StoreError(
                f"stage {task.stage!r} returned a {type(artifact).__name__} as output {name!r}",
                "return what ctx.new(...) or ctx.table(...) made",
            )
    context.check_cancelled()
    return store.commit(
        key=task.key,
        spec=task.spec,
        stage=task.stage,
        version=task.version,
        payload=task.payload,
        outputs=outputs,
        facts=context.fact_rows,
        metrics=context.final_metrics,
        figures=context.figures,
        replace=task.replace,
        record={
            **task.record,
            "run": task.run,
            "started_s": started_s,
            "seconds": time.time() - started_s,
            "log": str(task.log),
            "workers": task.workers,
            "resources": task.resources,
            "host": platform.node(),
            "python": platform.python_version(),
        },
    )


def _is_named(returned: Any) -> bool:
    return isinstance(returned, tuple) and hasattr(returned, "_fields")


def _open_inputs(task: Task, store: storage.Store, spec: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    arguments: dict[str, Any] = {}
    axes: dict[str, Any] = {}
    for name, port in spec.ports.items():
        held = task.inputs.get(name)
        if port.facts:
            arguments[name] = Facts(held or [])
        elif held is None:
            arguments[name] = None
        elif port.gather:
            arguments[name] = {label: store.open(output) for label, _, output in held}
            axes[name] = {label: coordinates for label, coordinates, _ in held}
        else:
            arguments[name] = store.open(held)
    return arguments, axes
