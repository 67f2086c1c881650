"""Rail-optimised clusters: servers of GPUs on a fast switch of their own, and a rail for every GPU of a server.

GPU i of every server of a unit is cabled to leaf switch i of the unit, its rail; a unit is as many servers as a leaf has
ports down. Leaves meet in logical spines with any taper at the leaf, as in a fat tree of two tiers, or in none
(`oversubscription=None`, one unit): then other rails are reached through servers alone (Wang et al., arXiv:2307.12169).

Routes are one of two ways, up-down paths sprayed evenly. With ``cross_rail="nvlink"`` a flow from GPU i to GPU j of
another server crosses its own server to GPU j first and then takes rail j, as NCCL's PXN does. With
``cross_rail="spine"`` it takes rail i up and comes down rail j. Flows inside a server stay on its switch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.sparse import csr_array

from orchestrator_network.cost import Bill, rail_bill
from orchestrator_network.errors import TopologyError
from orchestrator_network.graph import Barred, Network, Wiring
from orchestrator_network.routes import Routes, check_pairs, paced, summed_loads
from orchestrator_network.shape_rules import check_links, check_rails, nodes_a_unit
from orchestrator_network.wire import PS_PER_S

#: Of links, for packets: a way over a spine is shorter than one over two servers, and one inside a server than over rails.
_RAIL_COST, _LOCAL_COST = 2, 3


@dataclass(frozen=True, kw_only=True)
class RailOptimized:
    """``nodes`` servers of ``gpus_per_node`` GPUs; host id = server x gpus_per_node + GPU.

    ``link_gbps`` is the speed of a rail's links, ``local_gbps`` that between a GPU and the switch of its server, both in
    one plane and one direction. ``planes`` disjoint copies carry 1/planes of every message each and are alike, so one
    is simulated. ``latency_ps`` is that of one link, ``local_latency_ps`` of one inside a server (None: the same).
    Impossible shapes raise :class:`TopologyError`.
    """

    nodes: int
    gpus_per_node: int = 8
    link_gbps: float = 400.0
    local_gbps: float = 3600.0
    oversubscription: float | None = 1
    cross_rail: Literal["nvlink", "spine"] = "nvlink"
    radix: int = 64
    planes: int = 1
    latency_ps: int = 1_000_000
    local_latency_ps: int | None = None

    def __post_init__(self) -> None:
        check_links(self.link_gbps, self.planes)
        if not self.local_gbps > 0:
            raise TopologyError(f"local_gbps must be above 0, got {self.local_gbps}")
        check_rails(self.nodes, self.gpus_per_node, self.oversubscription, self.cross_rail, self.radix)

    def with_latency(self, latency_ps: int) -> RailOptimized:
        """Return the same cluster with another latency a link, in picoseconds."""
        return replace(self, latency_ps=latency_ps)

    @property
    def hosts(self) -> int:
        """The number of GPUs."""
        return self.nodes * self.gpus_per_node

    @property
    def name(self) -> str:
        """The family, its way across rails and its taper, for tables."""
        if self.oversubscription is None:
            return "rail_only"
        taper = "" if self.oversubscription == 1 else f"_{self.oversubscription:g}to1"
        return f"rail_optimized_{self.cross_rail}{taper}"

    @property
    def nodes_per_unit(self) -> int:
        """Servers whose GPUs share leaves: the ports down of a leaf, or all servers if they are fewer."""
        return nodes_a_unit(self.nodes, self.oversubscription, self.radix)

    @property
    def units(self) -> int:
        """Sets of leaves, one leaf a rail; the last one may be partly filled."""
        return math.ceil(self.nodes / self.nodes_per_unit)

    @property
    def leaves(self) -> int:
        """The number of leaf switches."""
        return self.units * self.gpus_per_node

    @property
    def uplinks(self) -> int:
        """Links from a leaf to the spines, one to each."""
        if self.oversubscription is None:
            return 0
        free = self.radix - self.nodes_per_unit
        return min(free, math.ceil(self.nodes_per_unit / self.oversubscription))

    @property
    def link_bps(self) -> float:
        """Capacity of one link of a rail in bits per second."""
        return self.link_gbps * 1e9

    @property
    def injection_bps(self) -> float:
        """What one GPU can send in one plane, into its rail and its server together, in bits per second."""
        return (self.link_gbps + self.local_gbps) * 1e9

    @property
    def _inside_ps(self) -> int:
        return self.latency_ps if self.local_latency_ps is None else self.local_latency_ps

    def _leaf_of(self, host: np.ndarray) -> np.ndarray:
        unit = host // self.gpus_per_node // self.nodes_per_unit
        return np.asarray(unit * self.gpus_per_node + host % self.gpus_per_node)

    @cached_property
    def network(self) -> Network:
        """One plane as a graph; trunks are rail up and down and local up and down of every GPU, then those of leaves."""
        wiring, host, leaf = Wiring(), np.arange(self.hosts), np.arange(self.leaves)
        first_leaf = self.hosts + self.nodes
        first_spine = first_leaf + self.leaves
        wiring.cable(
            host,
            first_leaf + self._leaf_of(host),
            trunk=host,
            back=self.hosts + host,
            latency_ps=self.latency_ps,
            route_cost=_RAIL_COST,
        )
        wiring.cable(
            host,
            self.hosts + host // self.gpus_per_node,
            trunk=2 * self.hosts + host,
            back=3 * self.hosts + host,
            latency_ps=self._inside_ps,
            route_cost=_LOCAL_COST,
            link_bps=self.local_gbps * 1e9,
        )
        if self.uplinks:
            wiring.cable(
                first_leaf + leaf[:, None],
                first_spine + np.arange(self.uplinks),
                trunk=4 * self.hosts + leaf[:, None],
                back=4 * self.hosts + self.leaves + leaf[:, None],
                latency_ps=self.latency_ps,
                route_cost=_RAIL_COST,
            )
        names = [f"node{i // self.gpus_per_node}.gpu{i % self.gpus_per_node}" for i in host]
        names += [f"node{i}.switch" for i in range(self.nodes)]
        names += [f"unit{i // self.gpus_per_node}.rail{i % self.gpus_per_node}" for i in leaf]
        names += [f"spine{i}" for i in range(self.uplinks)]
        built = wiring.network(self.hosts, tuple(names), self.link_bps)
        if self.cross_rail == "spine":
            return built
        # A GPU sends into its rail what is for its rail alone, so that servers are crossed before rails, and spines never between them.
        rail = host % self.gpus_per_node
        up = np.flatnonzero((built.source < self.hosts) & (built.target >= first_leaf))
        barred = np.zeros((self.gpus_per_node, built.links), bool)
        barred[:, up] = rail[built.source[up]] != np.arange(self.gpus_per_node)[:, None]
        return replace(built, barred=Barred(of=rail, links=barred))

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Send every flow its way, in closed form; WorkloadError for impossible pairs."""
        check_pairs(self.hosts, sources, targets)
        g, hosts = self.gpus_per_node, self.hosts
        near = sources // g == targets // g
        # The GPU of the source's server that sends into a rail, and the one through which the server is crossed.
        sender = sources.copy()
        if self.cross_rail == "nvlink":
            sender = np.where(near, sources, sources // g * g + targets % g)
        crosses = np.flatnonzero(near | (sender != sources))
        receiver = np.where(near, targets, sender)
        away = np.flatnonzero(~near)
        up, down = self._leaf_of(sender), self._leaf_of(targets)
        far = np.flatnonzero(~near & (up != down))
        row = np.concatenate([crosses, crosses, away, away, far, far])
        column = np.concatenate(
            [
                2 * hosts + sources[crosses],
                3 * hosts + receiver[crosses],
                sender[away],
                hosts + targets[away],
                4 * hosts + up[far],
                4 * hosts + self.leaves + down[far],
            ]
        )
        shape = (len(sources), len(self.network.trunk_bps))
        latency_ps, hops = np.zeros(len(sources)), np.zeros(len(sources))
        for flows, link_ps in ((crosses, self._inside_ps), (away, self.latency_ps), (far, self.latency_ps)):
            latency_ps[flows] += 2.0 * link_ps
            hops[flows] += 2.0
        local_ps, rail_ps = (8 * PS_PER_S / (gbps * 1e9) for gbps in (self.local_gbps, self.link_gbps))
        inside = np.bincount(crosses, minlength=len(sources)) * 2.0
        share = csr_array((np.ones(len(row)), (row, column)), shape=shape)
        return paced(
            Routes(share=share, latency_ps=latency_ps, hops=hops),
            inside * local_ps + (hops - inside) * rail_ps,
            self.network.trunk_bps,
        )

    def loads(self, demand: np.ndarray) -> np.ndarray:
        """Return what a demand matrix [hosts, hosts] puts on every trunk, in the demand's unit, float64 [trunks]."""
        return summed_loads(self.routes, demand, len(self.network.trunk_bps))

    def grid(self, ranks: np.ndarray) -> np.ndarray | None:
        """Return the hosts as a grid [servers, rails] if they are the same GPUs of some servers, else None."""
        nodes, rails = (np.unique(place) for place in np.divmod(ranks, self.gpus_per_node))
        if len(nodes) * len(rails) != len(ranks) or len(np.unique(ranks)) != len(ranks):
            return None
        return np.asarray(nodes[:, None] * self.gpus_per_node + rails)

    def bill(self) -> Bill:
        """Return switches and cables of all planes; the switch inside a server comes with the server."""
        return rail_bill(self.hosts, self.leaves, self.uplinks, radix=self.radix).times(self.planes)
