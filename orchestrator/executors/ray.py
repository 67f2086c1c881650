"""The executor on Ray: a private instance on this machine, or a cluster by address.

Ray is imported and started when the first task is submitted, so that a run without work never pays for it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InfeasibleResources, StageError
from orchestrator.executors.base import GIB, NodeShape, this_machine
from orchestrator.executors.gang import collect, member_fields, member_of, run_member
from orchestrator.worker import Task, execute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.context import Context

#: Only small records cross Ray's object store; bulk data goes through the artifact store.
OBJECT_STORE_BYTES = 100 * 2**20
GANG_WAIT_S = 600.0


class RayExecutor:
    """Runs each task in a Ray worker process with the resources that its stage asked for."""

    name = "ray"

    def __init__(self, cpus: float | None = None, address: str | None = None, home: Path | None = None) -> None:
        self._cpus = cpus
        self._address = address or os.environ.get("RAY_ADDRESS") or None
        self._home = home
        self._ray: Any = None
        self._references: dict[Any, str] = {}

    def shapes(self) -> list[NodeShape]:
        """Describe this machine, or the nodes of the cluster that was joined."""
        if self._address is None:
            return [this_machine(self._cpus)]
        self._start()
        return [_shape(node) for node in self._ray.nodes() if node["Alive"]]

    def submit(self, task: Task) -> None:
        """Start a task as soon as its resources are free; Ray queues it until then."""
        self._start()
        coordinator = task.workers > 1
        options: dict[str, Any] = {"num_cpus": 0, "max_retries": 0}
        if not coordinator:
            options |= _options(task.resources)
        remote = self._ray.remote(run_task).options(name=f"{task.stage} {task.key[:12]}", **options)
        self._references[remote.remote(task, list(sys.path))] = task.spec

    def poll(self, timeout_s: float) -> list[tuple[str, dict[str, Any]]]:
        """Return what ended; a worker that died is a failed outcome."""
        if not self._references:
            return []
        ready, _ = self._ray.wait(list(self._references), num_returns=1, timeout=timeout_s)
        return [(self._references.pop(reference), self._outcome(reference)) for reference in ready]

    def kill(self, spec: str) -> None:
        """End the worker process of a task."""
        for reference, held in self._references.items():
            if held == spec:
                # Without force a task that sleeps or computes in C never notices.
                self._ray.cancel(reference, force=True)

    def stop(self) -> None:
        """Shut the private instance down, or leave the cluster."""
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None
        self._references.clear()

    def _outcome(self, reference: Any) -> dict[str, Any]:
        try:
            outcome: dict[str, Any] = self._ray.get(reference)
        except self._ray.exceptions.TaskCancelledError:
            return {
                "status": "cancelled",
                "error": {"type": "Cancelled", "message": "the stage was stopped", "hint": "", "traceback": ""},
                "seconds": 0.0,
            }
        except self._ray.exceptions.RayError as error:
            message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            return {
                "status": "failed",
                "seconds": 0.0,
                "error": {
                    "type": type(error).__name__,
                    "message": f"the worker process died: {message}",
                    "hint": "out of memory and a crash in native code look alike; the stage's log has its last words",
                    "traceback": "",
                },
            }
        return outcome

    def _start(self) -> None:
        if self._ray is not None:
            return
        # Set before the import: Ray reads them once. Its banner and usage statistics are not for a tool that users script.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # the stages are the work, not something beside it
        import ray

        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
        if self._address is None:
            machine = this_machine(self._cpus)
            settings |= {"address": "local", "num_cpus": int(machine.cpus), "object_store_memory": OBJECT_STORE_BYTES}
            if not machine.gpus:
                settings["num_gpus"] = 0
        else:
            settings |= {"address": self._address}
            settings.pop("include_dashboard")
        try:
            with _own_signals():
                ray.init(**settings)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            where = f"the cluster at {self._address}" if self._address else "a local Ray instance"
            raise InfeasibleResources(
                f"{where} cannot be used: {str(error).strip().splitlines()[0]}",
                "try --executor local, or another --address",
            ) from error
        self._ray = ray
        if self._address is not None and self._home is not None:
            self._prove_home()

    def _prove_home(self) -> None:
        """Refuse a cluster with nodes that do not see the home: their artifacts would be nowhere."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probe = self._ray.remote(num_cpus=0, max_retries=0)(_sees)
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        seen = self._ray.get(
            [
                probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                    str(self._home)
                )
                for node in nodes
            ]
        )
        blind = [node["NodeManagerHostname"] for node, sees in zip(nodes, seen, strict=True) if not sees]
        if blind:
            raise InfeasibleResources(
                f"the home {str(self._home)!r} is not reachable from: {', '.join(blind)}",
                "put ORCHESTRATOR_HOME on a file system that every node mounts",
            )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep our handlers: Ray installs one for SIGTERM that would end the driver without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


