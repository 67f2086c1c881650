"""Whether packets can wait for one another in a circle on links that never drop, and what keeps them from it.

A packet that came over one link holds memory there until it gets room on the next, so the first link waits for the
second if any route goes over both in that order. Routes whose links wait for each other in no circle cannot deadlock
(Dally and Seitz, 1987). Where there is one, links get virtual channels, with memory of their own each: see
`packet.channels` for the rule. It holds for any routes and any order of links; the order of a topology (`ChannelOrder`)
only keeps the channels few. A network without one is ordered up and down from a root (Schroeder et al., 1991), so that a
packet changes its channel where it goes up again after it went down.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, dijkstra

from orchestrator_network.errors import TopologyError
from orchestrator_network.graph import ChannelOrder, Network
from orchestrator_network.packet.channels import FIRST, LAST, PHASE_SHIFT, highest_channel
from orchestrator_network.packet.fabric import Wiring
from orchestrator_network.packet.layout import MOST_CHANNELS


class Channels(NamedTuple):
    """How many virtual channels a link has, and the rank of every link of the kernel, int32 ([1] where one will do)."""

    per_link: int
    ranks: np.ndarray


def waits(source: np.ndarray, target: np.ndarray, carries: np.ndarray) -> np.ndarray:
    """Return the pairs (link, link that it waits for), int64 [pairs, 2].

    ``source`` and ``target`` are the ends of links between switches, ``carries`` bool [links, destinations] whether a
    link is on a route to a destination; whatever a link brings to a switch may leave over any link that carries it on.
    """
    leave = np.argsort(source, kind="stable")
    first, last = (np.searchsorted(source[leave], target, side=side) for side in ("left", "right"))
    pairs = []
    for node in np.unique(target):
        into = np.flatnonzero(target == node)
        out = leave[first[into[0]] : last[into[0]]]
        both = carries[into].astype(np.float32) @ carries[out].T.astype(np.float32) > 0
        found = np.argwhere(both)
        pairs.append(np.column_stack([into[found[:, 0]], out[found[:, 1]]]))
    return np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int64)


def circle(pairs: np.ndarray, links: int) -> np.ndarray:
    """Return the links that wait for one another in circles, int64, empty if none do."""
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(links, links))
    _, part = connected_components(graph, connection="strong")
    alone = np.bincount(part)[part] == 1
    alone[pairs[pairs[:, 0] == pairs[:, 1], 0]] = False
    return np.flatnonzero(~alone)


def stuck(network: Network, wiring: Wiring) -> np.ndarray:
    """Return the links of the network that could wait for one another in circles if each had one queue, int64.

    Of detours every link may wait for every one behind it, as a packet may come to its area anywhere.
    """
    carries = np.zeros((network.links, wiring.routes.shape[1]), bool)
    for row in wiring.routes:
        for entry in np.unique(row[row != 0]):
            way = wiring.ports[(entry >> 12) : (entry >> 12) + (entry & 0xFFF)]
            carries[np.ix_(wiring.order[way], np.flatnonzero(row == entry))] = True
    between = np.flatnonzero((network.source >= network.hosts) & (network.target >= network.hosts))
    if network.detours is not None:
        carries = np.asarray(carries.any(axis=1))[:, None]
    pairs = waits(network.source[between], network.target[between], carries[between])
    return np.asarray(between[circle(pairs, len(between))])


def untie(network: Network, wiring: Wiring) -> tuple[Wiring, Channels]:
    """Return the wiring with routes of which no two links can wait for each other, and the channels for that.

    Nothing changes where no circle is. Raises TopologyError where more than `MOST_CHANNELS` would be needed.
    """
    if not len(stuck(network, wiring)):
        return wiring, Channels(1, np.zeros(1, np.int32))
    order = network.channel_order or up_and_down(network)
    if order.phase.any():
        wiring = _first_phases(wiring, order.phase[wiring.order])
    _, dense = np.unique(order.rank, return_inverse=True)
    ends = np.zeros(network.links)
    ends[network.source < network.hosts] = FIRST
    ends[network.target < network.hosts] = LAST
    for phase in (order.phase, np.zeros_like(order.phase)):
        ranks = np.where(ends == 0, phase << PHASE_SHIFT | dense, ends)[wiring.order].astype(np.int32)
        most, falls = _most(network, wiring, ranks)
        if not falls:
            break
    if most >= MOST_CHANNELS:
        raise TopologyError(
            f"links that never drop would need {most + 1} virtual channels each so that no packets wait for one another in a "
            f"circle, and packets can tell {MOST_CHANNELS} apart; set lossless to `none`, or take a topology whose routes turn "
            "less often, a fat tree for example"
        )
    return wiring, Channels(most + 1, ranks)


def _most(network: Network, wiring: Wiring, ranks: np.ndarray) -> tuple[int, bool]:
    """Return the highest channel of any packet, and whether a phase falls on its way."""
    hosts, switches = network.hosts, network.nodes - network.hosts
    to = np.where(wiring.links["to"] >= hosts, wiring.links["to"] - hosts, -1).astype(np.int64)
    into = np.argsort(to, kind="stable")
    first_into = np.searchsorted(to[into], np.arange(switches + 1))
    areas = 0 if network.detours is None else int(network.detours.area.max()) + 1
    scratch = np.zeros((2, len(to)), np.int64), np.zeros((2, switches), np.int64)
    straight = wiring.routes.shape[1] - areas
    parts = [np.ascontiguousarray(wiring.routes[:, :straight]), np.ascontiguousarray(wiring.routes[:, straight:])]
    highest, falls = 0, False
    for part in parts if areas else parts[:1]:
        most, fell = highest_channel(part, wiring.ports, to, into, first_into, ranks, *scratch)
        highest, falls = highest + int(most), falls or bool(fell)
    # At its area a packet may need one channel more, and a phase may fall there.
    return (highest + 1, bool(ranks[ranks < LAST].max() >> PHASE_SHIFT)) if areas else (highest, falls)


def _first_phases(wiring: Wiring, phase: np.ndarray) -> Wiring:
    """Return a wiring whose switches take, of several ports, those of the least ``phase`` [links] only."""
    ports, entries = wiring.ports.tolist(), np.unique(wiring.routes)
    kept = np.zeros(len(entries), np.int32)
    for number, entry in enumerate(entries.tolist()):
        way = np.array(ports[(entry >> 12) : (entry >> 12) + (entry & 0xFFF)], np.int64)
        if len(way):
            least = way[phase[way] == phase[way].min()]
            kept[number] = entry if len(least) == len(way) else len(ports) << 12 | len(least)
            ports += [] if len(least) == len(way) else least.tolist()
    routes = kept[np.searchsorted(entries, wiring.routes)]
    return replace(wiring, routes=routes, ports=np.array(ports, np.int32))


def up_and_down(network: Network) -> ChannelOrder:
    """Return an order in which links up to a root come before links down from it, the farther up the later."""
    hosts, nodes = network.hosts, network.nodes
    between = (network.source >= hosts) & (network.target >= hosts)
    source, target = network.source[between] - hosts, network.target[between] - hosts
    graph = coo_array((np.ones(len(source)), (source, target)), shape=(nodes - hosts, nodes - hosts)).tocsr()
    root = int(np.argmax(np.bincount(source, minlength=nodes - hosts)))
    far = dijkstra(graph, indices=root, unweighted=True)
    place = np.empty(nodes - hosts, np.int64)
    place[np.lexsort((np.arange(nodes - hosts), far))] = np.arange(nodes - hosts)
    rank = np.zeros(network.links, np.int64)
    rank[between] = np.where(place[target] < place[source], nodes - place[target], 2 * nodes + place[target])
    return ChannelOrder(phase=np.zeros(network.links, np.int64), rank=rank)
