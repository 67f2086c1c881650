"""Hosts that forward, as a router each with a host behind it; and switches that reduce, with a host for every port.

The kernel knows hosts with one link. Where a host has several, all links of the network are moved to a router of its
own, and the host hangs there by an injection and an ejection link without latency, which have the rate of all its links
together, so that the host can use them all at once and neither link is ever a bottleneck. What a packet pays for it is to
be stored once more at either end, at that rate. With B bits per second a link, R those of all links of a host, f and l
the bits of the first and of the last packet, w those of all, h links on the path and L their latency, a flow alone on one
path arrives after

    f / R + w / B + (h - 1) f / B + h L + l / R      and max(0, f / R - l / B) more where it has several packets

The links of the network keep their numbers and come first; the inner links follow, and no result shows them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from orchestrator_network.errors import TopologyError
from orchestrator_network.graph import Barred, ChannelOrder, Detours, Network
from orchestrator_network.packet_rules import MOST_FORWARDING_HOSTS


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedNetwork(Network):
    """A network behind routers: links from ``real_links`` on are the injection and ejection links of its hosts."""

    real_links: int


def real_links(network: Network) -> int:
    """Return how many links the network has that are there."""
    return network.real_links if isinstance(network, RoutedNetwork) else network.links


def with_reduction_points(network: Network, links: np.ndarray) -> RoutedNetwork:
    """Return a network with a host more for each of ``links``, at the switch that they leave: it sends over that link.

    Host ``network.hosts + i`` is that of ``links[i]`` and has its rate, so that it never fills the port; what it receives
    comes at the rate of all links of the switch. Its two own links have no latency, come last, and no result shows them.
    """
    assert network.barred is None, "hosts with several links, which are kept from some, take no reductions"
    hosts, count = network.hosts, len(links)
    rate_bps = np.bincount(network.source, network.capacity_bps, network.nodes)[network.source[links]]
    point, at = hosts + np.arange(count), network.source[links] + count
    trunks = int(network.trunk.max()) + 1
    weight = network.route_weight
    zeros, ones = np.zeros(count), np.ones(count)

    def joined(real: np.ndarray, injection: np.ndarray, ejection: np.ndarray) -> np.ndarray:
        return np.concatenate([real, injection, ejection]).astype(real.dtype)

    source, target = (np.where(ends < hosts, ends, ends + count) for ends in (network.source, network.target))
    return RoutedNetwork(
        hosts=hosts + count,
        names=(*network.names[:hosts], *(f"sum{i}" for i in range(count)), *network.names[hosts:]),
        source=joined(source.astype(network.source.dtype), point, at),
        target=joined(target.astype(network.target.dtype), at, point),
        capacity_bps=joined(network.capacity_bps, network.capacity_bps[links], rate_bps),
        latency_ps=joined(network.latency_ps, zeros, zeros),
        trunk=joined(network.trunk, trunks + np.arange(count), trunks + count + np.arange(count)),
        route_cost=joined(network.route_cost, ones, ones),
        route_weight=None if weight is None else joined(weight, ones, ones),
        detours=_with_hosts(network, count),
        channel_order=_with_links(network, 2 * count),
        sized_bps=network.sized_bps,
        real_links=network.links,
    )


def behind_routers(network: Network) -> Network:
    """Return a network whose hosts have one link each, to a switch: the same one, or where that is not so, a `RoutedNetwork`.

    Raises TopologyError for more than `MOST_FORWARDING_HOSTS` hosts with several links.
    """
    hosts = network.hosts
    if np.all(network.degree()[:hosts] == 1) and not np.any((network.source < hosts) & (network.target < hosts)):
        return network
    if hosts > MOST_FORWARDING_HOSTS:
        raise TopologyError(
            f"{hosts} hosts forward for each other, and every one needs routes to all others; packet fidelity takes "
            f"{MOST_FORWARDING_HOSTS} such hosts, use fidelity `flow` or a smaller network"
        )
    router, host = network.nodes + np.arange(hosts), np.arange(hosts)
    rate_bps = np.bincount(network.source, network.capacity_bps, network.nodes)[:hosts]
    trunks = int(network.trunk.max()) + 1
    weight = network.route_weight

    def joined(real: np.ndarray, injection: np.ndarray, ejection: np.ndarray) -> np.ndarray:
        return np.concatenate([real, injection, ejection]).astype(real.dtype)

    ends = np.concatenate([router, np.arange(hosts, network.nodes)])
    zeros, ones = np.zeros(hosts), np.ones(hosts)
    return RoutedNetwork(
        hosts=hosts,
        names=(*network.names, *(f"{name}.router" for name in network.names[:hosts])),
        source=joined(ends[network.source].astype(network.source.dtype), host, router),
        target=joined(ends[network.target].astype(network.target.dtype), router, host),
        capacity_bps=joined(network.capacity_bps, rate_bps, rate_bps),
        latency_ps=joined(network.latency_ps, zeros, zeros),
        trunk=joined(network.trunk, trunks + host, trunks + hosts + host),
        route_cost=joined(network.route_cost, ones, ones),
        route_weight=None if weight is None else joined(weight, ones, ones),
        detours=_moved(network),
        channel_order=_with_links(network, 2 * hosts),
        barred=_barred(network, 2 * hosts),
        sized_bps=network.sized_bps,
        real_links=network.links,
    )


def _barred(network: Network, links_more: int) -> Barred | None:
    """Return what is barred in a network with so many links more, which nobody is kept from."""
    if network.barred is None:
        return None
    free = np.zeros((len(network.barred.links), links_more), bool)
    return replace(network.barred, links=np.concatenate([network.barred.links, free], axis=1))


def _with_hosts(network: Network, count: int) -> Detours | None:
    """Return the detours of a network with so many hosts more, which belong to no area."""
    if network.detours is None:
        return None
    area = network.detours.area
    return replace(
        network.detours, area=np.concatenate([area[: network.hosts], np.full(count, -1), area[network.hosts :]])
    )


def _with_links(network: Network, count: int) -> ChannelOrder | None:
    """Return the order of a network with so many links from and to hosts more, of which it says nothing."""
    order = network.channel_order
    if order is None:
        return None
    rank, phase = (np.concatenate([column, np.zeros(count, np.int64)]) for column in (order.rank, order.phase))
    return ChannelOrder(rank=rank, phase=phase)


def _moved(network: Network) -> Detours | None:
    """Return the detours of a network whose hosts have routers behind all other nodes."""
    if network.detours is None:
        return None
    area, hosts = network.detours.area, network.hosts
    return replace(network.detours, area=np.concatenate([np.full(hosts, -1), area[hosts:], area[:hosts]]))