def _sees(path: str) -> bool:
    return (Path(path) / "store").is_dir()


def _shape(node: dict[str, Any]) -> NodeShape:
    offered = dict(node["Resources"])
    known = ("CPU", "GPU", "memory", "object_store_memory")
    custom = {name: amount for name, amount in offered.items() if name not in known and not name.startswith("node:")}
    return NodeShape(
        node["NodeManagerHostname"],
        offered.get("CPU", 0.0),
        offered.get("GPU", 0.0),
        offered.get("memory", 0.0) / GIB,
        custom,
    )


def _options(resources: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": resources["cpus"], "num_gpus": resources["gpus"]}
    if resources["memory_gib"]:
        options["memory"] = int(resources["memory_gib"] * GIB)
    if resources["custom"]:
        options["resources"] = resources["custom"]
    return options


def run_task(task: Task, paths: list[str]) -> dict[str, Any]:
    """Run a task in a Ray worker, its output in the stage's log; ``paths`` is the driver's import path."""
    sys.path[:] = [*paths, *(one for one in sys.path if one not in paths)]
    with _output_to(task.log):
        return execute(task, launch=launch_actors)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Point file descriptors 1 and 2 at the log, so that native code's last words are kept too."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for target, original in zip((1, 2), saved, strict=True):
            os.dup2(original, target)
            os.close(original)
        os.close(file)


class _Worker:
    """One member of a gang as a Ray actor."""

    def where(self) -> tuple[str, list[int], str, int]:
        """Return (node id, GPU ids, address, a free port) for ranking and rendezvous."""
        import socket

        import ray

        address = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        with socket.socket() as probe:
            probe.bind((address, 0))
            port = probe.getsockname()[1]
        return ray.get_runtime_context().get_node_id(), [int(one) for one in ray.get_gpu_ids()], address, port

    def run(
        self,
        member: dict[str, Any],
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        task: Task,
        paths: list[str],
    ) -> dict[str, Any]:
        """Run the member's function with its output in the stage's log."""
        sys.path[:] = [*paths, *(one for one in sys.path if one not in paths)]
        with _output_to(task.log):
            return run_member(member, function, arguments, task.driver)


def launch_actors(task: Task, context: Context, function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
    """Run ``function`` once per worker in a placement group; ranks follow (node, GPU) so that neighbours are close."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    bundle = {
        "CPU": task.resources["cpus"],
        "GPU": task.resources["gpus"],
        "memory": task.resources["memory_gib"] * GIB,
        **task.resources["custom"],
    }
    group = placement_group(
        [{name: amount for name, amount in bundle.items() if amount}] * task.workers, strategy="PACK"
    )
    try:
        if not group.wait(GANG_WAIT_S):
            # Ray leaves such a group pending without a word.
            free = ray.available_resources()  # type: ignore[no-untyped-call]
            raise StageError(
                f"{task.workers} workers with {bundle} could not be placed within {GANG_WAIT_S:.0f} s; free now: {free}"
            )
        options = {"num_cpus": task.resources["cpus"], "num_gpus": task.resources["gpus"], "max_restarts": 0}
        actors: list[Any] = [
            ray.remote(_Worker)
            .options(
                **options,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
            )
            .remote()
            for index in range(task.workers)
        ]
        places = ray.get([actor.where.remote() for actor in actors])
        order = sorted(range(task.workers), key=lambda index: places[index][:2])
        _, _, address, port = places[order[0]]
        pending = {}
        for rank, index in enumerate(order):
            fields = member_fields(member_of(context, rank, f"tcp://{address}:{port}"), context)
            pending[actors[index].run.remote(fields, function, arguments, task, list(sys.path))] = rank
        replies = []
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1)
            rank = pending.pop(ready[0])
            try:
                replies.append(ray.get(ready[0]))
            except ray.exceptions.RayError as error:
                raise StageError(
                    f"worker {rank} of {task.workers} died: {str(error).strip().splitlines()[0]}"
                ) from error
            if "error" in replies[-1]:
                break
        return collect(replies)
    finally:
        remove_placement_group(group)
