"""Dragonfly: groups of fully joined routers, groups fully joined by global links (Kim et al., ISCA 2008).

p hosts a router, a routers a group, h global ports a router, g groups. Global ports of a group are numbered router by
router; port k (g - 1) + d leads to the d-th other group and meets there the port with the same k, which joins every pair
of groups by floor(a h / (g - 1)) links, as the linear map of SST/Merlin does. Ports that are left over are the last ones
of the last routers: the bill pays for them as the published one does, the graph leaves them open.

Minimal routing takes one global link between groups and as few local links as that allows, and splits a flow evenly
over all such ways. Valiant routing sends every flow between groups to all other groups in equal parts first. Routers
that fit share one switch in the bill: two of the small published machine do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.sparse import csr_array, hstack

from orchestrator_network.cost import Bill, dragonfly_bill
from orchestrator_network.graph import ChannelOrder, Detours, Network, Wiring
from orchestrator_network.routes import Routes, check_pairs, minimal_loads, minimal_routes, span
from orchestrator_network.shape_rules import check_dragonfly, check_links
from orchestrator_network.valiant import Valiant

# A way over two global links never costs less than one with a local link on either side.
_LOCAL, _GLOBAL = 1, 3


@dataclass(frozen=True, kw_only=True)
class Dragonfly:
    """A Dragonfly; the defaults are the small published machine, 17 x 32 hosts in 30 groups with 16 links the large one.

    Hosts = hosts_per_router x routers_per_group x groups, numbered router by router. ``routing``: ``minimal``, ``valiant``,
    or, at fidelity packet, ``ugal_l`` and ``ugal_g``, which choose between the two. ``planes`` disjoint copies carry 1/planes of every message each and are alike, so one is simulated.
    ``latency_ps`` is that of one link. Impossible shapes raise :class:`TopologyError`.
    """

    hosts_per_router: int = 8
    routers_per_group: int = 16
    global_links: int = 8
    groups: int = 8
    routing: Literal["minimal", "valiant", "ugal_l", "ugal_g"] = "minimal"
    link_gbps: float = 400.0
    radix: int = 64
    planes: int = 1
    latency_ps: int = 1_000_000

    def __post_init__(self) -> None:
        check_links(self.link_gbps, self.planes)
        shape = (self.hosts_per_router, self.routers_per_group, self.global_links, self.groups)
        check_dragonfly(*shape, self.routing, self.radix)

    def with_latency(self, latency_ps: int) -> Dragonfly:
        """Return the same network with another latency a link, in picoseconds."""
        return replace(self, latency_ps=latency_ps)

    @property
    def hosts(self) -> int:
        """The number of hosts."""
        return self.hosts_per_router * self.routers

    @property
    def routers(self) -> int:
        """The number of routers."""
        return self.routers_per_group * self.groups

    @property
    def links_per_pair(self) -> int:
        """Global links between every two groups."""
        return self.routers_per_group * self.global_links // (self.groups - 1)

    @property
    def name(self) -> str:
        """The family, and its routing where that is not minimal, for tables."""
        return "dragonfly" if self.routing == "minimal" else f"dragonfly_{self.routing}"

    @property
    def link_bps(self) -> float:
        """Capacity of one link in bits per second."""
        return self.link_gbps * 1e9

    @property
    def injection_bps(self) -> float:
        """What one host can send in one plane, in bits per second."""
        return self.link_bps

    @cached_property
    def network(self) -> Network:
        """One plane as a graph; trunks are up and down of every host, then those of the fabric."""
        wiring, host = Wiring(), np.arange(self.hosts)
        wiring.cable(
            host,
            self.hosts + host // self.hosts_per_router,
            trunk=host,
            back=self.hosts + host,
            latency_ps=self.latency_ps,
        )
        self._wire(wiring, first_router=self.hosts, trunk=2 * self.hosts)
        network = wiring.network(self.hosts, (*(f"host{i}" for i in host), *self._router_names), self.link_bps)
        # Global links after local ones: a packet changes its virtual channel where it enters a group.
        rank = (network.route_cost == _GLOBAL).astype(np.int64)
        network = replace(network, channel_order=ChannelOrder(rank=rank, phase=np.zeros_like(rank)))
        if self.routing == "minimal":
            return network
        area = np.concatenate([np.full(self.hosts, -1), np.arange(self.routers) // self.routers_per_group])
        return replace(network, detours=Detours(rule=self.routing, area=area))

    @cached_property
    def fabric(self) -> Network:
        """The routers alone, as the hosts of a network whose trunks follow those of the hosts in `network`."""
        wiring = Wiring()
        self._wire(wiring, first_router=0, trunk=0)
        return wiring.network(self.routers, self._router_names, self.link_bps)

    @property
    def _router_names(self) -> tuple[str, ...]:
        inside = range(self.routers_per_group)
        return tuple(f"group{group}.router{router}" for group in range(self.groups) for router in inside)

    def _wire(self, wiring: Wiring, first_router: int, trunk: int) -> None:
        """Join the routers; every link is a trunk of its own."""
        a, others = self.routers_per_group, self.groups - 1
        left, right = np.triu_indices(a, 1)
        group = np.arange(self.groups)[:, None] * a
        local = (first_router + (group + left).ravel(), first_router + (group + right).ravel())
        open_ports = a * self.global_links - others * self.links_per_pair
        ports = np.full(a, self.global_links - open_ports // a)
        ports[a - open_ports % a :] -= 1
        router_of = np.repeat(np.arange(a), ports)
        low, high = np.triu_indices(self.groups, 1)
        port = np.arange(self.links_per_pair)[:, None] * others
        far = (
            first_router + (low * a + router_of[port + high - 1]).ravel(),
            first_router + (high * a + router_of[port + low]).ravel(),
        )
        for (first, second), cost in ((local, _LOCAL), (far, _GLOBAL)):
            number = trunk + np.arange(len(first))
            back = number + len(first)
            wiring.cable(first, second, trunk=number, back=back, latency_ps=self.latency_ps, route_cost=cost)
            trunk += 2 * len(first)

    @cached_property
    def _valiant(self) -> Valiant:
        group = np.arange(self.routers) // self.routers_per_group
        return Valiant(self.fabric, group, is_global=self.fabric.route_cost == _GLOBAL)

    @property
    def cuts(self) -> Dragonfly:
        """What is certain of routes whatever packets choose: that they are no shorter than minimal ones."""
        return replace(self, routing="minimal")

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Split every flow by its routing, UGAL as minimal; WorkloadError for impossible pairs.

        Minimal costs links x distinct pairs of routers, Valiant as much for every router where a flow may enter another
        group.
        """
        check_pairs(self.hosts, sources, targets)
        entry, leave = sources // self.hosts_per_router, targets // self.hosts_per_router
        away = np.flatnonzero(entry != leave)
        inner = self._between(entry[away], leave[away])
        count = len(sources)
        flow, every = np.arange(count), np.ones(count)
        place = csr_array((np.ones(len(away)), (away, np.arange(len(away)))), shape=(count, len(away)))
        ends = [csr_array((every, (flow, side)), shape=(count, self.hosts)) for side in (sources, targets)]
        latency_ps, hops = np.full(count, 2.0 * self.latency_ps), np.full(count, 2.0)
        latency_ps[away] += inner.latency_ps
        hops[away] += inner.hops
        share = csr_array(hstack([*ends, place @ inner.share], format="csr"))
        return Routes(share=share, latency_ps=latency_ps, hops=hops)

    def _between(self, entry: np.ndarray, leave: np.ndarray) -> Routes:
        """Return the routes between different routers."""
        if self.routing == "valiant":
            return self._valiant.routes(entry, leave)
        return minimal_routes(self.fabric, entry, leave)

    def spans(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Return how far hosts are apart: `routes` without shares; every pair of routers is looked at once."""
        entry, leave = sources // self.hosts_per_router, targets // self.hosts_per_router
        pair = entry * self.routers + leave
        asked = np.unique(pair[entry != leave])
        new = asked[np.isnan(self._far[1, asked])]
        if len(new):
            inner = self._between(*np.divmod(new, self.routers))
            self._far[:, new] = inner.latency_ps, inner.hops
        away = entry != leave
        latency_ps, hops = np.full(len(sources), 2.0 * self.latency_ps), np.full(len(sources), 2.0)
        latency_ps[away] += self._far[0, pair[away]]
        hops[away] += self._far[1, pair[away]]
        return span(latency_ps, hops)

    @cached_property
    def _far(self) -> np.ndarray:
        """Return latency and hops between routers, float64 [2, routers x routers]; NaN where nobody has asked yet."""
        return np.full((2, self.routers**2), np.nan)

    def loads(self, demand: np.ndarray) -> np.ndarray:
        """Return what a demand matrix [hosts, hosts] puts on every trunk, in the demand's unit, float64 [trunks]."""
        p, own = self.hosts_per_router, np.diag(demand)
        between = demand.reshape(self.routers, p, self.routers, p).sum(axis=(1, 3), dtype=float)
        return np.concatenate([demand.sum(axis=1) - own, demand.sum(axis=0) - own, self.fabric_loads(between)])

    def fabric_loads(self, demand: np.ndarray) -> np.ndarray:
        """Return what a demand matrix [routers, routers] puts on every trunk of `fabric`, float64 [trunks]."""
        return self._valiant.loads(demand) if self.routing == "valiant" else minimal_loads(self.fabric, demand)

    def grid(self, ranks: np.ndarray) -> None:  # noqa: ARG002 - the topology protocol asks every topology
        """Return None: a Dragonfly has no mesh to lay a collective on."""
        return

    def bill(self) -> Bill:
        """Return switches and cables of all planes, with routers that fit sharing a switch."""
        shape = (self.groups, self.routers_per_group, self.hosts_per_router, self.global_links)
        return dragonfly_bill(*shape, radix=self.radix).times(self.planes)
