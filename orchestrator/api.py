"""Run a recipe and read its results: what the command line and notebooks call."""

from __future__ import annotations

import datetime
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orchestrator_storage as storage
from orchestrator import events
from orchestrator.engine import Engine, Execution
from orchestrator.errors import RecipeError
from orchestrator.executors.base import Executor, prove_feasible
from orchestrator.home import Home, RunInfo
from orchestrator.pipeline import Node, Pipeline, build_pipeline
from orchestrator.plan import Plan, make_plan
from orchestrator.plugins import Registry, installed
from orchestrator.recipe import Recipe, compose
from orchestrator.runs import Run, close_dead_runs, open_run, write_json

if TYPE_CHECKING:
    from orchestrator.events import Observer

__all__ = ["Prepared", "RunResult", "open_run", "prepare", "run"]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A recipe composed, expanded and planned against a store; nothing has run."""

    home: Home
    registry: Registry
    recipes: list[Recipe]
    pipeline: Pipeline
    store: storage.Store
    plan: Plan
    force: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run left; ``to_json`` is the object that ``run --json`` prints last."""

    run: str
    status: str
    seconds: float
    report: str
    path: Path
    points: list[dict[str, Any]]
    multirun: bool = False
    failures: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the object of DESIGN section 7: one run, or ``points`` for a sweep."""
        if self.multirun:
            return {"status": self.status, "seconds": self.seconds, "points": self.points}
        return {name: value for name, value in self.points[0].items() if name != "overrides"}

    def __getitem__(self, label: str) -> Any:
        """Return a stage's family or member, like :func:`open_run`."""
        return open_run(self.run, self.path.parents[1])[label]


def prepare(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    home: Path | str | None = None,
    multirun: bool = False,
    until: Sequence[str] = (),
    rerun_from: Sequence[str] = (),
    verify: bool = False,
    registry: Registry | None = None,
) -> Prepared:
    """Compose, expand and plan a recipe; raises the error that a user should see for whatever is wrong with it."""
    place = Home.locate(home)
    registry = registry or installed()
    recipes = compose(recipe, list(overrides), registry, multirun=multirun)
    pipeline = build_pipeline(recipes, registry)
    only = pipeline.ancestors(node.spec for label in until for node in pipeline.select(label)) if until else None
    force = (
        pipeline.descendants(node.spec for label in rerun_from for node in pipeline.select(label))
        if rerun_from
        else set()
    )
    store = storage.Store(place.store, registry.types)
    plan = make_plan(pipeline, store, only=only, force=force, verify=verify)
    return Prepared(
        home=place,
        registry=registry,
        recipes=recipes,
        pipeline=pipeline,
        store=store,
        plan=plan,
        force=frozenset(force),
    )


