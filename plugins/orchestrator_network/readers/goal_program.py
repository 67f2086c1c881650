"""From a GOAL schedule to a program for the engine.

A calculation holds its cpu of its rank; a send and a receive are posted by theirs, so they wait while it computes and
take none of its time. A send is over when its last bit has left (it never waits for its receive), a receive when it
has been posted and the message has arrived. Sends of one rank share its links, whichever nic they name; a message
from a rank to itself takes no time. The overheads of LogGOPS (o, g, G, O) are left to the wire and the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from orchestrator_network.errors import WorkloadError
from orchestrator_network.program import Program
from orchestrator_network.readers.goal import CALC, RECV, SEND, Goal
from orchestrator_network.topology import Topology
from orchestrator_network.wire import Wire

PS_PER_NS = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class LoweredGoal:
    """A program, and for every operation of the schedule the one that starts and the one that finishes it."""

    program: Program
    first: np.ndarray
    last: np.ndarray


def lower_goal(goal: Goal, topology: Topology, wire: Wire) -> LoweredGoal:
    """Return the engine program of a schedule, rank r on host r; WorkloadError when the hosts are too few."""
    if len(goal.ranks) > topology.hosts:
        raise WorkloadError(f"{goal.path} has {len(goal.ranks)} ranks, {topology.name} has {topology.hosts} hosts")
    kind, amount, peer, cpu = (
        np.concatenate([getattr(rank, name) for rank in goal.ranks]) for name in ("kind", "amount", "peer", "cpu")
    )
    rank = np.repeat(np.arange(len(goal.ranks)), np.diff(goal.offsets))
    if not len(kind):
        raise WorkloadError(f"{goal.path} has no operation")
    # A calculation is one operation, a send is post, transfer and arrival, a receive is post and end.
    widths = np.array([1, 3, 2])[kind]
    first = np.cumsum(widths) - widths
    last = first + (kind != CALC)
    count = int(widths.sum())
    delay_ps, bits = np.zeros(count, np.int64), np.zeros(count)
    row, stream, on_network = np.full(count, -1), np.full(count, -1), np.zeros(count, bool)
    delay_ps[first[kind == CALC]] = amount[kind == CALC] * PS_PER_NS
    stream[first] = np.unique(np.stack([rank, cpu]), axis=1, return_inverse=True)[1].ravel()
    sends = np.flatnonzero(kind == SEND)
    loads = csr_array((0, len(topology.network.trunk_bps)))
    away = sends[rank[sends] != peer[sends]]
    if len(away):
        pairs, of_send = np.unique(np.stack([rank[away], peer[away]]), axis=1, return_inverse=True)
        routes = topology.routes(pairs[0], pairs[1])
        loads, of_send = routes.share, of_send.ravel()
        each = routes.of(of_send)
        transfer = first[away] + 1
        bits[transfer] = wire.bits(np.ceil(amount[away] / topology.planes))
        row[transfer] = of_send
        delay_ps[transfer + 1] = wire.arrival_ps(each, bits[transfer], topology.link_bps)
        on_network[transfer + 1] = True
    receives = np.flatnonzero(kind == RECV)
    finish = [(last[sends] - 1, last[sends]), (last[sends], last[sends] + 1), (first[receives], last[receives])]
    finish.append((last[goal.messages[:, 0]] + 1, last[goal.messages[:, 1]]))
    start = []
    for one, offset in zip(goal.ranks, goal.offsets.tolist(), strict=False):
        earlier, later = (one.finish_edges + offset).T
        finish.append((last[earlier], first[later]))
        earlier, later = (one.start_edges + offset).T
        start.append((first[earlier], first[later]))
    program = Program(
        delay_ps=delay_ps,
        on_network=on_network,
        bits=bits,
        row=row,
        start_ps=np.zeros(count, np.int64),
        acquire=stream,
        release=stream,
        finish_edges=_edges(finish),
        start_edges=_edges(start),
        loads=loads,
    )
    return LoweredGoal(program=program, first=first, last=last)


def _edges(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return distinct edges (earlier, later), int64 [n, 2]."""
    return np.unique(np.concatenate([np.stack(pair, axis=1) for pair in pairs]).astype(np.int64), axis=0)
