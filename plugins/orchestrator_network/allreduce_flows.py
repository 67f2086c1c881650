"""All-reduces as flows that wait for one another, message by message.

`collectives` moves equal steps in lockstep, which is exact on links that all ranks share alike; here every message is
a flow of its own, so that stragglers, other traffic and unequal links act on each. A message carries bytes ``first``
to ``last`` of the buffer; it is added to what its target has there (``adds``) or replaces it, and it waits for all
messages whose content it passes on. Over p ranks and S bytes:

    ring                  2 p (p - 1) flows of S / p        2 (p - 1) one after the other
    recursive doubling    p log2(p) flows of S              log2(p), and 2 more when p is no power of two
    double binary tree    4 (p - 1) flows of S / 2, in pieces; every rank is inside of one tree at most (Sanders,
                          Speck and Träff 2009)
    hierarchical          rings within servers, then between equal places of all servers, then within servers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from orchestrator_network.errors import WorkloadError
from orchestrator_network.workload_rules import check_allreduce
from orchestrator_network.workloads import Workload, flows

_Span = tuple[int, int]  # bytes of the buffer, first and one after the last


@dataclass(frozen=True, kw_only=True)
class Message:
    """Bytes ``first`` to ``last`` (exclusive) from rank to rank; ``after`` are numbers of earlier messages."""

    source: int
    target: int
    first: int
    last: int
    adds: bool
    after: tuple[int, ...]


def ring_allreduce(ranks: int, size_bytes: int) -> Workload:
    """Return the ring all-reduce of ``size_bytes`` over hosts 0 to ``ranks`` - 1 as flows.

    Raises WorkloadError for fewer than 2 ranks, or fewer bytes than ranks.
    """
    return as_workload(ring_messages(ranks, size_bytes))


def recursive_doubling_allreduce(ranks: int, size_bytes: int) -> Workload:
    """Return the recursive-doubling (butterfly) all-reduce over hosts 0 to ``ranks`` - 1 as flows.

    Ranks beyond the largest power of two give their buffers to one below it and get the result back. Raises
    WorkloadError for fewer than 2 ranks or no bytes.
    """
    return as_workload(recursive_doubling_messages(ranks, size_bytes))


def double_binary_tree_allreduce(ranks: int, size_bytes: int, pieces: int = 1) -> Workload:
    """Return the all-reduce over two binary trees, half of the bytes each, over hosts 0 to ``ranks`` - 1 as flows.

    Each half goes up and down in ``pieces``, one after the other on every edge, which hides the depth of the trees.
    Raises WorkloadError for fewer than 2 ranks, or fewer bytes than pieces.
    """
    return as_workload(double_binary_tree_messages(ranks, size_bytes, pieces))


def hierarchical_allreduce(servers: int, per_server: int, size_bytes: int) -> Workload:
    """Return the all-reduce over ``servers`` of ``per_server`` consecutive hosts each as flows.

    A ring reduce-scatter within every server, a ring all-reduce of every shard over the hosts of one place (a rail),
    and a ring all-gather within every server. Raises WorkloadError for fewer than 2 ranks, or fewer bytes than ranks.
    """
    return as_workload(hierarchical_messages(servers, per_server, size_bytes))


def as_workload(messages: Sequence[Message]) -> Workload:
    """Return messages as flows, number by number; all may start at 0."""
    return flows(
        ((one.source, one.target, one.last - one.first, 0) for one in messages),
        ((number, earlier) for number, one in enumerate(messages) for earlier in one.after),
    )


def ring_messages(ranks: int, size_bytes: int) -> list[Message]:
    """Return the messages of `ring_allreduce`."""
    check_allreduce(ranks, size_bytes, ranks)
    messages: list[Message] = []
    members, spans = range(ranks), _cut((0, size_bytes), ranks)
    done = _reduce_scatter(messages, members, spans, [()] * ranks)
    _all_gather(messages, members, spans, done)
    return messages


def recursive_doubling_messages(ranks: int, size_bytes: int) -> list[Message]:
    """Return the messages of `recursive_doubling_allreduce`."""
    check_allreduce(ranks, size_bytes, 1)
    messages: list[Message] = []
    power = 1 << (ranks.bit_length() - 1)
    arrived: list[tuple[int, ...]] = [()] * ranks

    def send(source: int, target: int, adds: bool) -> tuple[int, int]:
        # Two that exchange their sums meet: who is ready first would otherwise send into what its partner still receives.
        after = (*arrived[source], *arrived[target]) if target < power and source < power else arrived[source]
        messages.append(Message(source=source, target=target, first=0, last=size_bytes, adds=adds, after=after))
        return target, len(messages) - 1

    def round_of(pairs: list[tuple[int, int]], adds: bool) -> None:
        # All send what they had before the round; what arrives in it counts from the next one on.
        for target, number in [send(source, target, adds) for source, target in pairs]:
            arrived[target] = (*arrived[target], number)

    extra = [(rank, rank - power) for rank in range(power, ranks)]
    round_of(extra, adds=True)
    distance = 1
    while distance < power:
        round_of([(rank, rank ^ distance) for rank in range(power)], adds=True)
        distance *= 2
    round_of([(below, above) for above, below in extra], adds=False)
    return messages


def double_binary_tree_messages(ranks: int, size_bytes: int, pieces: int = 1) -> list[Message]:
    """Return the messages of `double_binary_tree_allreduce`."""
    check_allreduce(ranks, size_bytes, 2 * pieces)
    if pieces < 1:
        raise WorkloadError(f"a tree moves at least 1 piece, got {pieces}")
    parent = _parents(ranks)
    # The second tree is the first, mirrored or shifted by one rank, which makes its inner ranks the first one's leaves.
    place = [ranks - 1 - i if ranks % 2 == 0 else (i + 1) % ranks for i in range(ranks)]
    second = [0] * ranks
    for child, above in enumerate(parent):
        second[place[child]] = place[above] if above >= 0 else -1
    messages: list[Message] = []
    for tree, half in zip((parent, second), _cut((0, size_bytes), 2), strict=True):
        _up_and_down(messages, tree, _cut(half, pieces))
    return messages


def hierarchical_messages(servers: int, per_server: int, size_bytes: int) -> list[Message]:
    """Return the messages of `hierarchical_allreduce`."""
    if servers < 1 or per_server < 1:
        raise WorkloadError(f"{servers} servers of {per_server} hosts: both must be at least 1")
    check_allreduce(servers * per_server, size_bytes, servers * per_server)
    messages: list[Message] = []
    shards = _cut((0, size_bytes), per_server)
    done: dict[int, tuple[int, ...]] = {}
    server_ranks = [range(server * per_server, (server + 1) * per_server) for server in range(servers)]
    for ranks in server_ranks:
        done.update(zip(ranks, _reduce_scatter(messages, ranks, shards, [()] * per_server), strict=True))
    for place in range(per_server):
        rail = range(place, servers * per_server, per_server)
        spans = _cut(shards[(place + 1) % per_server], servers)
        reduced = _reduce_scatter(messages, rail, spans, [done[rank] for rank in rail])
        done.update(zip(rail, _all_gather(messages, rail, spans, reduced), strict=True))
    for ranks in server_ranks:
        _all_gather(messages, ranks, shards, [done[rank] for rank in ranks])
    return messages


def _cut(span: _Span, parts: int) -> list[_Span]:
    """Cut a span into parts that differ by one byte at most."""
    first, size = span[0], span[1] - span[0]
    edges = [first + size * i // parts for i in range(parts + 1)]
    return list(pairwise(edges))


def _reduce_scatter(
    messages: list[Message], ranks: Sequence[int], spans: list[_Span], ready: list[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Add the messages of a ring reduce-scatter; member i ends with span i + 1. Return what it then waits for.

    ``ready[i]`` are the messages that member i must have before its own part counts.
    """
    count = len(ranks)
    arrived: list[int] = []
    for step in range(count - 1):
        before, arrived = arrived, []
        for i in range(count):
            first, last = spans[(i - step) % count]
            after = (*ready[i], before[i - 1]) if before else ready[i]
            arrived.append(len(messages))
            messages.append(
                Message(source=ranks[i], target=ranks[(i + 1) % count], first=first, last=last, adds=True, after=after)
            )
    return [(*ready[i], arrived[i - 1]) if arrived else ready[i] for i in range(count)]


