"""Whether packets can wait for one another in a circle on links that never drop (Dally and Seitz, 1987).

A packet that came over one link holds memory there until it gets room on the next, so the first link waits for the
second if any route goes over both in that order. Routes whose links wait for each other in no circle cannot deadlock.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from orchestrator_network.errors import TopologyError
from orchestrator_network.graph import Network


def waits(source: np.ndarray, target: np.ndarray, carries: np.ndarray) -> np.ndarray:
    """Return the pairs (link, link that it waits for), int64 [pairs, 2].

    ``source`` and ``target`` are the ends of links between switches, ``carries`` bool [links, destinations] whether a
    link is on a route to a destination; whatever a link brings to a switch may leave over any link that carries it on.
    """
    leave = np.argsort(source, kind="stable")
    first, last = (np.searchsorted(source[leave], target, side=side) for side in ("left", "right"))
    pairs = []
    for node in np.unique(target):
        into = np.flatnonzero(target == node)
        out = leave[first[into[0]] : last[into[0]]]
        both = carries[into].astype(np.float32) @ carries[out].T.astype(np.float32) > 0
        found = np.argwhere(both)
        pairs.append(np.column_stack([into[found[:, 0]], out[found[:, 1]]]))
    return np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int64)


def circle(pairs: np.ndarray, links: int) -> np.ndarray:
    """Return the links that wait for one another in circles, int64, empty if none do."""
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(links, links))
    _, part = connected_components(graph, connection="strong")
    alone = np.bincount(part)[part] == 1
    alone[pairs[pairs[:, 0] == pairs[:, 1], 0]] = False
    return np.flatnonzero(~alone)


def refuse_circles(network: Network, order: np.ndarray, routes: np.ndarray, ports: np.ndarray) -> None:
    """Raise TopologyError, naming links, if routes over links that never drop could stop for ever.

    ``order[i]`` is the network's number of link i; ``routes`` int [switches, destinations] holds first << 12 | count of
    the ``ports``, links i, that lead to a destination, 0 for none.
    """
    carries = np.zeros((network.links, routes.shape[1]), bool)
    for row in routes:
        for entry in np.unique(row[row != 0]):
            way = ports[(entry >> 12) : (entry >> 12) + (entry & 0xFFF)]
            carries[np.ix_(order[way], np.flatnonzero(row == entry))] = True
    between = np.flatnonzero((network.source >= network.hosts) & (network.target >= network.hosts))
    pairs = waits(network.source[between], network.target[between], carries[between])
    stuck = between[circle(pairs, len(between))]
    if len(stuck):
        names = [name.removesuffix(".router") for name in network.names]
        some = ", ".join(f"{names[network.source[i]]} to {names[network.target[i]]}" for i in stuck[:3])
        raise TopologyError(
            f"links that never drop would wait for one another in a circle and stop the network for ever: {len(stuck)} of "
            f"{len(between)} links between switches, {some} among them; set lossless to `none`, or take a topology whose "
            "routes go up and then down, a fat tree for example"
        )
