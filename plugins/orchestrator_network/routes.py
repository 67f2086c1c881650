"""Which share of a flow crosses which trunk, when it is split evenly over its minimal paths.

With sigma(s, v) the number of minimal paths from s to v, the share of flow s -> t on link (u, v) is sigma(s, u)
sigma(v, t) / sigma(s, t) where the link lies on a minimal path, else 0. Distances add up ``route_cost``.
`MinimalRouting.routes` evaluates this for single flows, `MinimalRouting.loads` sums it over a whole demand matrix
by the backward accumulation of Brandes (2001), which costs links x sources instead of links x sources x targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array, vstack

from orchestrator_network.errors import WorkloadError
from orchestrator_network.graph import Network

_CELLS = 4_000_000  # dense working set of one block, in array cells
_KEPT_CELLS = 8_000_000  # distances from all hosts are kept up to this many


@dataclass(frozen=True, kw_only=True, eq=False)
class Routes:
    """Routes of flows: ``share`` [flows, trunks]; ``latency_ps``, ``hops`` float64 [flows], means over its paths."""

    share: csr_array
    latency_ps: np.ndarray
    hops: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reach:
    """Minimal distance int16 and number of minimal paths float64 from origins to nodes, both [origins, nodes]."""

    distance: np.ndarray
    paths: np.ndarray


def check_pairs(hosts: int, sources: np.ndarray, targets: np.ndarray) -> None:
    """Refuse flows from or to hosts that do not exist, and flows from a host to itself."""
    for name, side in (("source", sources), ("target", targets)):
        if len(side) and (side.min() < 0 or side.max() >= hosts):
            outside = side[(side < 0) | (side >= hosts)][0]
            raise WorkloadError(f"{name} {outside} is not a host: this topology has hosts 0 to {hosts - 1}")
    same = np.flatnonzero(sources == targets)
    if len(same):
        raise WorkloadError(f"flow {same[0]} goes from host {sources[same[0]]} to itself; leave such flows out")


class MinimalRouting:
    """Minimal multi-path routing on any network; keeps the distances from all hosts where they are small."""

    def __init__(self, network: Network) -> None:
        self.network = network
        shape = (network.nodes, network.nodes)
        # For each route cost, the matrix that carries path counts from nodes to their successors.
        self._steps: dict[int, csr_array] = {}
        for cost in np.unique(network.route_cost):
            chosen = network.route_cost == cost
            ones = np.ones(int(chosen.sum()))
            self._steps[int(cost)] = csr_array((ones, (network.target[chosen], network.source[chosen])), shape=shape)

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Split every flow evenly over its minimal paths; raise WorkloadError for impossible pairs."""
        network = self.network
        check_pairs(network.hosts, sources, targets)
        kept = network.hosts * network.nodes <= _KEPT_CELLS
        # Half of the origins of a search are sources, half are targets.
        most = len(sources) if kept else max(1, _KEPT_CELLS // network.nodes // 2)
        parts = []
        for begin in range(0, len(sources), most):
            pair = sources[begin : begin + most], targets[begin : begin + most]
            ends, row = np.unique(np.concatenate(pair), return_inverse=True)
            reach, row = (self._from_all, ends[row]) if kept else (self._search(ends), row)
            parts.append(self._evaluate(reach, row[: len(pair[0])], row[len(pair[0]) :], pair[1]))
        return Routes(
            share=csr_array(vstack([part.share for part in parts], format="csr")),
            latency_ps=np.concatenate([part.latency_ps for part in parts]),
            hops=np.concatenate([part.hops for part in parts]),
        )

    def _evaluate(self, reach: _Reach, from_row: np.ndarray, to_row: np.ndarray, targets: np.ndarray) -> Routes:
        """Apply the formula above to flows whose ends have the given rows in ``reach``."""
        network = self.network
        flows, trunks, values, latency, hops = [], [], [], [], []
        block = max(1, _CELLS // network.links)
        for begin in range(0, len(targets), block):
            a, b, t = (rows[begin : begin + block] for rows in (from_row, to_row, targets))
            # Links are duplex with equal cost, so the distance from v to t is the distance from t to v.
            along = np.take(reach.distance[a], network.source, axis=1)
            along += network.route_cost
            along += np.take(reach.distance[b], network.target, axis=1)
            flow, link = np.divmod(np.flatnonzero(along == reach.distance[a, t][:, None]), network.links)
            from_paths = reach.paths[a[flow], network.source[link]]
            to_paths = reach.paths[b[flow], network.target[link]]
            share = from_paths * to_paths / reach.paths[a, t][flow]
            flows.append(flow + begin)
            trunks.append(network.trunk[link])
            values.append(share)
            latency.append(np.bincount(flow, share * network.latency_ps[link], minlength=len(a)))
            hops.append(np.bincount(flow, share, minlength=len(a)))
        entries = (np.concatenate(values), (np.concatenate(flows), np.concatenate(trunks)))
        shares = csr_array(entries, shape=(len(targets), len(network.trunk_bps)))
        shares.sum_duplicates()
        return Routes(share=shares, latency_ps=np.concatenate(latency), hops=np.concatenate(hops))

    def loads(self, demand: np.ndarray) -> np.ndarray:
        """Return what a whole demand matrix puts on every trunk.

        ``demand`` float64 [hosts, hosts], row = source, any unit, diagonal ignored; returns float64 [trunks] in
        that unit.
        """
        network = self.network
        loads = np.zeros(len(network.trunk_bps))
        block = max(1, _CELLS // network.links)
        senders = np.flatnonzero(demand.sum(axis=1) - np.diag(demand))
        for begin in range(0, len(senders), block):
            origins = senders[begin : begin + block]
            wanted = np.zeros((network.nodes, len(origins)))
            wanted[: network.hosts] = demand[origins].T
            wanted[origins, np.arange(len(origins))] = 0
            loads += np.bincount(network.trunk, self._accumulate(self._search(origins), wanted), len(loads))
        return loads

    @cached_property
    def _from_all(self) -> _Reach:
        return self._search(np.arange(self.network.hosts))

    def _search(self, origins: np.ndarray) -> _Reach:
        """Search breadth-first from all origins at once, one level of distance after the other."""
        network = self.network
        distance = np.full((network.nodes, len(origins)), -1, np.int16)
        paths = np.zeros((network.nodes, len(origins)))
        distance[origins, np.arange(len(origins))] = 0
        paths[origins, np.arange(len(origins))] = 1
        frontier = {0: paths.copy()}
        level = 0
        while np.any(distance < 0):
            level += 1
            found = np.zeros_like(paths)
            for cost, step in self._steps.items():
                if level - cost in frontier:
                    found += step @ frontier[level - cost]
            found[distance >= 0] = 0
            distance[found > 0] = level
            paths += found
            frontier[level] = found
            frontier.pop(level - max(self._steps), None)
            assert level <= max(self._steps) * network.nodes, "a checked network is connected"
        return _Reach(distance=np.ascontiguousarray(distance.T), paths=np.ascontiguousarray(paths.T))

    def _accumulate(self, reach: _Reach, wanted: np.ndarray) -> np.ndarray:
        """Push demand [nodes, origins] back from the farthest nodes; return the load of every link over all origins."""
        network = self.network
        distance, paths = np.ascontiguousarray(reach.distance.T), np.ascontiguousarray(reach.paths.T)
        load = np.zeros(network.links)
        carried = wanted.copy()
        for level in range(int(distance.max()), 0, -1):
            # Demand that ends or passes at this level, per minimal path that reaches it.
            each_path = np.where(distance == level, carried / paths, 0.0)
            for cost, step in self._steps.items():
                before = np.where(distance == level - cost, paths, 0.0)
                carried += before * (step.T @ each_path)
                links = np.flatnonzero(network.route_cost == cost)
                load[links] += np.einsum("ls,ls->l", before[network.source[links]], each_path[network.target[links]])
        return load