def _all_gather(
    messages: list[Message], ranks: Sequence[int], spans: list[_Span], ready: list[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Add the messages of a ring all-gather; member i begins with span i + 1. Return what it then waits for."""
    count = len(ranks)
    done = list(ready)
    arrived: list[int] = []
    for step in range(count - 1):
        before, arrived = arrived, []
        for i in range(count):
            first, last = spans[(i + 1 - step) % count]
            arrived.append(len(messages))
            messages.append(
                Message(
                    source=ranks[i],
                    target=ranks[(i + 1) % count],
                    first=first,
                    last=last,
                    adds=False,
                    after=(before[i - 1],) if before else ready[i],
                )
            )
        done = [(*done[i], arrived[i - 1]) for i in range(count)]
    return done


def _parents(ranks: int) -> list[int]:
    """Return the parent of every rank (-1: root) in a binary search tree of least depth whose inner ranks are odd."""
    parent = [-1] * ranks
    spans = [(0, ranks, -1)]
    while spans:
        first, last, above = spans.pop()
        if first >= last:
            continue
        root = first + (1 << ((last - first).bit_length() - 1)) - 1
        parent[root] = above
        spans += [(first, root, root), (root + 1, last, root)]
    return parent


def _up_and_down(messages: list[Message], parent: list[int], pieces: list[_Span]) -> None:
    """Add a reduction to the root and a broadcast from it, piece by piece; pieces keep their order on every edge."""
    children: dict[int, list[int]] = {}
    for child, above in enumerate(parent):
        children.setdefault(above, []).append(child)
    down_order = children[-1][:]
    for rank in down_order:
        down_order += children.get(rank, [])
    last_up: dict[int, int] = {}
    last_down: dict[int, int] = {}
    for first, last in pieces:
        up: dict[int, int] = {}
        for rank in reversed(down_order[1:]):
            after = [up[child] for child in children.get(rank, [])] + ([last_up[rank]] if rank in last_up else [])
            up[rank] = last_up[rank] = len(messages)
            messages.append(
                Message(source=rank, target=parent[rank], first=first, last=last, adds=True, after=tuple(after))
            )
        down: dict[int, int] = {}
        for rank in down_order[1:]:
            above = parent[rank]
            ready = [down[above]] if above in down else [up[child] for child in children[above]]
            after = ready + ([last_down[rank]] if rank in last_down else [])
            down[rank] = last_down[rank] = len(messages)
            messages.append(Message(source=above, target=rank, first=first, last=last, adds=False, after=tuple(after)))
