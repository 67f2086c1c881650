"""What a running stage sees of the orchestrator: the Context, the gang of its workers and the reporting behind both."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orchestrator_storage as storage
from orchestrator.component import component
from orchestrator.errors import Cancelled, StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

A = TypeVar("A", bound=storage.Artifact)

#: A progress line at most this often: the reader polls a few times a second.
PROGRESS_INTERVAL_S = 0.1
CANCEL_INTERVAL_S = 0.2


class Reporter:
    """Reports of one process: lines appended to a file that the driver follows, and a cancel flag that the driver sets.

    Plain files serve every executor alike: the store is reachable from every node, and what was reported survives the process.
    """

    def __init__(self, events: Path | None = None, cancel: Path | None = None) -> None:
        self._events = events
        self._cancel = cancel
        self._next_progress_s = 0.0
        self._next_cancel_s = 0.0
        self._cancelled = False
        self._lock = threading.Lock()
        self.final_metrics: dict[str, float] = {}
        self.history: list[dict[str, Any]] = []
        self.fact_rows: list[dict[str, Any]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics at a step, or the stage's final values when ``step`` is None."""
        values = {name: float(value) for name, value in metrics.items()}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken and step is None:
            raise StageError(f"the final metric {broken[0]!r} is {values[broken[0]]}; a metric must be finite")
        if step is None:
            self.final_metrics |= values
        self.history.append({"step": step, "metrics": values})
        self._append(
            {"event": "metrics", "metrics": {n: v for n, v in values.items() if math.isfinite(v)}, "step": step}
        )

    def progress(self, done: float, total: float, unit: str = "") -> None:
        """Say that ``done`` of ``total`` units are finished; cheap to call often."""
        now_s = time.monotonic()
        if now_s >= self._next_progress_s or done >= total:
            self._next_progress_s = now_s + PROGRESS_INTERVAL_S
            self._append({"event": "progress", "done": float(done), "total": float(total), "unit": unit})

    def fact(
        self,
        quantity: str,
        value: float,
        unit: str,
        basis: str,
        *,
        subject: storage.Artifact | str | None = None,
        phase: str = "",
        low: float | None = None,
        high: float | None = None,
        n: int | None = None,
        hardware: str = "",
        source: str = "",
    ) -> None:
        """Record a measured or counted quantity; ``subject`` is an input artifact or the name of an output (default ``result``)."""
        if basis not in storage.BASES:
            raise StageError(f"fact {quantity!r}: basis {basis!r} is not one of {', '.join(storage.BASES)}")
        digest = subject.digest if isinstance(subject, storage.Artifact) else f"@{subject or 'result'}"
        if digest is None:
            raise StageError(f"fact {quantity!r}: the subject is not committed; name the output instead")
        self.fact_rows.append(
            {
                "subject": digest,
                "stage": "",
                "axes": "{}",
                "phase": phase,
                "quantity": quantity,
                "value": float(value),
                "low": None if low is None else float(low),
                "high": None if high is None else float(high),
                "n": n,
                "unit": unit,
                "basis": basis,
                "hardware": hardware,
                "source": source,
            }
        )

    @property
    def cancelled(self) -> bool:
        """Whether the run was asked to stop."""
        now_s = time.monotonic()
        if not self._cancelled and self._cancel is not None and now_s >= self._next_cancel_s:
            self._next_cancel_s = now_s + CANCEL_INTERVAL_S
            self._cancelled = self._cancel.exists()
        return self._cancelled

    def check_cancelled(self) -> None:
        """Raise Cancelled when the run was asked to stop; call it in long loops."""
        if self.cancelled:
            raise Cancelled("the run was cancelled")

    def _append(self, record: dict[str, Any]) -> None:
        if self._events is None:
            return
        line = (json.dumps({**record, "at_s": time.time()}) + "\n").encode()
        with self._lock, self._events.open("ab", buffering=0) as file:
            file.write(line)


