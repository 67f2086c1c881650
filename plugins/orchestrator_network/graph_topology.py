"""Any network, written down link by link, with minimal routes.

Every flow is split evenly over its paths of fewest links. A host with several links forwards for others, as an
accelerator of a torus does; where hosts have two network ports that do not forward, write one plane and set ``planes``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, shortest_path

from orchestrator_network.cost import Bill
from orchestrator_network.errors import TopologyError
from orchestrator_network.graph import Network, Wiring
from orchestrator_network.routes import Routes, minimal_loads, minimal_routes
from orchestrator_network.shape_rules import check_links

# Distances are counted in 16 bits, and no path visits a node twice.
MOST_NODES = 32_000
MOST_LINKS = 1_000_000
# What a link between a host and a switch, and one between two hosts, cost where hosts are ends only: a way through a host
# costs some 2 x _END_COST more than one past it, unless that is longer.
_END_COST, _DIRECT_COST = 60, 119
_LONGEST_WAY = 2 * (_END_COST - 1)


@dataclass(frozen=True, kw_only=True)
class Cable:
    """``count`` equal duplex links between two nodes, numbered hosts first, then switches.

    ``gbps`` and ``latency_ps`` None take those of the topology; ``kind`` None is copper at a host, optical elsewhere,
    ``none`` is not bought.
    """

    first: int
    second: int
    gbps: float | None = None
    latency_ps: int | None = None
    count: int = 1
    kind: Literal["copper", "optical", "none"] | None = None


@dataclass(frozen=True, kw_only=True)
class GraphTopology:
    """A network of named hosts, named switches and cables; raises TopologyError for one that no flow could use.

    ``link_gbps`` and ``latency_ps`` are those of cables that state none. ``planes`` disjoint copies carry 1/planes of
    every message each and are alike, so one is simulated. ``hosts_forward``: hosts with several links pass packets on;
    False: they are ends only. ``server_switches``, by name, are parts of servers (NVSwitches): they are priced as such, and a
    host's links to them do not count as links to the network.
    """

    host_names: tuple[str, ...]
    switch_names: tuple[str, ...]
    cables: tuple[Cable, ...]
    name: str = "graph"
    link_gbps: float = 400.0
    planes: int = 1
    latency_ps: int = 1_000_000
    hosts_forward: bool = True
    server_switches: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        nodes, links = len(self.host_names) + len(self.switch_names), sum(cable.count for cable in self.cables)
        if self.hosts < 2 or not self.cables:
            raise TopologyError(f"a network needs at least 2 hosts and a link, got {self.hosts} and {links}")
        if nodes > MOST_NODES or links > MOST_LINKS:
            raise TopologyError(
                f"{nodes} nodes and {links} links are too many; the most are {MOST_NODES} and {MOST_LINKS}"
            )
        check_links(self.link_gbps, self.planes)
        strange = [name for name in self.server_switches if name not in self.switch_names]
        if strange:
            raise TopologyError(f"server_switches has `{strange[0]}`, which is no switch of this network")
        first, second = (np.array(ends) for ends in zip(*((one.first, one.second) for one in self.cables), strict=True))
        joined = csr_array((np.ones(len(first)), (first, second)), shape=(nodes, nodes))
        _, part = connected_components(joined, directed=False)
        stray = np.flatnonzero(part != part[0])
        if len(stray):
            name = (self.host_names + self.switch_names)[stray[0]]
            raise TopologyError(f"`{name}` is not joined to `{self.host_names[0]}`; add a link or leave it out")
        if not self.hosts_forward:
            self._check_ends()
        _ = self.network

    def _check_ends(self) -> None:
        """Refuse hosts that reach each other over hosts alone."""
        nodes = self.hosts + len(self.switch_names)
        first, second = (np.array(ends) for ends in zip(*((one.first, one.second) for one in self.cables), strict=True))
        between = (first >= self.hosts) & (second >= self.hosts)
        joined = csr_array((np.ones(between.sum()), (first[between], second[between])), shape=(nodes, nodes))
        parts, part = connected_components(joined, directed=False)
        if parts < nodes - _LONGEST_WAY:  # only then may a way between switches be that long
            reach = shortest_path(
                joined, directed=False, unweighted=True, indices=np.unique(part, return_index=True)[1]
            )
            if 2 * reach[np.isfinite(reach)].max() >= _LONGEST_WAY:
                raise TopologyError(
                    f"ways of {_LONGEST_WAY} links from switch to switch are too long where hosts are ends; join switches more closely"
                )
        host, other = np.minimum(first, second), np.maximum(first, second)
        up = (host < self.hosts) & (other >= self.hosts)
        touches = csr_array((np.ones(up.sum()), (host[up], part[other[up]])), shape=(self.hosts, part.max() + 1))
        if np.any((touches > 0).sum(0) == self.hosts):
            return
        direct = (other < self.hosts) & (host < self.hosts)
        near = csr_array((np.ones(direct.sum()), (host[direct], other[direct])), shape=(self.hosts, self.hosts))
        reached = (touches @ touches.T + near + near.T).toarray() > 0
        np.fill_diagonal(reached, True)
        if not reached.all():
            one, another = (self.host_names[place] for place in np.argwhere(~reached)[0])
            raise TopologyError(
                f"`{one}` reaches `{another}` only through other hosts, which are ends here; join switches"
            )

    @classmethod
    def from_file(cls, path: str | Path, *, link_gbps: float = 400.0, latency_ps: int = 1_000_000) -> GraphTopology:
        """Read a JSON or TOML file, by its suffix; TopologyError names the file, the entry and the reason.

        At the top: ``hosts`` and ``switches``, each a list of names, or a number n for host0 or switch0 and so on;
        ``links``, a list of tables; optional ``name``, ``planes``. A link has ``ends``, the names of two nodes, and
        optionally ``gbps`` (one direction of one link), ``latency_ns``, ``count`` of equal links and ``cable``
        (``copper``, ``optical``, or ``none`` for one that is not bought). Without them: ``link_gbps``, ``latency_ps``,
        1, and copper at a host, optical elsewhere. In TOML::

            hosts = 3
            switches = ["leaf"]
            links = [
                { ends = ["host0", "leaf"], gbps = 400, latency_ns = 500 },
                { ends = ["host1", "leaf"], gbps = 400, latency_ns = 500 },
                { ends = ["host2", "leaf"], gbps = 200, count = 2 },
            ]
        """
        from orchestrator_network.graph_file import read_graph

        return read_graph(Path(path), link_gbps=link_gbps, latency_ps=latency_ps)

    def with_latency(self, latency_ps: int) -> GraphTopology:
        """Return the same network with another latency, in picoseconds, of the links that state none of their own."""
        return replace(self, latency_ps=latency_ps)

    @property
    def hosts(self) -> int:
        """The number of hosts."""
        return len(self.host_names)

    @cached_property
    def link_bps(self) -> float:
        """Capacity of the slowest link in bits per second, which paces packets from switch to switch."""
        return float(self.network.capacity_bps.min())

    @cached_property
    def injection_bps(self) -> float:
        """What the host with the least can send in one plane, over all its links, in bits per second."""
        sent_bps = np.bincount(self.network.source, self.network.capacity_bps)
        return float(sent_bps[: self.hosts].min())

    @cached_property
    def _outside(self) -> np.ndarray:
        """Which links leave a host for the network; where a host has none, all of its own. Bool [links]."""
        network, inside = self.network, np.isin(self.network.names, self.server_switches)
        of_host = network.source < self.hosts
        outside = of_host & ~inside[network.target]
        enclosed = np.bincount(network.source[outside], minlength=network.nodes) == 0
        return np.asarray(outside | (of_host & enclosed[network.source]))

    @property
    def outside_gbps(self) -> float:
        """What the host with the least can send to the network in one plane in Gb/s, its own server's switches aside."""
        network = self.network
        sent_bps = np.bincount(network.source[self._outside], network.capacity_bps[self._outside], self.hosts)
        return float(sent_bps.min() / 1e9)

    @property
    def local_links(self) -> int:
        """The number of links of the first host into its own server."""
        return int(((self.network.source == 0) & ~self._outside).sum())

    @cached_property
    def network(self) -> Network:
        """One plane as a graph; the equal links of a cable are one trunk."""
        wiring = Wiring()
        number = np.repeat(np.arange(len(self.cables)), [cable.count for cable in self.cables])
        speeds = [self.link_gbps if cable.gbps is None else cable.gbps for cable in self.cables]
        delays = [self.latency_ps if cable.latency_ps is None else cable.latency_ps for cable in self.cables]
        wiring.cable(
            np.array([cable.first for cable in self.cables])[number],
            np.array([cable.second for cable in self.cables])[number],
            trunk=number,
            back=len(self.cables) + number,
            latency_ps=np.array(delays, np.int64)[number],
            link_bps=np.array(speeds, float)[number] * 1e9,
        )
        network = wiring.network(self.hosts, self.host_names + self.switch_names, self.link_gbps * 1e9)
        if self.hosts_forward:
            return network
        hosts_of_link = (network.source < self.hosts).astype(int) + (network.target < self.hosts)
        cost = np.array([1, _END_COST, _DIRECT_COST], np.int8)[hosts_of_link]
        return replace(network, route_cost=cost, ends_only=True)

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Split every flow evenly over its minimal paths; WorkloadError for impossible pairs."""
        return minimal_routes(self.network, sources, targets)

    def loads(self, demand: np.ndarray) -> np.ndarray:
        """Return what a demand matrix [hosts, hosts] puts on every trunk, in the demand's unit, float64 [trunks]."""
        return minimal_loads(self.network, demand)

    def grid(self, ranks: np.ndarray) -> None:  # noqa: ARG002 - the topology protocol asks every topology
        """Return None: nothing says that a graph is a mesh."""
        return

    @property
    def bought_gbps(self) -> float:
        """The mean speed of the links that are bought, in Gb/s."""
        bought = [cable for cable in self.cables if cable.kind != "none"] or list(self.cables)
        speeds = [self.link_gbps if cable.gbps is None else cable.gbps for cable in bought]
        return float(np.average(speeds, weights=[cable.count for cable in bought]))

    def bill(self) -> Bill:
        """Return switches and cables of all planes, one switch a node; those of servers by themselves."""
        pieces = {"copper": 0, "optical": 0, "none": 0}
        for cable in self.cables:
            at_host = min(cable.first, cable.second) < self.hosts
            pieces[cable.kind or ("copper" if at_host else "optical")] += cable.count
        inside = len(self.server_switches)
        bill = Bill(
            switches=len(self.switch_names) - inside,
            dac_cables=pieces["copper"],
            aoc_cables=pieces["optical"],
            nvswitches=inside,
        )
        return bill.times(self.planes)
