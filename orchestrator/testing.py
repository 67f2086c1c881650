"""Tools for plugin authors' tests: run one stage function like an executor would, and the contract as test classes."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orchestrator_storage as storage
from orchestrator.context import Context
from orchestrator.convert import build
from orchestrator.key import digest, encode
from orchestrator.plugins import installed
from orchestrator.stage import Facts, spec_of
from orchestrator.suites import PluginContract, StageContract
from orchestrator.worker import THREAD_VARIABLES, set_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["PluginContract", "StageContract", "StageRun", "run_stage"]


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """What a stage left behind: committed outputs and everything that it reported."""

    outputs: dict[str, storage.Artifact]
    metrics: dict[str, float]
    history: list[dict[str, Any]]
    facts: list[dict[str, Any]]
    figures: dict[str, Path]
    seconds: float
    manifest: storage.Manifest


def run_stage(
    function: Callable[..., Any],
    config: Any = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    home: Path,
    seed: int = 0,
    workers: int = 1,
    cpus: float = 1.0,
    facts: list[dict[str, Any]] | None = None,
    axes: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
) -> StageRun:
    """Run one stage function on artifacts and commit its outputs to a store under ``home``.

    ``config`` is the config dataclass or a mapping as a recipe would write it; ``inputs`` holds artifacts (a mapping of them for a
    ``dict`` port), ``axes`` the coordinates per ``dict`` port and label, ``facts`` the rows for a Facts port. As in a run,
    numerical libraries have ``cpus`` threads, here and in every worker, so that the bytes do not depend on who does the work.
    """
    spec = spec_of(function)
    registry = installed()
    store = storage.Store(home / "store", registry.types)
    if spec.config is not None:
        config = build(spec.config, config if config is not None else {}, spec.name, registry.components)
    given = dict(inputs or {})
    said = axes or {}
    wired = {
        name: {label: said.get(name, {}).get(label, {}) for label in (held if isinstance(held, dict) else [name])}
        for name, held in given.items()
        if held is not None
    }
    spec.check_wiring(config, wired, spec.name)
    identity = {name: _identity(held) for name, held in given.items()}
    payload = {"stage": spec.name, "config": encode(config), "inputs": identity, "seed": seed}
    key = digest(payload)
    started_s = time.time()
    context = Context(
        scratch=store.scratch(key),
        seed=seed,
        workers=workers,
        threads=max(1, int(cpus)),
        axes=axes,
        launch=_launch_local,
    )
    arguments = {name: Facts(list(facts or [])) if port.facts else given.get(name) for name, port in spec.ports.items()}
    with _bound(context.threads):
        returned = function(context, *(() if spec.config is None else (config,)), **arguments)
    outputs = dict(zip(spec.outputs, returned if hasattr(returned, "_fields") else (returned,), strict=True))
    manifest = store.commit(
        key=key,
        spec=key,
        stage=spec.name,
        version=spec.version,
        payload=payload,
        outputs=outputs,
        facts=context.fact_rows,
        metrics=context.final_metrics,
        figures=context.figures,
        record={},
        replace=True,
    )
    return StageRun(
        outputs={name: store.open(output) for name, output in manifest.outputs.items()},
        metrics=dict(manifest.metrics),
        history=context.history,
        facts=list(manifest.facts),
        figures=dict(context.figures),
        seconds=time.time() - started_s,
        manifest=manifest,
    )


@contextmanager
def _bound(threads: int) -> Iterator[None]:
    """Bind the numerical libraries of this process to a number of threads for a while."""
    variables = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else os.cpu_count() or 1
    set_threads(threads)
    try:
        yield
    finally:
        set_threads(before)
        for name, value in variables.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _identity(held: Any) -> Any:
    if isinstance(held, dict):
        return {label: one.digest for label, one in held.items()}
    return None if held is None else held.digest


def _launch_local(context: Context, function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
    from orchestrator.executors.gang import launch_processes

    return launch_processes(context, function, arguments, driver=None)
