"""A network as arrays: directed links between hosts and switches, and the trunks that spraying loads alike.

Nodes are numbered hosts first, then switches. A *trunk* is a set of parallel or symmetric links that minimal
multi-path routing loads equally (all uplinks of one leaf switch, for example): a flow that sends a share w of its
bytes through a trunk of n links sends w / n through each. Max-min fairness over trunks is therefore exact, and much
smaller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, shortest_path

from orchestrator_network.errors import TopologyError
from orchestrator_network.shape_rules import Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class Detours:
    """Ways over a third area: ``area`` int64 [nodes], -1 for none; ``rule`` who takes them, see `packet.detours`.

    For ``dal`` areas are the places of a grid of ``columns``, row-major.
    """

    rule: Rule
    area: np.ndarray
    columns: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelOrder:
    """An order of links for virtual channels, see `deadlock`: ``rank`` int64 [links], ``phase`` int64 [links] from 0.

    Where a network needs channels, switches take, of several minimal ways, those of the least phase.
    """

    rank: np.ndarray
    phase: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Barred:
    """Links that packets to some hosts do not take: ``of`` int64 [hosts], the class of a host; ``links`` bool [classes, links].

    What minimal routing cannot tell apart by costs: a server is crossed before a rail, and not behind it.
    """

    of: np.ndarray
    links: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """Directed links; every link has its reverse.

    ``source``, ``target``, ``trunk`` int32 [links]; ``capacity_bps`` float64 [links] in bits per second;
    ``latency_ps`` int64 [links] in picoseconds; ``route_cost`` int16 [links], what minimal routing counts;
    ``names`` one a node. ``route_weight`` float64 [links]: minimal paths are taken in proportion to the product of the
    weights of their links; None takes all alike, and a link of weight 0 has failed: no route takes it. ``detours``: packets may leave minimal
    routes. ``channel_order``: what keeps virtual channels few, None for one that fits any network. ``barred``: links that
    packets to some hosts do not take. ``ends_only``: no route leads through a host, whatever its links; costs see to it.
    ``sized_bps``: queues, thresholds, windows and round trip are those of a network of links of that rate, as htsim has them
    where the tiers of a fat tree differ; None: of the rates that links have.
    """

    hosts: int
    names: tuple[str, ...]
    source: np.ndarray
    target: np.ndarray
    capacity_bps: np.ndarray
    latency_ps: np.ndarray
    trunk: np.ndarray
    route_cost: np.ndarray
    route_weight: np.ndarray | None = None
    detours: Detours | None = None
    channel_order: ChannelOrder | None = None
    barred: Barred | None = None
    ends_only: bool = False
    sized_bps: float | None = None

    @property
    def nodes(self) -> int:
        """The number of hosts and switches."""
        return len(self.names)

    @property
    def links(self) -> int:
        """The number of directed links."""
        return len(self.source)

    @cached_property
    def trunk_bps(self) -> np.ndarray:
        """Return the capacity of every trunk in bits per second, float64 [trunks]."""
        return np.bincount(self.trunk, weights=self.capacity_bps)

    @cached_property
    def trunk_links(self) -> np.ndarray:
        """Return the number of links of every trunk, int64 [trunks]."""
        return np.bincount(self.trunk)

    @property
    def one_speed(self) -> bool:
        """Whether all links that have any capacity have the same."""
        return bool(np.all((self.capacity_bps == self.capacity_bps.max()) | (self.capacity_bps == 0)))

    def classes(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield hosts, bool [hosts], that packets may come to over the same links, and those links, bool [links]; failed ones among them."""
        if self.barred is None:
            yield np.ones(self.hosts, bool), np.ones(self.links, bool)
            return
        for number, barred in enumerate(self.barred.links):
            yield self.barred.of == number, ~barred

    def adjacency(self) -> csr_array:
        """Return how many links lead from node to node, [nodes, nodes]."""
        ones = np.ones(self.links)
        return csr_array((ones, (self.source, self.target)), shape=(self.nodes, self.nodes))

    def degree(self) -> np.ndarray:
        """Return the number of outgoing links of every node, int64 [nodes]."""
        return np.bincount(self.source, minlength=self.nodes)

    def diameter(self) -> int:
        """Return the largest number of links on a shortest path between two hosts, by breadth-first search."""
        # Where hosts are ends only, links leave copies of them, which no link leads to.
        shift = self.nodes if self.ends_only else 0
        source = np.where(self.source < self.hosts, self.source + shift, self.source)
        size = self.nodes + (self.hosts if shift else 0)
        adjacency = csr_array((np.ones(self.links), (source, self.target)), shape=(size, size))
        origins = np.arange(self.hosts) + shift
        distance = shortest_path(adjacency, unweighted=True, indices=origins)[:, : self.hosts]
        np.fill_diagonal(distance, 0)
        return int(distance.max())

    def check(self) -> None:
        """Refuse a network that no flow could use, with the reason."""
        if self.hosts < 2:
            raise TopologyError(f"a network needs at least 2 hosts, got {self.hosts}")
        if self.links == 0 or not np.all(self.capacity_bps > 0):
            raise TopologyError("every link needs a capacity above 0 bit/s; set link_gbps to a positive number")
        if np.any(self.latency_ps < 0):
            raise TopologyError("link latency is negative; set latency_ps to 0 or more")
        parts, label = connected_components(self.adjacency(), directed=False)
        reached = np.unique(label[: self.hosts])
        if len(reached) > 1:
            raise TopologyError(f"the network is disconnected: its hosts fall into {len(reached)} of {parts} parts")


class Wiring:
    """Collects duplex cables and returns them as a :class:`Network`."""

    def __init__(self) -> None:
        self._columns: list[tuple[np.ndarray, ...]] = []

    def cable(
        self,
        first: np.ndarray,
        second: np.ndarray,
        *,
        trunk: np.ndarray,
        back: np.ndarray,
        latency_ps: int | np.ndarray,
        route_cost: int = 1,
        link_bps: float | np.ndarray | None = None,
    ) -> None:
        """Join ``first[i]`` and ``second[i]`` both ways, in trunk ``trunk[i]`` forward and ``back[i]`` in reverse.

        ``link_bps`` None takes the speed of the network.
        """
        ends = np.broadcast_arrays(first, second, trunk, back)
        first, second, trunk, back = (np.ravel(column).astype(np.int32) for column in ends)
        size = len(first)
        latencies = np.broadcast_to(np.asarray(latency_ps, np.int64), size)
        speeds = np.broadcast_to(np.asarray(np.nan if link_bps is None else link_bps, float), size)
        for columns in ((first, second, trunk), (second, first, back)):
            self._columns.append((*columns, latencies, np.full(size, route_cost, np.int16), speeds))

    def network(self, hosts: int, names: tuple[str, ...], link_bps: float) -> Network:
        """Return the checked network; links without a speed of their own have the capacity ``link_bps``."""
        source, target, trunk, latency_ps, route_cost, own_bps = (
            np.concatenate(part) for part in zip(*self._columns, strict=True)
        )
        _, trunk = np.unique(trunk, return_inverse=True)
        built = Network(
            hosts=hosts,
            names=names,
            source=source,
            target=target,
            capacity_bps=np.where(np.isnan(own_bps), float(link_bps), own_bps),
            latency_ps=latency_ps,
            trunk=trunk.astype(np.int32),
            route_cost=route_cost,
        )
        built.check()
        return built
