"""The worker processes of one stage on one machine: spawned, watched, and gone when the stage is."""

from __future__ import annotations

import multiprocessing as mp
import queue
import uuid
from typing import TYPE_CHECKING, Any

from orchestrator.context import Context, GangMember
from orchestrator.errors import Cancelled, StageError
from orchestrator.worker import describe, set_threads, watch

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_INTERVAL_S = 0.2
JOIN_TIMEOUT_S = 10.0


def member_of(context: Context, rank: int, init_method: str) -> GangMember:
    """Make the member of a rank from the stage's context."""
    return GangMember(
        rank=rank,
        size=context.workers,
        init_method=init_method,
        scratch=context.scratch,
        seed=context.seed,
        threads=context.threads,
        events=context.events_path,
        cancel=context.cancel_path,
    )


def run_member(
    member: dict[str, Any], function: Callable[..., Any], arguments: tuple[Any, ...], driver: dict[str, Any] | None
) -> dict[str, Any]:
    """Run one rank and return its result or its error as data; called in the worker process."""
    made = GangMember(**member)
    watch(driver)
    set_threads(made.threads)
    try:
        result = function(made, *arguments)
    except Exception as error:
        return {"rank": made.rank, "error": describe(error)}
    return {
        "rank": made.rank,
        "result": result,
        "report": {"metrics": made.final_metrics, "history": made.history, "facts": made.fact_rows},
    }


def member_fields(member: GangMember, context: Context) -> dict[str, Any]:
    """Return what :func:`run_member` needs to make the member again in another process."""
    return {
        "rank": member.rank,
        "size": member.size,
        "init_method": member.init_method,
        "scratch": member.scratch,
        "seed": member.seed,
        "threads": member.threads,
        "events": context.events_path,
        "cancel": context.cancel_path,
    }


def collect(replies: list[dict[str, Any]]) -> list[Any]:
    """Return (result, report) by rank; raises what the first failed rank raised."""
    replies = sorted(replies, key=lambda reply: reply["rank"])
    failed = [reply for reply in replies if "error" in reply]
    if failed:
        error = failed[0]["error"]
        if error["type"] == "Cancelled":
            raise Cancelled(error["message"])
        detail = error["traceback"] or error["hint"]
        raise StageError(
            f"worker {failed[0]['rank']} of {len(replies)} raised {error['type']}: {error['message']}", detail
        )
    return [(reply["result"], reply["report"]) for reply in replies]


def _process(
    replies: Any,
    member: dict[str, Any],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    driver: dict[str, Any] | None,
) -> None:
    replies.put(run_member(member, function, arguments, driver))


def launch_processes(
    context: Context, function: Callable[..., Any], arguments: tuple[Any, ...], driver: dict[str, Any] | None
) -> list[Any]:
    """Run ``function`` in ``context.workers`` spawned processes; the first failure ends them all."""
    spawn = mp.get_context(
        "spawn"
    )  # forked processes inherit threads of numerical libraries in the middle of their work
    replies = spawn.Queue()
    init_method = f"file://{context.scratch}/rendezvous-{uuid.uuid4().hex}"
    processes = []
    for rank in range(context.workers):
        fields = member_fields(member_of(context, rank, init_method), context)
        processes.append(
            spawn.Process(target=_process, args=(replies, fields, function, arguments, driver), daemon=True)
        )
    for process in processes:
        process.start()
    received: list[dict[str, Any]] = []
    try:
        while len(received) < len(processes):
            try:
                received.append(replies.get(timeout=POLL_INTERVAL_S))
            except queue.Empty:
                answered = {reply["rank"] for reply in received}
                dead = [
                    rank for rank, one in enumerate(processes) if one.exitcode not in (None, 0) and rank not in answered
                ]
                if dead:
                    raise StageError(
                        f"worker {dead[0]} of {len(processes)} died with exit code {processes[dead[0]].exitcode}"
                    ) from None
            if received and "error" in received[-1]:
                break
        return collect(received)
    finally:
        for process in processes:
            process.join(timeout=0 if any("error" in reply for reply in received) else JOIN_TIMEOUT_S)
            if process.is_alive():
                process.kill()
                process.join()
        replies.close()
