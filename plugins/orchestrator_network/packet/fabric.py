"""From a network to the arrays of the kernel: ports, queue sizes, ECN thresholds, routing tables.

Queues hold the bandwidth-delay product of the longest path, at the rate of their own link, rounded up to whole packets; ECN
marks from 20 % to 80 % of that in packets, each rounded up. Where the tiers of a fat tree differ in speed they are, as in htsim
(`calculate_rtt` of `main_uec.cpp`), all those of a tree as fast as the links of its hosts; so are round trip and windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from orchestrator_network.errors import TopologyError
from orchestrator_network.graph import Network
from orchestrator_network.packet import layout as at
from orchestrator_network.packet.routers import real_links
from orchestrator_network.packet.state import rows
from orchestrator_network.packet.transports.base import Fabric
from orchestrator_network.packet_rules import check_speed
from orchestrator_network.wire import PS_PER_S

_SOURCES = 512  # of paths that are looked at together
_MOST_COLUMNS = 65_535  # that a packet can name
COST = 2.0**40  # beyond any latency of a path, and exact in float64 up to a route cost of 8192
_MOST_PORTS = 2**12 - 1  # of a switch that lead to one place, and 2^19 entries of all tables
_MOST_ENTRIES = 2**19 - 1
_UNSEEN = 1e-9  # hops of a link that no result shows; 0 would be no link.


@dataclass(frozen=True, kw_only=True, eq=False)
class Wiring:
    """The static part of a run; ``order[i]`` is the link of the network that is link i of the kernel.

    ``routes`` has a column for every group of hosts on one switch, and then for every area of detours.
    """

    links: np.ndarray
    counters: np.ndarray
    order: np.ndarray
    routes: np.ndarray
    ports: np.ndarray
    group: np.ndarray
    down: np.ndarray
    area: np.ndarray
    home_area: np.ndarray


def describe(network: Network, *, packet_bytes: int, header_bytes: int, trimming: bool) -> Fabric:
    """Return rate and unloaded round trip of the longest shortest path: a full packet out, a header back.

    With detours the packet has the longest way between two switches with hosts more.
    """
    real = real_links(network)
    capacity_bps = _sized(network)
    rate_bps = float(capacity_bps[:real].max())
    inner = np.arange(network.links) >= real
    per_link_ps = (packet_bytes + header_bytes) * 8 / capacity_bps * PS_PER_S
    weight = 2 * network.latency_ps + per_link_ps
    # Hosts on one switch are alike, so the longest path is that between the first hosts of two switches.
    tor = np.full(network.hosts, -1)
    up = network.source < network.hosts
    tor[network.source[up]] = network.target[up]
    _, first = np.unique(tor, return_index=True)
    second = np.setdiff1d(np.arange(network.hosts), first)
    more_ps = more_hops = 0.0
    longest_ps, hops = _longest(network, np.concatenate([first, second[:1]]), weight, inner)
    if network.detours is not None:
        sent_ps = packet_bytes * 8 / np.where(inner, np.inf, network.capacity_bps) * PS_PER_S
        out = lightest(network, network.latency_ps + sent_ps)
        counted = lightest(network, np.where(inner, _UNSEEN, 1.0))
        homes = np.unique(tor)
        for begin in range(0, len(homes), _SOURCES):
            part = homes[begin : begin + _SOURCES]
            more_ps = max(more_ps, dijkstra(out, indices=part)[:, homes].max())
            more_hops = max(more_hops, dijkstra(counted, indices=part)[:, homes].max())
        longest_ps, hops = longest_ps + more_ps, hops + more_hops
    return Fabric(
        rate_bps=rate_bps,
        host_bps=float(capacity_bps[up].max()) if len(inner) > real else 0.0,
        rtt_ps=round(float(longest_ps)),
        packet_bytes=packet_bytes,
        header_bytes=header_bytes,
        trimming=trimming,
        hops=int(hops),
    )


def _sized(network: Network) -> np.ndarray:
    """Return the rates that queues and windows are made for, float64 [links]."""
    if network.sized_bps is None:
        return network.capacity_bps
    return np.full(network.links, network.sized_bps)


def _longest(network: Network, some: np.ndarray, weight: np.ndarray, inner: np.ndarray) -> tuple[float, float]:
    """Return the greatest time and number of links of a shortest path between hosts, one end among ``some`` that stand for all.

    On links of one speed the quickest path is one of the fewest links; elsewhere it is that of the least route cost.
    """
    hosts, longest_ps, hops = network.hosts, 0.0, 0.0
    counted = np.where(inner, _UNSEEN, 1.0)
    if network.one_speed and network.barred is None:
        graphs = [(some, lightest(network, weight), lightest(network, counted))]
    else:
        graphs = []
        for to, allowed in network.classes():
            cost = np.where(allowed, network.route_cost * COST, np.inf)
            ways = [lightest(network, cost + part).T.tocsr() for part in (weight, np.where(inner, 0.0, 1.0))]
            graphs.append((some[to[some]], *ways))
    for ends, times, steps in graphs:
        for begin in range(0, len(ends), _SOURCES):
            part = ends[begin : begin + _SOURCES]
            longest_ps = max(longest_ps, (dijkstra(times, indices=part)[:, :hosts] % COST).max())
            hops = max(hops, (dijkstra(steps, indices=part)[:, :hosts] % COST).max())
    return longest_ps, hops


def lightest(network: Network, weight: np.ndarray) -> csr_array:
    """Return the least ``weight`` [links] of the parallel links from node to node, [nodes, nodes]."""
    order = np.lexsort((weight, network.target, network.source))
    source, target = network.source[order], network.target[order]
    first = np.flatnonzero(np.diff(source, prepend=-1) | np.diff(target, prepend=-1))
    return csr_array((weight[order][first], (source[first], target[first])), shape=(network.nodes, network.nodes))


def queue_packets(fabric: Fabric) -> int:
    """Return how many packets a port of the fastest link holds: what was asked for, or the bandwidth-delay product, rounded up."""
    return fabric.queue or math.ceil(fabric.rtt_ps / PS_PER_S * fabric.rate_bps / 8 / fabric.packet_bytes)


def _queues(fabric: Fabric, capacity_bps: np.ndarray) -> np.ndarray:
    """Return how many packets every port holds, float64 [links]; links that no result shows hold what the fastest does."""
    if fabric.queue:
        return np.full(len(capacity_bps), float(fabric.queue))
    rates, which = np.unique(np.minimum(capacity_bps, fabric.rate_bps), return_inverse=True)
    return np.array([queue_packets(replace(fabric, rate_bps=float(rate))) for rate in rates], float)[which]


def wire_up(
    network: Network, fabric: Fabric, *, slow: np.ndarray, slow_to: float, seed: int, last_hop: float = 1.0
) -> Wiring:
    """Return the links and routing tables of a run; the links ``slow`` (numbers) have ``slow_to`` of their speed.

    Ports to hosts have ``last_hop`` times the room of others.
    """
    hosts = network.hosts
    if np.any(network.degree()[:hosts] != 1):
        raise TopologyError("the packet engine takes hosts with one link each; put `behind_routers` before it")
    uplink = np.full(hosts, -1)
    from_host = np.flatnonzero(network.source < hosts)
    uplink[network.source[from_host]] = from_host
    rest = np.flatnonzero(network.source >= hosts)
    # Ports of one switch beside each other.
    order = np.concatenate([uplink, rest[np.lexsort((network.target[rest], network.source[rest]))]])
    number = np.empty(network.links, np.int64)
    number[order] = np.arange(network.links)
    links, counters = rows(network.links, at.LINK), rows(network.links, at.COUNTER)
    for name in ("done", "low_head", "low_tail", "high_head", "high_tail", "flight_head", "flight_tail"):
        links[name] = at.EMPTY
    share = np.ones(network.links)
    share[slow] = slow_to
    share = share[order]
    queue = _queues(fabric, _sized(network)[order])
    links["latency"] = network.latency_ps[order]
    to_host = network.target[order] < hosts
    links["limit"] = queue * fabric.packet_bytes * share * np.where(to_host, last_hop, 1.0)
    if fabric.queue:  # a slow port of few packets holds one still
        links["limit"] = np.maximum(links["limit"], fabric.packet_bytes)
    for name, part in zip(("mark_from", "mark_all"), fabric.ecn, strict=True):
        links[name] = np.minimum(np.ceil(queue * part) * fabric.packet_bytes * share, 2**31 - 1)
    if fabric.credited:  # what the last port does is the receiver's business, who knows without a mark
        links["mark_from"][to_host] = 2**31 - 1
    links["to"] = network.target[order]
    slowest = float((network.capacity_bps[order] * share).min())
    check_speed(slowest)
    links["ps_per_byte"] = np.rint(8 * PS_PER_S / (network.capacity_bps[order] * share) * 256)
    counters["random"] = random_states(seed, 1, network.links)
    return Wiring(links=links, counters=counters, order=order, **_tables(network, number))


def random_states(seed: int, stream: int, count: int) -> np.ndarray:
    """Return states of generators that are independent of each other, int64 [count], none 0."""
    drawn = np.random.SeedSequence([seed, stream]).generate_state(count, np.uint64)
    return (drawn | np.uint64(1)).view(np.int64)


def _tables(network: Network, number: np.ndarray) -> dict[str, np.ndarray]:
    """Return, for every switch and group of hosts on one switch (or area), the ports of all its shortest paths."""
    hosts, switches = network.hosts, network.nodes - network.hosts
    into_host = np.flatnonzero(network.target < hosts)
    down = np.empty(hosts, np.int32)
    down[network.target[into_host]] = number[into_host]
    home = np.empty(hosts, np.int64)
    home[network.target[into_host]] = network.source[into_host] - hosts
    homes, group = np.unique(home, return_inverse=True)
    alive = np.ones(network.links, bool) if network.route_weight is None else network.route_weight > 0
    between = np.flatnonzero((network.source >= hosts) & (network.target >= hosts) & alive)
    barred = None if network.barred is None else np.zeros((len(between), len(homes)), bool)
    source, target = network.source[between] - hosts, network.target[between] - hosts
    cost = network.route_cost[between].astype(float)
    distance = np.empty((switches, len(homes)))  # from every switch to all homes
    for to, allowed in network.classes():
        own, taken = np.unique(group[to]), allowed & alive
        reverse = lightest(network, np.where(taken, network.route_cost, np.inf)).T.tocsr()[hosts:, hosts:]
        distance[:, own] = dijkstra(reverse, indices=homes[own]).T
        if barred is not None:
            barred[np.ix_(~taken[between], own)] = True
    area, home_area, inside = _areas(network, homes)
    nearest = [distance[:, home_area == one].min(axis=1) for one in range(inside.shape[1])]
    distance = np.column_stack([distance, *nearest])
    here = np.column_stack([homes == np.arange(switches)[:, None], inside])
    by_source = np.lexsort((number[between], source))
    source, target, cost, links = source[by_source], target[by_source], cost[by_source], number[between][by_source]
    if barred is not None:
        barred = np.column_stack([barred[by_source], np.zeros((len(between), len(nearest)), bool)])
    routes = np.zeros(here.shape, np.int32)
    ports: list[int] = []
    bounds = np.searchsorted(source, np.arange(switches + 1))
    for switch in range(switches):
        # Few sets of ports lead to many groups of hosts: the way up, and the ways down.
        first, last = bounds[switch], bounds[switch + 1]
        if first == last:  # all hosts hang here
            continue
        near = distance[switch] == distance[target[first:last]] + cost[first:last, None]  # costs are whole numbers
        if barred is not None:
            near &= ~barred[first:last] & np.isfinite(distance[switch])
        words = np.ascontiguousarray(np.packbits(near, axis=0).T)
        _, one_of, which = np.unique(words.view(f"V{words.shape[1]}").ravel(), return_index=True, return_inverse=True)
        entries = np.zeros(len(one_of), np.int32)
        for word, column in enumerate(one_of.tolist()):
            way = links[first:last][near[:, column]].tolist()
            if len(way) > _MOST_PORTS or len(ports) > _MOST_ENTRIES:
                raise TopologyError(
                    f"switch {switch} has {len(way)} ports to one place, beside {len(ports)} in the tables of all; packet "
                    f"fidelity takes {_MOST_PORTS} and {_MOST_ENTRIES}, or use fidelity `flow`"
                )
            entries[word] = len(ports) << 12 | len(way)
            ports.extend(way)
        routes[switch] = entries[which.ravel()]
        routes[switch, here[switch]] = 0
    found = {"routes": routes, "ports": np.array(ports or [0]), "group": group, "area": area, "home_area": home_area}
    return {"down": down} | {name: table.astype(np.int32) for name, table in found.items()}


def _areas(network: Network, homes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the areas of switches and of the homes of hosts, and which switches are inside of which, [switches, areas]."""
    switches = network.nodes - network.hosts
    if network.detours is None:
        return np.zeros(1), np.zeros(1), np.zeros((switches, 0), bool)
    area = network.detours.area[network.hosts :]
    areas = int(area.max()) + 1
    if len(homes) + areas >= _MOST_COLUMNS:
        raise TopologyError(
            f"detours over {areas} areas beside {len(homes)} switches with hosts; packet fidelity tells {_MOST_COLUMNS} of both "
            "apart, use a smaller network"
        )
    return area, area[homes], area[:, None] == np.arange(areas)