class GangMember(Reporter):
    """One worker process of a stage; only rank 0's reports are shown."""

    def __init__(
        self,
        *,
        rank: int,
        size: int,
        init_method: str,
        scratch: Path,
        seed: int,
        threads: int,
        events: Path | None = None,
        cancel: Path | None = None,
    ) -> None:
        super().__init__(events if rank == 0 else None, cancel)
        self.rank = rank
        self.size = size
        self.init_method = init_method
        self.scratch = scratch
        self.seed = seed
        self.threads = threads


class Gang:
    """The worker processes of one stage."""

    def __init__(self, context: Context, launch: Callable[..., list[Any]] | None) -> None:
        self._context = context
        self._launch = launch
        self.size = context.workers

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Run ``function(member, *arguments)`` once per worker and return the results by rank.

        ``function`` is a module-level function; arguments and results are plain data and paths. With one worker it runs in this process.
        """
        context = self._context
        if self.size == 1 or self._launch is None:
            if self.size > 1:
                raise StageError(
                    f"this stage asks for {self.size} workers, but it runs outside an executor, which has one"
                )
            member = GangMember(
                rank=0, size=1, init_method="", scratch=context.scratch, seed=context.seed, threads=context.threads
            )
            member.__dict__.update({name: context.__dict__[name] for name in Reporter().__dict__})
            return [function(member, *arguments)]
        results = self._launch(context, function, arguments)
        for _, report in results[:1]:
            context.final_metrics |= report["metrics"]
            context.history += report["history"]
            context.fact_rows += report["facts"]
        return [result for result, _ in results]


class Context(Reporter):
    """What a stage receives first: its seed, its scratch folder, ways to report, and constructors of outputs."""

    def __init__(
        self,
        *,
        scratch: Path,
        seed: int = 0,
        workers: int = 1,
        threads: int = 1,
        resources: Mapping[str, Any] | None = None,
        axes: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
        events: Path | None = None,
        cancel: Path | None = None,
        launch: Callable[..., list[Any]] | None = None,
    ) -> None:
        super().__init__(events, cancel)
        self.seed = seed
        self.scratch = scratch / "work"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.workers = workers
        self.threads = threads
        self.resources = dict(resources or {})
        self.events_path = events
        self.cancel_path = cancel
        self.figures: dict[str, Path] = {}
        self._outputs = scratch / "outputs"
        self._figures = scratch / "figures"
        self._axes = axes or {}
        self._launch = launch

    def new(self, type_: type[A], name: str = "result", **meta: Any) -> A:
        """Return a fresh, empty artifact to write into; the stage returns it as its output ``name``."""
        path = self._outputs / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return type_(path, meta=meta)

    def table(self, table: Any, name: str = "result", data: Any = None) -> storage.Table:
        """Write a pyarrow.Table (and a small JSON beside it) as an output."""
        made = self.new(storage.Table, name)
        storage.Table.write(made.path, table, data)
        return made

    def log_figure(self, name: str, figure: Any) -> None:
        """Keep a figure beside the result: a matplotlib Figure, or the bytes of a PNG or SVG file."""
        if isinstance(figure, bytes):
            content, suffix = figure, ".png" if figure.startswith(b"\x89PNG") else ".svg"
        else:
            content, suffix = _render_svg(figure), ".svg"
        file_name = name if name.endswith(suffix) else name + suffix
        if os.sep in file_name or file_name.startswith("."):
            raise StageError(f"a figure is called by a plain file name, not {name!r}")
        self._figures.mkdir(parents=True, exist_ok=True)
        path = self._figures / file_name
        path.write_bytes(content)
        self.figures[file_name] = path

    def gang(self) -> Gang:
        """Return the worker processes of this stage."""
        return Gang(self, self._launch)

    def component(self, kind: str, ref: Any) -> Any:
        """Return the component that a config field names."""
        return component(kind, ref)

    def axes(self, port: str) -> dict[str, dict[str, Any]]:
        """Return label -> typed coordinates of what a ``dict`` port gathered."""
        return {label: dict(coordinates) for label, coordinates in self._axes.get(port, {}).items()}


def _render_svg(figure: Any) -> bytes:
    """Draw a matplotlib figure; equal figures give equal bytes (fixed hash salt, no date)."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "orchestrator", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return buffer.getvalue()
