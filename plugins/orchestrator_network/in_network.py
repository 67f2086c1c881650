"""All-reduces inside the network: switches add up what their children send and multicast the sum down the same tree.

The root is a switch that is least far from all ranks, the tree its shortest paths to their switches; groups of other ranks
take other roots among equals. The buffer is reduced in chunks. A rank sends its chunk k when the sum of chunk k - w has
come back, so no switch has more than w chunks under way (its reduction buffer), and words travel with data alone. With d
links of latency L from rank to root, B the rate of a link, t = chunk / B and K chunks an all-reduce of S bytes takes

    2 d L + (2 d - 1) t + S / B                                         (refs: 2 depth (L + switch) + S / B, and the chunk
                                                                         that is stored at every switch on the way)
    + (ceil(K / w) - 1) max(0, 2 d (L + t) - w t)                        where the buffer is too small for the way
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path

from orchestrator_network.errors import WorkloadError
from orchestrator_network.graph import Network


@dataclass(frozen=True, kw_only=True, eq=False)
class Reduction:
    """An all-reduce of ``size_bytes`` over a tree of switches; edges are int64 [edges], those of ranks first, of the root last.

    ``child`` and ``parent`` are nodes of the network, ``up`` and ``down`` the links between them; ``depth`` links lead from
    the farthest rank to the root, ``latency_ps`` is the longest way there. ``chunk_bytes`` 0: as small as can be;
    ``in_flight`` chunks at a switch, 0: as many as come.
    """

    ranks: np.ndarray
    size_bytes: int
    child: np.ndarray
    parent: np.ndarray
    up: np.ndarray
    down: np.ndarray
    depth: int
    latency_ps: int
    chunk_bytes: int
    in_flight: int

    @property
    def root(self) -> int:
        """The node that adds up last."""
        return int(self.parent[-1])

    def waiting_ps(self, chunk_ps: float, chunks: int) -> float:
        """Return what the reduction buffer adds to an all-reduce of ``chunks`` that take ``chunk_ps`` each on a link."""
        if not self.in_flight:
            return 0.0
        around_ps = 2 * self.latency_ps + 2 * self.depth * chunk_ps
        return (math.ceil(chunks / self.in_flight) - 1) * max(0.0, around_ps - self.in_flight * chunk_ps)


def reduction(
    network: Network, ranks: np.ndarray, size_bytes: int, *, chunk_bytes: int = 0, in_flight: int = 0
) -> Reduction:
    """Lay the tree of an all-reduce; WorkloadError for hosts with several links, which hang on no one switch."""
    check_single_links(network)
    hosts = network.hosts
    alive = np.ones(network.links, bool) if network.route_weight is None else network.route_weight > 0
    links = np.flatnonzero(alive)
    source, target = network.source[links], network.target[links]
    home = np.empty(hosts, np.int64)
    home[source[source < hosts]] = target[source < hosts]
    between = (source >= hosts) & (target >= hosts)
    shape = (network.nodes, network.nodes)
    graph = csr_array((np.ones(int(between.sum())), (source[between], target[between])), shape=shape)
    homes = np.unique(home[ranks])
    distance = shortest_path(graph, unweighted=True, indices=homes)
    turn = int(ranks[0])
    root = _root(distance[:, hosts:], turn) + hosts
    to_root = shortest_path(graph, unweighted=True, indices=[root])[0]
    number = {(int(source[i]), int(target[i])): int(links[i]) for i in range(len(links) - 1, -1, -1)}
    edges = [(int(rank), int(home[rank])) for rank in ranks]
    level = homes.tolist()
    following = graph.indptr, graph.indices
    steps: dict[int, int] = {}
    while level:
        level = sorted({node for node in level if node != root and node not in steps}, key=lambda node: -to_root[node])
        for node in level:
            near = following[1][following[0][node] : following[0][node + 1]]
            nearer = np.sort(near[to_root[near] == to_root[node] - 1])
            steps[node] = int(nearer[turn % len(nearer)])
        level = [steps[node] for node in level]
    edges += sorted(steps.items(), key=lambda edge: (-to_root[edge[0]], edge[0]))
    child, parent = np.array(edges, np.int64).T.copy()
    up = np.array([number[one] for one in edges], np.int64)
    down = np.array([number[one[::-1]] for one in edges], np.int64)
    path_ps, path = {root: 0}, {root: 0}
    for i in range(len(edges) - 1, -1, -1):
        path_ps[edges[i][0]] = path_ps[edges[i][1]] + int(network.latency_ps[up[i]])
        path[edges[i][0]] = path[edges[i][1]] + 1
    return Reduction(
        ranks=ranks,
        size_bytes=size_bytes,
        child=child,
        parent=parent,
        up=up,
        down=down,
        depth=max(path.values()),
        latency_ps=max(path_ps.values()),
        chunk_bytes=chunk_bytes,
        in_flight=in_flight,
    )


def check_single_links(network: Network) -> None:
    """Refuse hosts with several links; raises WorkloadError."""
    several = np.flatnonzero(network.degree()[: network.hosts] != 1)
    if len(several):
        raise WorkloadError(
            f"switches reduce for hosts that hang on one switch, and host {several[0]} has "
            f"{network.degree()[several[0]]} links; use another all-reduce, or a fat tree or Dragonfly"
        )


def _root(distance: np.ndarray, turn: int) -> int:
    """Return the switch that is least far from all homes, then from their sum; ``turn`` chooses among equals."""
    farthest, total = distance.max(axis=0), distance.sum(axis=0)
    best = np.flatnonzero(farthest == farthest.min())
    best = best[total[best] == total[best].min()]
    return int(best[turn % len(best)])
