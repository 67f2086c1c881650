"""What the engine asks of an executor, and the proof that a machine can hold a stage."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.errors import InfeasibleResources

if TYPE_CHECKING:
    from orchestrator.pipeline import Node
    from orchestrator.stage import Resources
    from orchestrator.worker import Task

GIB = 2**30


@dataclass(frozen=True)
class NodeShape:
    """What one machine offers; memory in GiB."""

    name: str
    cpus: float
    gpus: float = 0.0
    memory_gib: float = math.inf
    custom: dict[str, float] = field(default_factory=dict)

    def bundles(self, resources: Resources) -> float:
        """How many processes with these resources fit here at once."""
        asked = _amounts(resources)
        offered = {"cpus": self.cpus, "gpus": self.gpus, "memory_gib": self.memory_gib, **self.custom}
        return min(
            (math.floor(offered.get(name, 0.0) / amount + 1e-9) for name, amount in asked.items()), default=math.inf
        )


class Executor(Protocol):
    """Runs tasks; the engine polls it from one thread."""

    name: str

    def shapes(self) -> list[NodeShape]:
        """Describe the machines, without starting anything where they are known."""
        ...

    def submit(self, task: Task) -> None: ...

    def poll(self, timeout_s: float) -> list[tuple[str, dict[str, Any]]]:
        """Return the (spec, outcome) of tasks that ended, waiting at most ``timeout_s`` for the first."""
        ...

    def kill(self, spec: str) -> None:
        """End a task that ignored its cancel flag."""
        ...

    def stop(self) -> None: ...


def this_machine(cpus: float | None = None) -> NodeShape:
    """Describe the machine that this process runs on; ``cpus`` overrides what may be used of it."""
    import psutil

    gpus = len([one for one in Path("/dev").glob("nvidia*") if one.name[6:].isdigit()])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = min(gpus, len([one for one in visible.split(",") if one.strip()]))
    available = len(os.sched_getaffinity(0))
    return NodeShape("this machine", float(cpus or available), float(gpus), psutil.virtual_memory().total / GIB)


def prove_feasible(nodes: Iterable[Node], shapes: list[NodeShape]) -> None:
    """Raise InfeasibleResources for the first stage that no state of these machines could run, and say what would fit."""
    for node in nodes:
        resources = node.decl.resources
        room = sum(shape.bundles(resources) for shape in shapes)
        if room >= node.workers:
            continue
        asked = ", ".join(f"{amount:g} {name}" for name, amount in _amounts(resources).items())
        each = f"{node.workers} workers with {asked} each" if node.workers > 1 else asked
        there = "; ".join(f"{shape.name}: {_offer(shape)}" for shape in shapes[:8])
        fix = (
            f"at most {int(room)} such workers fit: set stages.{node.decl.name}.workers={int(room)}"
            if room >= 1
            else f"set stages.{node.decl.name}.resources to what one machine has, or join a larger cluster with --address"
        )
        raise InfeasibleResources(f"stage {node.label} asks for {each}, which can never be placed on {there}", fix)


def _amounts(resources: Resources) -> dict[str, float]:
    amounts = {"cpus": resources.cpus, "gpus": resources.gpus, "memory_gib": resources.memory_gib, **resources.custom}
    return {name: amount for name, amount in amounts.items() if amount > 0}


def _offer(shape: NodeShape) -> str:
    parts = [
        f"{shape.cpus:g} cpus",
        f"{shape.gpus:g} gpus",
        f"{shape.memory_gib:.1f} memory_gib",
        *(f"{n:g} {k}" for k, n in shape.custom.items()),
    ]
    return ", ".join(parts)
