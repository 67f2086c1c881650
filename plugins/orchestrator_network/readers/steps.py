"""Schedules and traces of other tools as training steps: the two tables of a `Traffic` artifact.

What is carried this way takes every road that a training step of ours takes: packet by packet, over any topology, with
any all-reduce. Messages and collectives are numbered, so that each send meets the receive, and each rank the others,
that the reader has found.

A rank of a training step computes one operation at a time. A file whose rank computes on several processors (the cpus of
GOAL, the host and the accelerator of Chakra) is refused unless its operations shall take turns (``serialize``); those
that take no time take no turn. Sends and receives wait for what they require alone: in GOAL they also wait while their
cpu computes, which `Goal.program` keeps.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator_network.errors import WorkloadError
from orchestrator_network.readers.chakra import COLLECTIVE, RECV, SEND, Chakra
from orchestrator_network.readers.chakra_program import Speeds, node_ps
from orchestrator_network.readers.goal import CALC, Goal
from orchestrator_network.readers.goal_program import PS_PER_NS
from orchestrator_network.traffic import OPERATIONS, groups_table

_TURNS = "a rank of a training step does one operation at a time: set serialize to let them take turns"


def goal_step(goal: Goal, *, serialize: bool = False) -> tuple[pa.Table, pa.Table]:
    """Return operations and groups of a GOAL schedule; the id of an operation is its number over all ranks.

    A message from a rank to itself takes no time. Raises WorkloadError for a rank that computes on several cpus, unless
    they shall take turns.
    """
    rows = _Rows()
    for rank, own in enumerate(goal.ranks):
        busy = np.unique(own.cpu[(own.kind == CALC) & (own.amount > 0)])
        if len(busy) > 1 and not serialize:
            raise WorkloadError(f"{goal.path}: rank {rank} computes on cpus {_listed(busy)}; {_TURNS}")
    home = np.repeat(np.arange(len(goal.ranks)), np.diff(goal.offsets))
    kind, amount = (np.concatenate([getattr(rank, name) for rank in goal.ranks]) for name in ("kind", "amount"))
    for operation in np.flatnonzero(kind == CALC).tolist():
        rows.compute(operation, int(home[operation]), int(amount[operation]) * PS_PER_NS)
    for tag, (send, receive) in enumerate(goal.messages.tolist()):
        source, target = int(home[send]), int(home[receive])
        if source == target:
            rows.compute(send, source, 0)
            rows.compute(receive, source, 0)
            rows.requires[receive].append(send)
        else:
            rows.add(send, source, "send", peer=target, bytes=int(amount[send]), tag=tag)
            rows.add(receive, target, "recv", peer=source, tag=tag)
    for own, offset in zip(goal.ranks, goal.offsets.tolist(), strict=False):
        for edges, required in ((own.finish_edges, rows.requires), (own.start_edges, rows.irequires)):
            for earlier, later in (edges + offset).tolist():
                required[later].append(earlier)
    if not rows.rows:
        raise WorkloadError(f"{goal.path} has no operation")
    return rows.table(), groups_table([])


def chakra_step(
    trace: Chakra,
    *,
    serialize: bool = False,
    ops_per_s: float | None = None,
    memory_bytes_per_s: float | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Return operations and groups of a Chakra trace; the id of an operation is the number of its node over all ranks.

    Nodes without a duration take num_ops / ``ops_per_s`` or tensor_size / ``memory_bytes_per_s``, as in
    `Chakra.program`. Raises WorkloadError for nodes without either, and for a rank that computes on host and
    accelerator, unless they shall take turns.
    """
    rows, speeds = _Rows(), Speeds(ops_per_s=ops_per_s, memory_bytes_per_s=memory_bytes_per_s)
    for rank, (nodes, offset) in enumerate(zip(trace.ranks, trace.offsets.tolist(), strict=False)):
        works = np.zeros(2, bool)
        for row in np.flatnonzero(~np.isin(nodes.type, (SEND, RECV, COLLECTIVE))).tolist():
            takes_ps = node_ps(nodes, row, speeds)
            works[int(nodes.is_cpu_op[row])] |= takes_ps > 0
            rows.compute(offset + row, rank, takes_ps, nodes.name[row])
        if works.all() and not serialize:
            raise WorkloadError(f"{nodes.path}: rank {rank} computes on its host and its accelerator; {_TURNS}")
        for earlier, later in (nodes.edges + offset).tolist():
            rows.requires[later].append(earlier)
    for tag, (source, send, target, receive) in enumerate(trace.messages.tolist()):
        sending, receiving = int(trace.offsets[source]) + send, int(trace.offsets[target]) + receive
        size = int(trace.ranks[source].comm_size[send])
        rows.add(sending, source, "send", peer=target, bytes=size, tag=tag, stage=trace.ranks[source].name[send])
        rows.add(receiving, target, "recv", peer=source, tag=tag, stage=trace.ranks[target].name[receive])
    groups: dict[tuple[str, tuple[int, ...]], int] = {}
    for tag, one in enumerate(trace.collectives):
        group = groups.setdefault((one.group, one.ranks), len(groups))
        for rank, row in zip(one.ranks, one.rows, strict=True):
            rows.add(
                int(trace.offsets[rank]) + row,
                rank,
                "collective",
                collective=one.name,
                group=group,
                bytes=one.size_bytes,
                tag=tag,
                stage=trace.ranks[rank].name[row],
            )
    if not rows.rows:
        raise WorkloadError(f"{trace.ranks[0].path}:1: the trace has no node")
    return rows.table(), groups_table([ranks for _, ranks in groups])


class _Rows:
    """Operations under construction, in any order."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.requires: defaultdict[int, list[int]] = defaultdict(list)
        self.irequires: defaultdict[int, list[int]] = defaultdict(list)

    def add(self, operation: int, rank: int, kind: str, **columns: Any) -> None:
        usual = {"collective": "", "group": -1, "peer": -1, "bytes": 0, "tag": 0, "duration_ps": 0, "stage": ""}
        self.rows[operation] = {"id": operation, "rank": rank, "kind": kind} | usual | columns

    def compute(self, operation: int, rank: int, duration_ps: int, label: str = "") -> None:
        self.add(operation, rank, "compute", duration_ps=duration_ps, stage=label)

    def table(self) -> pa.Table:
        rows = [self.rows[operation] for operation in sorted(self.rows)]
        edges = {"requires": self.requires, "irequires": self.irequires}
        columns = {
            name: [edges[name].get(row["id"], []) if name in edges else row[name] for row in rows]
            for name in OPERATIONS.names
        }
        return pa.Table.from_pydict(columns, schema=OPERATIONS)


def _listed(cpus: np.ndarray) -> str:
    return ", ".join(map(str, cpus[:4].tolist())) + (", ..." if len(cpus) > 4 else "")
