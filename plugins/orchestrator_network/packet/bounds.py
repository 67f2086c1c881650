"""What no packet beats where hosts forward or links have several speeds: bounds for every flow alone, and for the last of all.

Switches split a flow among the next hops of its minimal paths, and a load balancer decides how, so nothing is known of
its shares; what is certain is over which links it may leave its source and reach its target, what all links of a path take
for a byte at least, and that every packet is stored at each of them, and at both of the inner links of `routers`. With s1 and
sn the bytes of the first and of the last packet, w those of all n, and in ps a byte: t of all links of a path together, f and
l of the slowest link over which it may leave or reach its target, i and e of the injection and ejection links (0 where a
host has one link), and c of all links together over which it may leave (or reach its target), a flow arrives no sooner than
its latency after the greatest of

    s1 i + w c + sn (t - f) + sn e                                       all leave the source, the last one crosses
    min(s1 i + s1 (t - l), w i + sn (t - l)) + w c + sn e                one crosses, then all reach the target
    (n - 1) s i + s t + s e                                              the last full packet of s bytes, where n > 1
    min(s1, sn) (i + t - m + e) + w m                                    all cross a link of m that every path shares

and it is over when a header has come back. With one path the second is what happens where links are alike (see `routers`),
and with full packets the fourth is where they are not. Of all flows together the first two hold for those of a source and of a target; every
link that all minimal paths of some flows share carries all of them; and all links together carry every byte as often as it
crosses a link. In a tree, where the same lies before a trunk for all flows that cross it, or behind it, the smallest of their last
packets is stored on all other links of the quickest way beside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import dijkstra

from orchestrator_network.graph import Network
from orchestrator_network.packet.fabric import COST, lightest
from orchestrator_network.routes import Routes
from orchestrator_network.wire import PS_PER_S, Wire
from orchestrator_network.workloads import Workload


@dataclass(frozen=True, kw_only=True, eq=False)
class Bounds:
    """``alone_ps`` int64 [flows]: the least from start to the last acknowledgement; ``end_ps``: of all, from time 0.

    ``back_ps`` int64 [flows]: the least from arrival to the acknowledgement.
    """

    alone_ps: np.ndarray
    back_ps: np.ndarray
    end_ps: int


def forwarding_bounds(
    network: Network,
    routes: Routes,
    workload: Workload,
    wire: Wire,
    *,
    answered: bool = True,
    detours: bool = False,
    tree: bool = False,
) -> Bounds:
    """Return the bounds of flows over minimal paths of a network, not yet behind routers, whose hosts forward.

    ``routes`` tell which trunks all paths of a flow share, and how many links a path has. Flows that are not ``answered``
    are over when their last packet arrives. With ``detours`` they may leave and arrive over any link. ``tree``: all flows that cross
    a trunk have links of the same speeds and latencies before it, or all have behind it.
    """
    source, target = workload.source, workload.target
    if network.barred is None:
        first, last, latency_ps = _ways(network, source, target)
    else:  # routes are no shortest paths, and known
        latency_ps = routes.latency_ps
    if detours or network.barred is not None:
        first, last = _ports(network)[source], _ports(network)[target]
    each = _ps_per_byte(network.capacity_bps)
    several = bool(np.any(network.degree()[: network.hosts] > 1))
    inner = _ps_per_byte(np.bincount(network.source, network.capacity_bps, network.nodes)[: network.hosts]) * several
    hops = np.floor(routes.hops + 1e-6)
    stored = _least_stored(network, routes, source, target, each) if not detours else hops * each.min()
    leaves, enters = (np.where(links >= 0, each[links], 0).max(axis=1) for links in (first, last))
    packets = wire.packets(workload.size_bytes)
    total = wire.bits(workload.size_bytes) / 8
    short = total - (packets - 1) * wire.packet_bytes
    begin = np.where(packets > 1, wire.packet_bytes, short)
    out_ps, in_ps = inner[source], inner[target]
    crossing_ps = short * np.maximum(stored - leaves, 0) + short * in_ps + latency_ps
    behind = np.maximum(stored - enters, 0)
    reach_ps = np.minimum(begin * out_ps + begin * behind, total * out_ps + short * behind) + latency_ps
    full_ps = (packets - 1) * begin * out_ps + begin * stored + begin * in_ps + latency_ps
    header = wire.header_bytes
    back_ps = (header * (in_ps + out_ps) + header * stored + latency_ps) * answered
    # A packet takes a whole number of ps, up to half of one less than these products where those are none.
    taken = np.concatenate([each[network.capacity_bps > 0], inner])
    rounded = 0.5 * (packets + 2 * hops + 4) if np.any(taken % 1) else 0.0
    arrive_ps = np.maximum(
        begin * out_ps + total * _together(first, each) + crossing_ps,
        reach_ps + total * _together(last, each) + short * in_ps,
    )
    arrive_ps = np.where(packets > 1, np.maximum(arrive_ps, full_ps), arrive_ps)
    if network.route_weight is None and not detours:
        slowest = _slowest_shared(network, routes, each)
        rest = np.maximum(out_ps + stored - slowest + in_ps, 0)
        shared_ps = np.minimum(begin, short) * rest + total * slowest + latency_ps
        arrive_ps = np.where(slowest > 0, np.maximum(arrive_ps, shared_ps), arrive_ps)
    alone_ps = np.floor(arrive_ps + back_ps - rounded).astype(np.int64)

    start_ps = workload.start_ps
    ends = [
        (start_ps + alone_ps).max(),
        _ends(source, total, _union(source, first), each, start_ps, begin * out_ps, crossing_ps + back_ps),
        _ends(target, total, _union(target, last), each, start_ps, reach_ps, short * in_ps + back_ps),
        start_ps.min() + total @ hops / (1 / each).sum() + back_ps.min(),
    ]
    if network.route_weight is None and not detours:
        beside_ps = back_ps + latency_ps * tree
        ends.append(_through_shared(network, routes, total, start_ps, beside_ps, short * tree, stored, each))
    return Bounds(
        alone_ps=alone_ps, back_ps=np.ceil(back_ps).astype(np.int64), end_ps=int(np.floor(max(ends) - np.sum(rounded)))
    )


def _least_stored(
    network: Network, routes: Routes, source: np.ndarray, target: np.ndarray, each: np.ndarray
) -> np.ndarray:
    """Return the ps a byte of all links of the minimal path of each flow that takes least, float64 [flows]."""
    if network.one_speed:
        return np.asarray(np.floor(routes.hops + 1e-6) * each[0])
    if network.barred is not None:
        of_trunk = np.zeros(len(network.trunk_bps))
        of_trunk[network.trunk] = each  # the links of a trunk are alike
        return np.asarray(routes.share @ of_trunk)
    ends, at = np.unique(source, return_inverse=True)
    # In units of 1/256 ps, so that sums are whole numbers.
    distance = dijkstra(lightest(network, network.route_cost * COST + each * 256), indices=ends)
    return np.asarray(distance[at, target] % COST / 256)


def _slowest_shared(network: Network, routes: Routes, each: np.ndarray) -> np.ndarray:
    """Return the ps a byte of the slowest link that all paths of a flow share, float64 [flows], 0 where they share none."""
    share = routes.share.tocoo()
    alone = (share.data > 1 - 1e-9) & (network.trunk_links[share.coords[1]] == 1)
    of_trunk = np.zeros(len(network.trunk_bps))
    of_trunk[network.trunk] = each
    slowest = np.zeros(share.shape[0])
    np.maximum.at(slowest, share.coords[0][alone], of_trunk[share.coords[1][alone]])
    return slowest


def _ps_per_byte(capacity_bps: np.ndarray) -> np.ndarray:
    """Return what the kernel takes for a byte, in ps; nothing ever leaves over a link without capacity, which has failed."""
    took, up = np.full(len(capacity_bps), np.inf), capacity_bps > 0
    took[up] = np.rint(8 * PS_PER_S / capacity_bps[up] * 256) / 256
    return took


def _ways(network: Network, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the links over which flows may leave and arrive, [flows, ports] with -1 for none, and the least latency.

    Every link has its reverse of the same cost, so a distance is that of the way back.
    """
    ends, place = np.unique(np.concatenate([source, target]), return_inverse=True)
    weight = network.route_cost * COST + network.latency_ps
    distance = dijkstra(lightest(network, weight), indices=ends)
    cost, at_source, at_target = distance // COST, place[: len(source)], place[len(source) :]
    ports = _ports(network)
    first = _near(network, ports, cost, source, at_target)
    last = _near(network, ports, cost, target, at_source)
    return first, last, distance[at_target, source] % COST


