"""Where the nodes and links of a network go in a drawing: the parts of it, and networks of which nothing is known.

Networks too large for a mark a node are thinned: nodes that share a place share a mark, and links with the same two
ends are one line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import laplacian, shortest_path

from orchestrator_network.graph import Network

MOST_HOSTS = 128  # with a mark of their own; beyond, one stands for the hosts of a switch
MOST_WIDE = 128  # marks beside each other
MOST_SPECTRAL = 2000  # switches of which all eigenvectors are computed


@dataclass(frozen=True, kw_only=True, eq=False)
class Sketch:
    """``place`` float64 [nodes, 2]; ``start``, ``end`` float64 [links, 2]: of the line that stands for a link.

    ``drawn`` bool [nodes]: whether a node has a mark; ``bars`` and ``boxes`` ((x, y), (x, y)): networks drawn as a line,
    and frames; ``labels`` (x, y, text) stand left of their place, ``above`` over it; ``notes``: what a mark stands for.
    """

    place: np.ndarray
    start: np.ndarray
    end: np.ndarray
    drawn: np.ndarray
    size: tuple[float, float] = (9.0, 5.0)
    bars: tuple[tuple[tuple[float, float], tuple[float, float]], ...] = ()
    boxes: tuple[tuple[tuple[float, float], tuple[float, float]], ...] = ()
    labels: tuple[tuple[float, float, str], ...] = ()
    above: tuple[tuple[float, float, str], ...] = ()
    notes: tuple[str, ...] = ()
    square: bool = False


def joined(network: Network, place: np.ndarray, **parts: object) -> Sketch:
    """Return a sketch whose links join the places of their ends."""
    drawn = np.ones(network.nodes, bool)
    return Sketch(place=place, start=place[network.source], end=place[network.target], drawn=drawn, **parts)  # type: ignore[arg-type]


def chunks(count: int, most: int) -> tuple[np.ndarray, int]:
    """Return the group of each of ``count`` things in a row, int64 [count], and how many a group has, at most ``most`` groups."""
    each = -(-count // most)
    return np.arange(count) // each, each


def spread(group: np.ndarray) -> np.ndarray:
    """Return x between 0 and 1 for groups numbered from 0, evenly."""
    return np.asarray((group + 0.5) / (group.max() + 1))


def of_unknown(network: Network) -> Sketch:
    """Return levels by the distance from the hosts; where switches of one level are joined, a spectral layout."""
    switches = np.arange(network.hosts, network.nodes)
    if len(switches) == 0:
        return _spectral(network, np.arange(network.nodes), np.arange(network.nodes))
    hops = shortest_path(network.adjacency(), unweighted=True, indices=np.arange(network.hosts)).min(axis=0)
    level = np.round(hops).astype(int)
    home = _homes(network)
    between = (network.source >= network.hosts) & (network.target >= network.hosts)
    if np.any(level[network.source[between]] == level[network.target[between]]):
        return _spectral(network, switches, home)
    return _in_levels(network, level, home)


def _homes(network: Network) -> np.ndarray:
    """Return the first switch of every host, and every switch for itself, int64 [nodes]."""
    home = np.arange(network.nodes)
    up = np.flatnonzero((network.source < network.hosts) & (network.target >= network.hosts))[::-1]
    home[network.source[up]] = network.target[up]
    return home


def _in_levels(network: Network, level: np.ndarray, home: np.ndarray) -> Sketch:
    place = np.zeros((network.nodes, 2))
    notes = []
    for height in range(1, level.max() + 1):
        here = np.flatnonzero(level == height)
        group, each = chunks(len(here), MOST_WIDE)
        place[here] = np.column_stack([spread(group), np.full(len(here), float(height))])
        if each > 1:
            notes.append(f"{each} switches a mark at level {height}")
    hosts = np.arange(network.hosts)
    if network.hosts <= MOST_HOSTS:
        place[hosts, 0] = spread(hosts)
    else:
        place[hosts, 0] = place[home[hosts], 0]
        notes.append("the hosts of a switch are one mark")
    labels = [(0.0, float(height), f"level {height}" if height else "hosts") for height in range(level.max() + 1)]
    return joined(network, place, labels=tuple(labels), notes=tuple(notes))


def _spectral(network: Network, among: np.ndarray, home: np.ndarray) -> Sketch:
    """Place nodes by the two slowest eigenvectors of the Laplacian; hosts beside their switch, outwards."""
    number = np.full(network.nodes, -1)
    group, each = chunks(len(among), MOST_SPECTRAL)
    number[among] = group
    inside = (number[network.source] >= 0) & (number[network.target] >= 0)
    size = int(group.max()) + 1
    ends = (number[network.source[inside]], number[network.target[inside]])
    near = csr_array((np.ones(int(inside.sum())), ends), shape=(size, size)).toarray()
    np.fill_diagonal(near, 0)
    _, vectors = np.linalg.eigh(laplacian(np.minimum(near, 1)))
    at = np.zeros((size, 2))
    at[:, : min(2, size - 1)] = vectors[:, 1:3]
    at /= max(float(np.abs(at).max()), 1e-9)
    at *= np.where(at[np.abs(at).argmax(axis=0), [0, 1]] < 0, -1, 1)  # the sign of an eigenvector is arbitrary
    at = _apart(at)
    place = at[number[home]]
    hosts = np.arange(network.hosts)
    notes = [f"{each} nodes a mark"] if each > 1 else []
    if len(among) < network.nodes:
        place[hosts] *= 1.12
        notes.append("the hosts of a switch are one mark, outside of it")
    return joined(network, place, size=(7.5, 6.5), notes=tuple(notes), square=True)


def _apart(at: np.ndarray) -> np.ndarray:
    """Move nodes that share a place, as nodes with the same neighbours do, onto a small circle around it."""
    _, where, how_many = np.unique(np.round(at, 6), axis=0, return_inverse=True, return_counts=True)
    where = where.ravel()
    order = np.argsort(where, kind="stable")
    rank = np.empty(len(at))
    rank[order] = np.arange(len(at)) - (np.cumsum(how_many) - how_many)[where[order]]
    turn = 2 * np.pi * rank / how_many[where] + np.arctan2(at[:, 1], at[:, 0])
    ring = np.column_stack([np.cos(turn), np.sin(turn)])
    return np.asarray(at + 0.12 * ring * (how_many[where] > 1)[:, None])