def run(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    home: Path | str | None = None,
    executor: str = "ray",
    multirun: bool = False,
    until: Sequence[str] = (),
    rerun_from: Sequence[str] = (),
    verify: bool = False,
    local_cpus: float | None = None,
    address: str | None = None,
    quiet: bool = False,
    json: bool = False,
    argv: Sequence[str] = (),
) -> RunResult:
    """Run a recipe and return its result; a failed or cancelled run returns too, with that ``status``.

    ``executor`` is ``ray`` or ``local``; ``until`` stops after these stages, ``rerun_from`` runs these and what depends on them again.
    Raises RecipeError, InfeasibleResources and the like before anything runs.
    """
    started_s = time.time()
    place, registry = Home.locate(home), installed()
    registry.manager.hook.orchestrator_before_planning(home=place)
    prepared = prepare(
        recipe,
        overrides,
        home=place.path,
        multirun=multirun,
        until=until,
        rerun_from=rerun_from,
        verify=verify,
        registry=registry,
    )
    engine_executor = _executor(executor, local_cpus, address, prepared.home)
    would_run = [row.node for row in prepared.plan.rows if row.action == "run"]
    if would_run:
        prove_feasible(would_run, engine_executor.shapes())
    identity = _run_id(prepared.recipes[0].name)
    folder = prepared.home.runs / identity.replace("/", "-")
    folder.mkdir(parents=True)
    record = _open_record(folder, identity, prepared, overrides, argv, executor, started_s)
    close_dead_runs(prepared.home)
    _sweep_leases(prepared.store)
    info = RunInfo(
        run=identity,
        path=folder,
        home=prepared.home,
        tracking_uri=prepared.home.tracking_uri,
        experiment=prepared.recipes[0].experiment,
        json=json,
        quiet=quiet,
    )
    observers = [one for made in prepared.registry.manager.hook.orchestrator_observers(run=info) for one in made]
    emitter = _Emitter(observers)
    engine = Engine(
        prepared.pipeline,
        prepared.plan,
        prepared.store,
        engine_executor,
        emitter.emit,
        run=identity,
        folder=folder,
        force=prepared.force,
        fail_fast=any(one.run.fail_fast for one in prepared.recipes),
        record=_provenance(),
    )
    status = "failed"
    prepared.store.root_add(identity, keys=[], digests=[])
    try:
        emitter.emit(_run_started(identity, prepared, executor, argv, info))
        for problem in prepared.plan.problems:
            emitter.emit(events.Note(text=problem))
        with _signals(engine):
            status = engine.run()
    finally:
        engine_executor.stop()
        prepared.store.root_add(
            identity, keys=[one.key for one in engine.executions.values() if one.manifest and one.key], digests=[]
        )
        seconds = time.time() - started_s
        emitter.emit(events.RunFinished(run=identity, status=status, seconds=seconds))
        result = _settle(identity, status, seconds, folder, prepared, engine, multirun, emitter)
        write_json(folder / "run.json", record | {"status": status, "finished_s": time.time()})
    return result


class _Emitter:
    """Hands events to the observers, one at a time; an observer that raises is dropped with a note, never the run."""

    def __init__(self, observers: list[Observer]) -> None:
        self._observers = observers
        self._lock = threading.Lock()

    def emit(self, event: events.Event) -> None:
        with self._lock:
            for observer in list(self._observers):
                try:
                    observer.notify(event)
                except Exception as error:
                    self._observers.remove(observer)
                    print(f"observer {type(observer).__name__} failed and is left out: {error!r}", file=sys.stderr)  # noqa: T201

    def close(self) -> None:
        for observer in self._observers:
            try:
                observer.close()
            except Exception as error:
                print(f"observer {type(observer).__name__} failed to close: {error!r}", file=sys.stderr)  # noqa: T201


def _executor(name: str, cpus: float | None, address: str | None, home: Home) -> Executor:
    if name == "ray":
        from orchestrator.executors.ray import RayExecutor

        return RayExecutor(cpus, address, home.path)
    if name == "local":
        from orchestrator.executors.local import LocalExecutor

        return LocalExecutor(cpus)
    raise RecipeError(f"unknown executor {name!r}", "known: local, ray")


def _run_id(recipe: str) -> str:
    """Return a run's name: readable, sortable, unique."""
    stamp = datetime.datetime.now(tz=datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return f"{recipe.replace('/', '-')}-{stamp}-{secrets.token_hex(2)}"


def _open_record(
    folder: Path,
    identity: str,
    prepared: Prepared,
    overrides: Sequence[str],
    argv: Sequence[str],
    executor: str,
    started_s: float,
) -> dict[str, Any]:
    record = {
        "run": identity,
        "recipe": prepared.recipes[0].name,
        "overrides": list(overrides),
        "argv": list(argv),
        "executor": executor,
        "status": "running",
        "driver": storage.Holder.here(identity).to_json(),
        "started_s": started_s,
        "finished_s": None,
    }
    write_json(folder / "run.json", record)
    (folder / "recipe.yaml").write_text(prepared.recipes[0].yaml, encoding="utf-8")
    return record


def _sweep_leases(store: storage.Store) -> None:
    """Take away what killed drivers left: their leases, and the scratch of what they had already committed."""
    for key in store.leases.remove_dead():
        if store.peek(key) is not None:
            store.remove_scratch(key)


def _provenance() -> dict[str, Any]:
    """Record the code version; a manifest without it could not be reproduced."""
    from orchestrator import __version__

    return {"orchestrator": __version__}


def _run_started(
    identity: str, prepared: Prepared, executor: str, argv: Sequence[str], info: RunInfo
) -> events.RunStarted:
    first = prepared.recipes[0]
    return events.RunStarted(
        run=identity,
        recipe=first.name,
        description=first.description,
        experiment=first.experiment,
        executor=executor,
        argv=list(argv),
        home=str(prepared.home.path),
        tracking_uri=info.tracking_uri,
        points=[
            {"index": i, "overrides": list(one.overrides), "params": one.params, "recipe_yaml": one.yaml}
            for i, one in enumerate(prepared.recipes)
        ],
        nodes=[
            _node_json(row.node) | {"action": row.action, "reason": row.reason, "key": row.key}
            for row in prepared.plan.rows
        ],
    )


def _node_json(node: Node) -> dict[str, Any]:
    return {
        "spec": node.spec,
        "uses": node.stage.name,
        "version": node.stage.version,
        "doc": node.stage.doc.partition("\n")[0],
        "cites": list(node.stage.cites),
        "config": node.payload["config"],
        "parents": node.parents,
        "workers": node.workers,
        "resources": {"cpus": node.decl.resources.cpus, "gpus": node.decl.resources.gpus},
        "labels": [{"point": one.point, "name": one.name, "axes": one.axes, "label": one.label} for one in node.names],
    }


@contextmanager
def _signals(engine: Engine) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM cancel the run and the second end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: Any) -> None:
        engine.cancel()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    saved = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)


