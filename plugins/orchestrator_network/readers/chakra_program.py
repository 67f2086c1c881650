"""From a Chakra trace to a program for the engine.

A rank does one operation of its processor (`is_cpu_op`) and one of its accelerator, computation or memory, at a time.
A send is over when its last bit has left, a receive when it has been reached and the message has arrived. A collective
starts when all of its ranks have reached it; those of one group run one after another, as communicators do. The roots
of a broadcast and a reduce, which a trace does not name, are the first ranks of their groups, and `comm_size` is the
buffer of one rank as `collectives.lower` counts it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from orchestrator_network.collectives import AllReduce
from orchestrator_network.errors import WorkloadError
from orchestrator_network.lowering import CollectiveLowering
from orchestrator_network.program import Program, ProgramBuilder
from orchestrator_network.readers.chakra import COLLECTIVE, COMPUTE, MEM_LOAD, MEM_STORE, SEND, Chakra, ChakraRank
from orchestrator_network.topology import Topology
from orchestrator_network.wire import PS_PER_S, Wire

_LONGEST_S = 10**6


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """What turns work into time where a node has no duration: operations and bytes of memory a second."""

    ops_per_s: float | None = None
    memory_bytes_per_s: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class LoweredChakra:
    """A program, and for every node, all ranks counted, the operation that starts it and the one that finishes it."""

    program: Program
    first: np.ndarray
    last: np.ndarray


def lower_chakra(trace: Chakra, topology: Topology, wire: Wire, allreduce: AllReduce, speeds: Speeds) -> LoweredChakra:
    """Return the engine program of a trace; WorkloadError for too few hosts and for work without a time."""
    if len(trace.ranks) > topology.hosts:
        raise WorkloadError(
            f"{trace.ranks[0].path}:1: the trace has {len(trace.ranks)} ranks, {topology.name} has {topology.hosts} hosts"
        )
    if not trace.offsets[-1]:
        raise WorkloadError(f"{trace.ranks[0].path}:1: the trace has no node")
    builder = ProgramBuilder(len(topology.network.trunk_bps))
    lowering = CollectiveLowering(builder, topology, wire, allreduce)
    first = np.full(int(trace.offsets[-1]), -1)
    streams: defaultdict[tuple[str, int | str], int] = defaultdict(builder.stream)
    for rank, (nodes, offset) in enumerate(zip(trace.ranks, trace.offsets.tolist(), strict=False)):
        for row in np.flatnonzero((nodes.type != COLLECTIVE) & (nodes.type != SEND)).tolist():
            delay_ps = node_ps(nodes, row, speeds)
            works = nodes.type[row] in (MEM_LOAD, MEM_STORE, COMPUTE)
            stream = streams["cpu" if nodes.is_cpu_op[row] else "accelerator", rank] if works else -1
            first[offset + row] = builder.add(delay_ps=delay_ps, acquire=stream, release=stream)
    last = first.copy()
    for source, send, target, receive in trace.messages.tolist():
        move = lowering.message(source, target, int(trace.ranks[source].comm_size[send]))
        sending, receiving = int(trace.offsets[source]) + send, int(trace.offsets[target]) + receive
        first[sending] = last[sending] = builder.add(bits=move.bits, row=move.row)
        arrival = builder.add(delay_ps=move.delay_ps, on_network=True, after=[int(first[sending])])
        last[receiving] = builder.add(after=[arrival, int(first[receiving])])
    for collective in trace.collectives:
        at = trace.offsets[list(collective.ranks)] + np.array(collective.rows)
        stream = streams["group", collective.group]
        begin = builder.add(acquire=stream)
        ends = []
        for chain in lowering.moves(collective.name, collective.size_bytes, np.array(collective.ranks)):
            operation = begin
            for move in chain:
                operation = builder.add(
                    bits=move.bits, row=move.row, delay_ps=move.delay_ps, on_network=True, after=[operation]
                )
            ends.append(operation)
        first[at], last[at] = begin, builder.add(release=stream, after=ends or [begin])
    for nodes, offset in zip(trace.ranks, trace.offsets.tolist(), strict=False):
        earlier, later = (nodes.edges + offset).T
        builder.finish_edges(last[earlier], first[later])
    return LoweredChakra(program=builder.build(), first=first, last=last)


def node_ps(nodes: ChakraRank, row: int, speeds: Speeds) -> int:
    """Return the time of a node, as recorded or from its work; receives and metadata take none of their own."""
    kind = int(nodes.type[row])
    if kind not in (MEM_LOAD, MEM_STORE, COMPUTE):
        return 0
    if nodes.duration_ps[row] > 0:
        return int(nodes.duration_ps[row])
    work, speed, name = (
        (int(nodes.num_ops[row]), speeds.ops_per_s, "num_ops")
        if kind == COMPUTE
        else (int(nodes.tensor_size[row]), speeds.memory_bytes_per_s, "tensor_size")
    )
    if work <= 0:
        return 0
    if not speed:
        needed = "ops_per_s" if kind == COMPUTE else "memory_bytes_per_s"
        raise WorkloadError(f"{nodes.place(row)}: the node has {name} {work} and no duration; give {needed}")
    takes_s = work / speed
    if not takes_s < _LONGEST_S:
        raise WorkloadError(
            f"{nodes.place(row)}: the node has {name} {work}, {takes_s:.3g} s at {speed:.3g} a second; times are counted up to "
            f"{_LONGEST_S:.0e} s, give a faster one"
        )
    return round(takes_s * PS_PER_S)