def _ports(network: Network) -> np.ndarray:
    """Return the links out of every host, [hosts, ports] with -1 for none."""
    out = np.flatnonzero(network.source < network.hosts)
    out = out[np.argsort(network.source[out], kind="stable")]
    at = network.source[out]
    ports = np.full((network.hosts, np.bincount(at).max()), -1)
    ports[at, np.arange(len(out)) - np.searchsorted(at, at)] = out
    return ports


def _near(network: Network, ports: np.ndarray, cost: np.ndarray, here: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Return those ports of ``here`` that lie on a minimal path to the end ``to``, else -1."""
    mine = ports[here]
    left = cost[to[:, None], network.target[mine]] + network.route_cost[mine]
    return np.where((mine >= 0) & (left == cost[to, here][:, None]), mine, -1)


def _together(links: np.ndarray, each: np.ndarray) -> np.ndarray:
    """Return the ps a byte of several links side by side."""
    return np.asarray(1 / np.where(links >= 0, 1 / each[links], 0).sum(axis=1))


def _union(host: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Return, for every host that occurs, in order, the links that any of its flows may take, -1 for none."""
    hosts, at = np.unique(host, return_inverse=True)
    union = np.full((len(hosts), links.shape[1]), -1)
    np.maximum.at(union, at, links)
    return union


def _ends(
    host: np.ndarray,
    total: np.ndarray,
    links: np.ndarray,
    each: np.ndarray,
    start_ps: np.ndarray,
    before_ps: np.ndarray,
    after_ps: np.ndarray,
) -> float:
    """Return when the flows of the busiest host are over: one gets there, all go through, one gets away."""
    hosts, at = np.unique(host, return_inverse=True)
    least = np.full((2, len(hosts)), np.inf)
    np.minimum.at(least[0], at, start_ps + before_ps)
    np.minimum.at(least[1], at, after_ps)
    return float((least.sum(axis=0) + np.bincount(at, total) * _together(links, each)).max())


def _through_shared(
    network: Network,
    routes: Routes,
    total: np.ndarray,
    start_ps: np.ndarray,
    beside_ps: np.ndarray,
    last_bytes: np.ndarray,
    stored_ps: np.ndarray,
    each: np.ndarray,
) -> float:
    """Return when the flows are over of which all paths cross the busiest trunk.

    They take ``beside_ps``, and the smallest of the ``last_bytes`` that cross a trunk is stored on all of ``stored_ps`` but the trunk.
    """
    share = routes.share.tocoo()
    certain = share.data > 1 - 1e-9
    flow, trunk = (ends[certain] for ends in share.coords)
    if not len(flow):
        return 0.0
    least = np.full((2, len(network.trunk_bps)), np.inf)
    np.minimum.at(least[0], trunk, start_ps[flow])
    of_trunk = np.full(len(network.trunk_bps), np.inf)
    np.minimum.at(of_trunk, network.trunk, each)
    smallest = np.full(len(network.trunk_bps), np.inf)
    np.minimum.at(smallest, trunk, last_bytes[flow])
    others_ps = np.maximum(stored_ps[flow] - of_trunk[trunk], 0)
    np.minimum.at(least[1], trunk, beside_ps[flow] + smallest[trunk] * others_ps)
    carried = np.bincount(trunk, total[flow], len(network.trunk_bps))
    used = carried > 0
    together = 1 / np.bincount(network.trunk, 1 / each)  # of the links of a trunk, as the kernel counts them
    return float((least.sum(axis=0)[used] + carried[used] * together[used]).max())
