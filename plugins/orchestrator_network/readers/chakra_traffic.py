"""Which nodes of a Chakra trace meet: sends with receives, and the nodes of all ranks that are one collective.

The k-th send from a to b with a tag meets the k-th receive of b from a with that tag, the k-th collective of a kind in
a group is one over all of its ranks, both in the order of the files. What has no partner, disagrees, or waits for
itself across ranks is refused with the node's place.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from orchestrator_network.errors import WorkloadError
from orchestrator_network.readers.chakra import COLLECTIVE, RECV, SEND, Chakra, ChakraCollective, ChakraRank
from orchestrator_network.readers.lines import show, waiting_forever

_COLLECTIVES = {
    0: "all_reduce",
    1: "reduce",
    2: "all_gather",
    5: "broadcast",
    6: "all_to_all",
    7: "reduce_scatter",
    8: "reduce_scatter",
    9: "barrier",
}
_NOT_LOWERED = {3: "gather", 4: "scatter"}
_Place = tuple[int, int]  # rank and row


def meet(ranks: tuple[ChakraRank, ...], groups: dict[str, tuple[int, ...]]) -> Chakra:
    """Return the checked trace; WorkloadError, `file:message: reason`, for nodes that nobody meets."""
    found = Chakra(
        ranks=ranks,
        groups=groups,
        messages=np.array(_messages(ranks), np.int64).reshape(-1, 4),
        collectives=tuple(_collectives(ranks, groups)),
    )
    _check_order(found)
    return found


def _messages(ranks: tuple[ChakraRank, ...]) -> list[tuple[int, int, int, int]]:
    sent: defaultdict[tuple[int, int, int], list[int]] = defaultdict(list)
    received: defaultdict[tuple[int, int, int], list[int]] = defaultdict(list)
    for rank, nodes in enumerate(ranks):
        for kind, ends, queues in ((SEND, ("comm_src", "comm_dst"), sent), (RECV, ("comm_dst", "comm_src"), received)):
            for row in np.flatnonzero(nodes.type == kind).tolist():
                peer = _peer(ranks, rank, row, *ends)
                tag = max(0, int(nodes.comm_tag[row]))
                queues[(rank, peer, tag) if kind == SEND else (peer, rank, tag)].append(row)
    met = []
    for pair in sorted(sent.keys() | received.keys()):
        source, target, tag = pair
        sends, receives = sent[pair], received[pair]
        if len(sends) != len(receives):
            more_sends = len(sends) > len(receives)
            place = (
                ranks[source].place(sends[len(receives)]) if more_sends else ranks[target].place(receives[len(sends)])
            )
            raise WorkloadError(
                f"{place}: from rank {source} to rank {target} with tag {tag} are {len(sends)} sends and "
                f"{len(receives)} receives; they must match"
            )
        met += [(source, send, target, receive) for send, receive in zip(sends, receives, strict=True)]
    return met


def _peer(ranks: tuple[ChakraRank, ...], rank: int, row: int, own: str, other: str) -> int:
    nodes = ranks[rank]
    here, peer = int(getattr(nodes, own)[row]), int(getattr(nodes, other)[row])
    if here not in (-1, rank):
        raise WorkloadError(f"{nodes.place(row)}: `{own}` is {here} in the file of rank {rank}")
    if not 0 <= peer < len(ranks) or peer == rank:
        given = "missing" if peer < 0 else str(peer)
        raise WorkloadError(
            f"{nodes.place(row)}: `{other}` is {given}; it must be a rank from 0 to {len(ranks) - 1}, not its own"
        )
    if nodes.comm_size[row] < 0:
        raise WorkloadError(f"{nodes.place(row)}: the node has no `comm_size`")
    return peer


def _collectives(ranks: tuple[ChakraRank, ...], groups: dict[str, tuple[int, ...]]) -> list[ChakraCollective]:
    everyone = tuple(range(len(ranks)))
    turns: defaultdict[tuple[str, str, int], int] = defaultdict(int)
    gathered: dict[tuple[str, str, int], list[_Place]] = {}
    for rank, nodes in enumerate(ranks):
        for row in np.flatnonzero(nodes.type == COLLECTIVE).tolist():
            name, group = _named(nodes, row), nodes.group[row]
            if group and group not in groups:
                raise WorkloadError(
                    f"{nodes.place(row)}: process group {show(group)} is not among the groups; give their file"
                )
            if rank not in groups.get(group, everyone):
                raise WorkloadError(f"{nodes.place(row)}: rank {rank} does not belong to process group {show(group)}")
            if not group and not nodes.involved_dim[row]:
                raise WorkloadError(
                    f"{nodes.place(row)}: `involved_dim` leaves dimensions out, and the trace does not say which ranks "
                    "they join; name a group with `pg_name`"
                )
            turn = turns[group, name, rank]
            turns[group, name, rank] += 1
            gathered.setdefault((group, name, turn), []).append((rank, row))
    found = []
    for (group, name, _), places in gathered.items():
        members = groups.get(group, everyone)
        rank, row = places[0]
        where = f"{ranks[rank].place(row)}: {name} of " + (f"process group {show(group)}" if group else "all ranks")
        if len(places) != len(members):
            raise WorkloadError(f"{where}: {len(places)} of {len(members)} ranks take part; all must, equally often")
        sizes = {int(ranks[rank].comm_size[row]) for rank, row in places}
        if len(sizes) > 1:
            raise WorkloadError(f"{where}: ranks disagree on the bytes, {sorted(sizes)[:4]}")
        rows = dict(places)
        found.append(
            ChakraCollective(
                name=name,
                group=group,
                size_bytes=max(0, sizes.pop()),
                ranks=members,
                rows=tuple(rows[member] for member in members),
            )
        )
    return found


def _named(nodes: ChakraRank, row: int) -> str:
    """Return the canonical name of a collective."""
    kind = int(nodes.comm_type[row])
    if kind not in _COLLECTIVES:
        known = _NOT_LOWERED.get(kind, "missing" if kind < 0 else str(kind))
        raise WorkloadError(
            f"{nodes.place(row)}: `comm_type` is {known}; carried are {', '.join(dict.fromkeys(_COLLECTIVES.values()))}"
        )
    if nodes.comm_size[row] < 0 and _COLLECTIVES[kind] != "barrier":
        raise WorkloadError(f"{nodes.place(row)}: the node has no `comm_size`")
    return _COLLECTIVES[kind]


def _check_order(trace: Chakra) -> None:
    """Refuse nodes that wait for one another across ranks; the nodes of a collective count as one."""
    offsets = trace.offsets
    node = np.arange(offsets[-1])
    for collective in trace.collectives:
        members = offsets[list(collective.ranks)] + np.array(collective.rows)
        node[members] = members.min()
    within = [rank.edges + offset for rank, offset in zip(trace.ranks, offsets.tolist(), strict=False)]
    between = offsets[trace.messages[:, ::2]] + trace.messages[:, 1::2]
    edges = np.concatenate([*within, between])
    stuck = waiting_forever(len(node), node[edges[:, 0]], node[edges[:, 1]])
    if stuck >= 0:
        rank = int(np.searchsorted(offsets, stuck, side="right")) - 1
        place = trace.ranks[rank].place(stuck - int(offsets[rank]))
        raise WorkloadError(f"{place}: the node waits, over dependencies, messages and collectives, for itself")
