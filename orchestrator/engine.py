"""The engine: a ready queue over the graph, with single flight per key, retries, timeouts, cancel and resume.

State that matters is on disk before it is reported: a stage is done when its manifest is committed, so the driver may be killed
anywhere and the same command goes on from there.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orchestrator_storage as storage
from orchestrator import events
from orchestrator.executors.base import Executor
from orchestrator.key import digest
from orchestrator.pipeline import Node, Pipeline
from orchestrator.plan import Plan, key_payload, output_of
from orchestrator.worker import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

POLL_S = 0.1
FOLLOW_S = 0.1
LEASE_RETRY_S = 0.5
CANCEL_GRACE_S = 15.0
LOG_TAIL_LINES = 20
ENDED = ("executed", "cached", "failed", "skipped", "cancelled")


@dataclass
class Execution:
    """What happens to one node while the run goes on."""

    node: Node
    status: str = "pending"
    key: str | None = None
    payload: dict[str, Any] = field(default_factory=dict)
    manifest: storage.Manifest | None = None
    error: dict[str, Any] | None = None
    attempt: int = 0
    lease: storage.Lease | None = None
    started_s: float = 0.0
    seconds: float = 0.0
    cancelled_s: float = 0.0
    timed_out: bool = False
    next_look_s: float = 0.0


class Engine:
    """Executes the nodes of a plan; ``emit`` receives every event and must be safe to call from two threads."""

    def __init__(
        self,
        pipeline: Pipeline,
        plan: Plan,
        store: storage.Store,
        executor: Executor,
        emit: Callable[[events.Event], None],
        *,
        run: str,
        folder: Path,
        force: Iterable[str] = (),
        fail_fast: bool = False,
        record: dict[str, Any] | None = None,
    ) -> None:
        self.store = store
        self.executor = executor
        self.emit = emit
        self.run_id = run
        self.folder = folder
        self.force = set(force)
        self.fail_fast = fail_fast
        self.record = record or {}
        self.holder = storage.Holder.here(run)
        self.manifests: dict[str, storage.Manifest] = {}
        self.executions = {row.node.spec: Execution(row.node) for row in plan.rows}
        self.pipeline = pipeline
        self._planned = plan.manifests
        self._cancel_requested = False
        self._followed: dict[str, int] = {}
        self._follow_stop = threading.Event()
        self._drain_lock = threading.Lock()
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        (folder / "stages").mkdir(parents=True, exist_ok=True)

    def cancel(self) -> None:
        """Ask the run to stop: running stages see their flag, nothing new starts; safe in a signal handler."""
        self._cancel_requested = True

    def run(self) -> str:
        """Run to the end and return ``succeeded``, ``failed`` or ``cancelled``."""
        follower = threading.Thread(target=self._follow, name="follower", daemon=True)
        follower.start()
        try:
            while not all(one.status in ENDED for one in self.executions.values()):
                self._start_ready()
                for spec, outcome in self.executor.poll(POLL_S):
                    self._take_outcome(self.executions[spec], outcome)
                if not self._running():
                    self._rest()
        finally:
            self._follow_stop.set()
            follower.join()
            for one in self.executions.values():
                self._release(one)
        statuses = {one.status for one in self.executions.values()}
        if "cancelled" in statuses and self._cancel_requested:
            return "cancelled"
        return "succeeded" if statuses <= {"executed", "cached"} else "failed"

    def _running(self) -> list[Execution]:
        return [one for one in self.executions.values() if one.status == "running"]

    def _rest(self) -> None:
        """Sleep when only other runs can bring news."""
        if any(one.status == "waiting" for one in self.executions.values()):
            time.sleep(POLL_S)

    def _start_ready(self) -> None:
        for one in self.executions.values():
            if one.status not in ("pending", "waiting"):
                continue
            if self._cancel_requested or (
                self.fail_fast and any(other.status == "failed" for other in self.executions.values())
            ):
                self._end(one, "cancelled" if self._cancel_requested else "skipped")
                continue
            parents = [self.executions[spec] for spec in self._needs(one.node)]
            if any(parent.status in ("failed", "skipped", "cancelled") for parent in parents):
                self._end(one, "skipped")
            elif all(parent.manifest is not None for parent in parents):
                self._start(one)

    def _needs(self, node: Node) -> list[str]:
        return [*node.parents, *(one.spec for one in node.facts_from)]

    def _start(self, one: Execution) -> None:
        """Settle a node whose inputs are there: take the stored result, wait for whoever computes it, or submit it."""
        if time.monotonic() < one.next_look_s:
            return
        spec = one.node.spec
        if one.key is None:
            one.payload = key_payload(one.node, self.manifests)
            one.key = digest(one.payload)
        if spec not in self.force:
            manifest = self._planned.get(spec)
            if manifest is None or manifest.key != one.key:
                manifest = self.store.lookup(one.key)
            self._note_problems()
            if manifest is not None:
                self._finish(one, "cached", manifest)
                return
        if any(other.key == one.key and other.status == "running" for other in self.executions.values()):
            self._wait(one, "another stage of this run computes the same result")
            return
        one.lease = self.store.lease(one.key, self.holder)
        if one.lease is None:
            self._wait(one, "another run computes it")
            return
        if spec not in self.force and (manifest := self.store.lookup(one.key)) is not None:
            self._release(one)
            self._finish(one, "cached", manifest)
            return
        self._submit(one)

    def _wait(self, one: Execution, reason: str) -> None:
        if one.status != "waiting":
            self.emit(events.StageWaiting(spec=one.node.spec, reason=reason))
        one.status = "waiting"
        one.next_look_s = time.monotonic() + LEASE_RETRY_S

    def _submit(self, one: Execution) -> None:
        node, spec = one.node, one.node.spec
        assert one.key is not None
        one.attempt += 1
        one.status = "running"
        one.started_s = time.monotonic()
        short = spec[:12]
        task = Task(
            run=self.run_id,
            spec=spec,
            key=one.key,
            payload=one.payload,
            stage=node.stage.name,
            version=node.stage.version,
            entry=node.stage.entry,
            config=node.config,
            inputs=self._task_inputs(node),
            store=self.store.root,
            log=self.folder / "logs" / f"{short}.log",
            events=self.folder / "stages" / f"{short}.{one.attempt}.jsonl",
            cancel=self.folder / "stages" / f"{short}.cancel",
            seed=node.seed,
            workers=node.workers,
            resources={
                "cpus": node.decl.resources.cpus,
                "gpus": node.decl.resources.gpus,
                "memory_gib": node.decl.resources.memory_gib,
                "custom": dict(node.decl.resources.custom),
            },
            replace=spec in self.force,
            driver=self.holder.to_json(),
            environment={"ORCHESTRATOR_KERNELS": json.dumps(node.kernels, sort_keys=True)},
            record={
                **self.record,
                "label": node.label,
                "kernels": node.kernels,
                "executor": self.executor.name,
                "attempt": one.attempt,
            },
        )
        self._followed[str(task.events)] = 0
        self.emit(events.StageStarted(spec=spec, key=one.key, attempt=one.attempt, log=str(task.log)))
        self.executor.submit(task)

    def _task_inputs(self, node: Node) -> dict[str, Any]:
        inputs: dict[str, Any] = {}
        for port, held in node.inputs.items():
            if isinstance(held, list):
                inputs[port] = [(one.label, one.axes, output_of(one, self.manifests)) for one in held]
            else:
                inputs[port] = None if held is None else output_of(held, self.manifests)
        if node.stage.facts_port:
            inputs[node.stage.facts_port] = [
                {**row, "stage": one.label, "axes": json.dumps(one.axes, sort_keys=True)}
                for one in node.facts_from
                for row in self.manifests[one.spec].facts
            ]
        return inputs

    def _take_outcome(self, one: Execution, outcome: dict[str, Any]) -> None:
        one.seconds = outcome["seconds"] or time.monotonic() - one.started_s
        if outcome["status"] in ("executed", "cached"):
            manifest = storage.Manifest.from_json(outcome["manifest"])
            if manifest.record.get("nondeterministic"):
                self.emit(
                    events.Note(
                        text=f"{one.node.label} gave other bytes than the stored result of the same key; the stored one is kept"
                    )
                )
            self._finish(one, outcome["status"], manifest)
            return
        error = outcome["error"]
        if one.timed_out:
            error = {
                "type": "Timeout",
                "message": f"the stage ran longer than timeout_s = {one.node.decl.timeout_s:g}",
                "hint": "raise timeout_s, or give it more resources",
                "traceback": "",
            }
        elif self._cancel_requested or outcome["status"] == "cancelled":
            # Whatever a stage says after it was asked to stop (or was killed for not stopping) is no failure of its own.
            self._end(one, "cancelled" if self._cancel_requested else "failed", error)
            return
        error["log_tail"] = self._log_tail(one)
        if one.attempt <= one.node.decl.retries and not self._cancel_requested:
            self.emit(events.StageRetried(spec=one.node.spec, attempt=one.attempt, error=error))
            (self.folder / "stages" / f"{one.node.spec[:12]}.cancel").unlink(missing_ok=True)
            one.timed_out, one.cancelled_s = False, 0.0
            self._submit(one)
            return
        self._end(one, "failed", error)

    def _finish(self, one: Execution, status: str, manifest: storage.Manifest) -> None:
        one.manifest = manifest
        self.manifests[one.node.spec] = manifest
        self._end(one, status)

    def _end(self, one: Execution, status: str, error: dict[str, Any] | None = None) -> None:
        one.status = status
        one.error = error
        self._release(one)
        self._drain()
        manifest = one.manifest
        self.emit(
            events.StageFinished(
                spec=one.node.spec,
                key=one.key,
                status=status,
                seconds=one.seconds,
                error=error,
                outputs=self.output_rows(manifest) if manifest else {},
                metrics=dict(manifest.metrics) if manifest else {},
                figures={name: str(self.store.object_path(entry)) for name, entry in manifest.figures.items()}
                if manifest
                else {},
                facts=list(manifest.facts) if manifest else [],
            )
        )

    def output_rows(self, manifest: storage.Manifest) -> dict[str, Any]:
        """Return a manifest's outputs as the JSON of DESIGN section 7."""
        return {
            name: {
                "type": output.type,
                "digest": output.digest,
                "path": str(self.store.open(output).path),
                "meta": output.meta,
            }
            for name, output in manifest.outputs.items()
        }

    def _release(self, one: Execution) -> None:
        if one.lease is not None:
            one.lease.release()
            one.lease = None

    def _note_problems(self) -> None:
        for problem in self.store.take_problems():
            self.emit(events.Note(text=problem))

    def _log_tail(self, one: Execution) -> str:
        log = self.folder / "logs" / f"{one.node.spec[:12]}.log"
        if not log.is_file():
            return ""
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def _watch_running(self) -> None:
        """Set cancel flags, and end what ignores them for longer than the grace period."""
        now_s = time.monotonic()
        for one in self._running():
            timeout_s = one.node.decl.timeout_s
            if timeout_s is not None and not one.cancelled_s and now_s - one.started_s > timeout_s:
                one.timed_out = True
            if (self._cancel_requested or one.timed_out) and not one.cancelled_s:
                one.cancelled_s = now_s
                (self.folder / "stages" / f"{one.node.spec[:12]}.cancel").touch()
            if one.cancelled_s and now_s - one.cancelled_s > CANCEL_GRACE_S:
                one.cancelled_s = now_s
                self.executor.kill(one.node.spec)

    def _follow(self) -> None:
        """Forward what running stages report; a thread of its own, because the local executor works in the engine's."""
        while not self._follow_stop.wait(FOLLOW_S):
            self._watch_running()
            self._drain()

    def _drain(self) -> None:
        for path in list(self._followed):
            with self._drain_lock:
                self._drain_file(path)

    def _drain_file(self, path: str) -> None:
        file = Path(path)
        if not file.is_file():
            return
        with file.open("rb") as opened:
            opened.seek(self._followed[path])
            content = opened.read()
        complete = content[: content.rfind(b"\n") + 1]
        self._followed[path] += len(complete)
        spec = next((spec for spec in self.executions if spec.startswith(file.name.split(".")[0])), None)
        if spec is None:
            return
        for line in complete.splitlines():
            record = json.loads(line)
            kind = record.pop("event")
            if kind == "progress":
                self.emit(events.StageProgress(spec=spec, **record))
            elif kind == "metrics":
                self.emit(events.StageMetrics(spec=spec, **record))
