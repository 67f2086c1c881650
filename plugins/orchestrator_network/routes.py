"""Which share of a flow crosses which trunk, when it is split evenly over its minimal paths.

With sigma(s, v) the number of minimal paths from s to v, the share of flow s -> t on link (u, v) is
sigma(s, u) sigma(v, t) / sigma(s, t) where the link lies on a minimal path, else 0. Distances add up ``route_cost``.
Where links have a ``route_weight``, a path counts for the product of the weights of its links, and so does sigma; a weight
of 0 takes a link out.
Topologies evaluate it for single flows in closed form where they have one, `minimal_routes` does on any network;
`minimal_loads` sums it over a whole demand matrix by the backward accumulation of Brandes (2001), which costs links x
sources instead of links x sources x targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array, vstack

from orchestrator_network.errors import WorkloadError
from orchestrator_network.fairness import alone_rates
from orchestrator_network.graph import Network

_PS_A_BYTE = 8e12  # at 1 bit per second
_CELLS = 4_000_000  # dense working set of one block, in array cells


@dataclass(frozen=True, kw_only=True, eq=False)
class Routes:
    """Routes of flows: ``share`` [flows, trunks]; ``latency_ps``, ``hops`` float64 [flows], means over its paths.

    Where links have several speeds, ``stored_ps`` and ``paced_ps`` float64 [flows], ps a byte: what all links of a path take
    together, and what the flow takes at the rate that it has alone.
    """

    share: csr_array
    latency_ps: np.ndarray
    hops: np.ndarray
    stored_ps: np.ndarray | None = None
    paced_ps: np.ndarray | None = None

    def of(self, flows: np.ndarray) -> Routes:
        """Return the routes of these flows, by number and in this order."""
        return Routes(
            share=self.share[flows],
            latency_ps=self.latency_ps[flows],
            hops=self.hops[flows],
            stored_ps=None if self.stored_ps is None else self.stored_ps[flows],
            paced_ps=None if self.paced_ps is None else self.paced_ps[flows],
        )


def span(latency_ps: np.ndarray, hops: np.ndarray) -> Routes:
    """Return what `Wire.arrival_ps` asks of routes over links of one speed, without shares."""
    return Routes(share=csr_array((len(hops), 0)), latency_ps=latency_ps, hops=hops)


def check_pairs(hosts: int, sources: np.ndarray, targets: np.ndarray) -> None:
    """Refuse flows from or to hosts that do not exist, and flows from a host to itself."""
    for name, side in (("source", sources), ("target", targets)):
        if len(side) and (side.min() < 0 or side.max() >= hosts):
            outside = side[(side < 0) | (side >= hosts)][0]
            raise WorkloadError(f"{name} {outside} is not a host: this topology has hosts 0 to {hosts - 1}")
    same = np.flatnonzero(sources == targets)
    if len(same):
        raise WorkloadError(f"flow {same[0]} goes from host {sources[same[0]]} to itself; leave such flows out")


def minimal_loads(network: Network, demand: np.ndarray) -> np.ndarray:
    """Return what a whole demand matrix puts on every trunk.

    ``demand`` float64 [hosts, hosts], row = source, any unit, diagonal ignored; returns float64 [trunks] in that unit.
    """
    senders = np.flatnonzero(demand.sum(axis=1) - np.diag(demand))
    return np.bincount(network.trunk, minimal_link_loads(network, senders, lambda origins: demand[origins].T))


def minimal_link_loads(
    network: Network, senders: np.ndarray, wanted_of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return what ``senders`` put on every link, float64 [links].

    ``wanted_of(origins)`` is what some of them send to every host, float64 [hosts, origins]; so no matrix of all pairs
    is needed where few senders stand for all.
    """
    steps = _steps(network)
    load = np.zeros(network.links)
    block = max(1, _CELLS // network.links)
    for begin in range(0, len(senders), block):
        origins = senders[begin : begin + block]
        wanted = np.zeros((network.nodes, len(origins)))
        wanted[: network.hosts] = wanted_of(origins)
        wanted[origins, np.arange(len(origins))] = 0
        distance, paths = _search(network, steps, origins)
        for links, before, after in _crossings(network, steps, distance, paths, wanted):
            load[links] += np.einsum("ls,ls->l", before, after)
    return load


def minimal_routes(network: Network, sources: np.ndarray, targets: np.ndarray) -> Routes:
    """Split every flow evenly over its minimal paths, on any network; WorkloadError for impossible pairs.

    Costs links x distinct pairs, so a topology with a closed form is better off with that.
    """
    check_pairs(network.hosts, sources, targets)
    pairs, pair_of = np.unique(np.stack([sources, targets]), axis=1, return_inverse=True)
    steps = _steps(network)
    block = max(1, _CELLS // network.links)
    parts = [csr_array((0, network.links))]
    for begin in range(0, pairs.shape[1], block):
        source, target = pairs[:, begin : begin + block]
        origins, column = np.unique(source, return_inverse=True)
        distance, paths = (found[:, column] for found in _search(network, steps, origins))
        wanted = np.zeros((network.nodes, len(source)))
        wanted[target, np.arange(len(source))] = 1
        share = csr_array((len(source), network.links))
        for links, before, after in _crossings(network, steps, distance, paths, wanted):
            used, flow = np.nonzero(before * after)
            part = before[used, flow] * after[used, flow]
            share += csr_array((part, (flow, links[used])), shape=share.shape)
        parts.append(share)
    return routes_over_links(network, csr_array(vstack(parts, format="csr"))[pair_of.ravel()])


def routes_over_links(network: Network, share: csr_array) -> Routes:
    """Return the routes of flows that send ``share`` [flows, links] of their bytes over every single link."""
    member = csr_array((np.ones(network.links), (np.arange(network.links), network.trunk)))
    routes = Routes(
        share=csr_array(share @ member),
        latency_ps=np.asarray(share @ network.latency_ps.astype(float)),
        hops=np.asarray(share.sum(axis=1)),
    )
    if network.one_speed:
        return routes
    return paced(routes, np.asarray(share @ (_PS_A_BYTE / network.capacity_bps)), network.trunk_bps)


def paced(routes: Routes, stored_ps: np.ndarray, trunk_bps: np.ndarray) -> Routes:
    """Return the routes with what their links take a byte, float64 [flows], and what that alone makes of it."""
    return replace(routes, stored_ps=stored_ps, paced_ps=_PS_A_BYTE / alone_rates(routes.share, trunk_bps))


def summed_loads(route: Callable[[np.ndarray, np.ndarray], Routes], demand: np.ndarray, trunks: int) -> np.ndarray:
    """Return what a demand matrix [hosts, hosts] puts on every trunk by adding up its flows, float64 [trunks]."""
    loads = np.zeros(trunks)
    block = max(1, _CELLS // 4 // len(demand))
    for begin in range(0, len(demand), block):
        source, target = np.nonzero(demand[begin : begin + block])
        source = source + begin
        source, target = source[source != target], target[source != target]
        loads += demand[source, target] @ route(source, target).share
    return loads


def _weight(network: Network) -> np.ndarray:
    return np.ones(network.links) if network.route_weight is None else network.route_weight


def _steps(network: Network) -> dict[int, csr_array]:
    """Return, for each route cost, the matrix that carries path weights from nodes to their successors."""
    shape = (network.nodes, network.nodes)
    steps = {}
    for cost in np.unique(network.route_cost):
        chosen = network.route_cost == cost
        weight = _weight(network)[chosen]
        steps[int(cost)] = csr_array((weight, (network.target[chosen], network.source[chosen])), shape=shape)
    return steps


def _search(network: Network, steps: dict[int, csr_array], origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distances int16 and numbers of minimal paths float64, both [nodes, origins], level by level."""
    distance = np.full((network.nodes, len(origins)), -1, np.int16)
    paths = np.zeros((network.nodes, len(origins)))
    distance[origins, np.arange(len(origins))] = 0
    paths[origins, np.arange(len(origins))] = 1
    frontier = {0: paths.copy()}
    level, missing = 0, distance.size - len(origins)
    while missing and frontier:  # what no route reaches stays behind: a switch whose cables failed
        level += 1
        before = [(step, frontier[level - cost]) for cost, step in steps.items() if level - cost in frontier]
        frontier.pop(level - max(steps), None)
        if before:
            found = sum(step @ reached for step, reached in before)
            found[distance >= 0] = 0
            new = found > 0
            missing -= int(new.sum())
            distance[new] = level
            paths += found
            if new.any():
                frontier[level] = found
    return distance, paths


def _crossings(
    network: Network, steps: dict[int, csr_array], distance: np.ndarray, paths: np.ndarray, wanted: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Push demand [nodes, columns] back from the farthest nodes.

    Yields links and two factors [links, columns] whose product is their load; a link has one product above 0 a column.
    """
    carried, weight = wanted.copy(), _weight(network)
    levels = np.unique(distance)
    for level in levels[levels > 0][::-1]:
        # Demand that ends or passes at this level, per minimal path that reaches it.
        each_path = np.divide(carried, paths, out=np.zeros_like(carried), where=distance == level)
        for cost, step in steps.items():
            before = np.where(distance == level - cost, paths, 0.0)
            carried += before * (step.T @ each_path)
            links = np.flatnonzero(network.route_cost == cost)
            yield links, before[network.source[links]] * weight[links, None], each_path[network.target[links]]