def _settle(
    identity: str,
    status: str,
    seconds: float,
    folder: Path,
    prepared: Prepared,
    engine: Engine,
    multirun: bool,
    emitter: _Emitter,
) -> RunResult:
    """Write the report, close the observers, write result.json, and return the result."""
    from orchestrator.report import write_report

    write_report(folder, prepared.home)  # first: tracking attaches it
    emitter.close()
    tracked = Run.tracking(folder)
    report = folder / "report.html"
    points = []
    for index, recipe in enumerate(prepared.recipes):
        rows = list(_stage_rows(index, prepared.pipeline, engine))
        point_status = (
            status
            if status == "cancelled" or len(prepared.recipes) == 1
            else ("failed" if any(row["status"] in ("failed", "skipped", "cancelled") for row in rows) else "succeeded")
        )
        points.append(
            {
                "overrides": list(recipe.overrides),
                "run": identity,
                "status": point_status,
                "mlflow_run_id": tracked.get(str(index)),
                "report": str(report),
                "seconds": round(seconds, 3),
                "stages": rows,
            }
        )
    failures = [
        {
            "label": one.node.label,
            "key": one.key,
            "log": str(folder / "logs" / f"{one.node.spec[:12]}.log"),
            **(one.error or {}),
        }
        for one in engine.executions.values()
        if one.status == "failed"
    ]
    result = RunResult(
        run=identity,
        status=status,
        seconds=round(seconds, 3),
        report=str(report),
        path=folder,
        points=points,
        multirun=multirun,
        failures=failures,
    )
    write_json(folder / "result.json", result.to_json())
    return result


def _stage_rows(point: int, pipeline: Pipeline, engine: Engine) -> Iterator[dict[str, Any]]:
    """Yield the stage objects of one point: topological order, then by axes; the first name of a node is the executed one."""
    for members in pipeline.members[point].values():
        for spec in dict.fromkeys(members):
            one = engine.executions.get(spec)
            if one is None:
                continue
            for name in one.node.names:
                if name.point == point and spec in members and pipeline.members[point].get(name.name) is members:
                    yield _stage_row(name, one, first=name is one.node.names[0], engine=engine)


def _stage_row(name: Any, one: Execution, *, first: bool, engine: Engine) -> dict[str, Any]:
    status = one.status if first or one.status != "executed" else "cached"
    outputs: Mapping[str, Any] = engine.output_rows(one.manifest) if one.manifest else {}
    return {
        "name": name.name,
        "axes": name.axes,
        "label": name.label,
        "status": "skipped" if status == "cancelled" else status,
        "key": one.key,
        "seconds": round(one.seconds, 3) if status == "executed" else 0.0,
        "outputs": {output: {key: row[key] for key in ("type", "digest", "path")} for output, row in outputs.items()},
        "metrics": dict(one.manifest.metrics) if one.manifest else {},
    }
