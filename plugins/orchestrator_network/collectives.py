"""Collectives as phases of concurrent neighbour flows.

Every step of a ring moves an equal chunk over the same links, so its 2(p - 1) steps are one phase: flows that
advance in lockstep, `steps` times the bits of one step, and `steps` times the latency. The result equals the
expanded simulation, in which step k of a rank waits for its own step k - 1 and for its predecessor's: the slowest
neighbour flow sends back to back, and no chain of dependencies is longer than `steps` of them.

Times when alone, for an all-reduce of S bytes a rank over p ranks, beta seconds a byte of one link, L seconds a step:

    ring               2(p - 1)(L + S beta / p) bidirectional      half of the beta term, where a rank has two ports
    or more two_rings          a quarter of it: two edge-disjoint Hamiltonian cycles, both directions, four ports
    torus2d            4(sqrt(p) - 1) L + S beta (1 - 1/p) / 2 on a square: two halves, one starts along rows, one
    along columns halving_doubling   2 log2(p) L + 2 S beta (1 - 1/p), p a power of two, if the network does not
    block
    recursive_doubling log2(p) (L + S beta), and 2 (L + S beta) more where p is no power of two: ranks beyond the largest
                       give their buffers to one below it and get the result back
    double_binary_tree see `double_tree`
    hierarchical       2 (m - 1)(L + S beta / m) + 2 (n - 1)(L + S beta / (m n)), n servers of m: rings within, then rings
                       of equal places across, then within; beta and L are those within servers and across
    in_network         see `in_network`

Recursive doubling scatters and gathers as halving_doubling does; trees and switches only reduce for all, so reduce-scatter
and all-gather are rings beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from orchestrator_network.double_tree import DoubleTree, best_pieces
from orchestrator_network.errors import WorkloadError
from orchestrator_network.in_network import Reduction, reduction
from orchestrator_network.rings import hamiltonian_cycles
from orchestrator_network.topology import Topology
from orchestrator_network.tuning import Tuning

Algorithm = Literal[
    "ring",
    "bidirectional",
    "two_rings",
    "torus2d",
    "halving_doubling",
    "recursive_doubling",
    "double_binary_tree",
    "hierarchical",
    "in_network",
]
AllReduce = Literal["auto", Algorithm]

_REDUCING = ("all_reduce", "reduce_scatter", "all_gather")
COLLECTIVES = (*_REDUCING, "all_to_all", "broadcast", "reduce", "barrier")
_SPELLINGS = {name.replace("_", ""): name for name in COLLECTIVES}


@dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
    """Flows ``source[i]`` -> ``target[i]`` in lockstep: each moves ``step_bytes`` payload, ``steps`` times in a row.

    They are ``lanes`` equal parts, one after the other, of which each passes on its own bytes only: a ring's directions.
    ``meets``: message by message, a sender waits until its receiver is as far, as partners do that exchange whole buffers.
    """

    source: np.ndarray
    target: np.ndarray
    step_bytes: float
    steps: int
    lanes: int = 1
    meets: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Uniform:
    """A whole all-to-all at once: every ordered pair of ``ranks`` exchanges ``step_bytes``."""

    ranks: np.ndarray
    step_bytes: float


Chain = list[Phase | Uniform | DoubleTree | Reduction]


#: Of a double binary tree, which is laid message by message.
MOST_MESSAGES = 1_000_000


def collective_name(name: str) -> str:
    """Return the canonical name: ``allreduce`` and ``all-reduce`` are ``all_reduce``; else WorkloadError."""
    canonical = _SPELLINGS.get(name.lower().replace("-", "").replace("_", ""))
    if canonical is None:
        raise WorkloadError(f"collective `{name}` is not one of {', '.join(COLLECTIVES)}")
    return canonical


def candidates(name: str, ranks: np.ndarray, topology: Topology) -> tuple[Algorithm, ...]:
    """Return the algorithms that `auto` chooses from, those that this topology can lay out for these ranks, `ring` first.

    What passes whole buffers on, needs servers or switches that reduce is asked for by name.
    """
    if collective_name(name) not in _REDUCING or len(ranks) < 3:
        return ("ring",)
    found: list[Algorithm] = ["ring", "bidirectional"]
    grid = topology.grid(ranks)
    if grid is not None and min(grid.shape) > 1:
        if len(hamiltonian_cycles(*grid.shape)) == 2:
            found.append("two_rings")
        found.append("torus2d")
    if len(_prime_factors(len(ranks))) > 1:  # else it is the ring
        found.append("halving_doubling")
    return tuple(found)


def lower(
    name: str,
    size_bytes: int,
    ranks: np.ndarray,
    topology: Topology,
    algorithm: Algorithm = "ring",
    tuning: Tuning = Tuning(),  # noqa: B008 - frozen
) -> list[Chain]:
    """Return concurrent chains of consecutive phases that carry out a collective.

    ``size_bytes`` is the whole buffer of one rank: the input of an all-reduce, reduce-scatter and all-to-all, the
    output of an all-gather, the message of a broadcast or reduce. ``algorithm`` concerns all-reduce, reduce-scatter
    and all-gather. Raises WorkloadError for what the topology cannot lay out.
    """
    if algorithm not in get_args(Algorithm):
        raise WorkloadError(f"all-reduce `{algorithm}` is not one of {', '.join(get_args(Algorithm))}")
    kind = collective_name(name)
    if len(ranks) < 2 or (size_bytes == 0 and kind != "barrier"):
        return []
    if kind == "all_to_all":
        return [[Uniform(ranks=ranks, step_bytes=size_bytes / len(ranks))]]
    if kind not in _REDUCING:
        return [_tree(kind, size_bytes, ranks)]
    if algorithm == "torus2d":
        grid = _grid(topology, ranks)
        return [_part(kind, *_rows_first(size_bytes / 2, side)) for side in (grid, grid.T)]
    if kind == "all_reduce" and algorithm in _WHOLE:
        return [_WHOLE[algorithm](size_bytes, ranks, topology, tuning)]
    if algorithm in ("halving_doubling", "recursive_doubling"):
        scatter = _halving(size_bytes, ranks)
        return [_part(kind, scatter, scatter[::-1])]
    if algorithm == "hierarchical":
        scatter = _servers_first(size_bytes, _servers(ranks, topology, tuning))
        return [_part(kind, scatter, scatter[::-1])]
    if algorithm in _WHOLE:
        algorithm = "ring"
    return [_part(kind, *_rings(size_bytes, _cycles(topology, ranks, algorithm)))]


def _part(kind: str, scatter: Chain, gather: Chain) -> Chain:
    """An all-reduce is a reduce-scatter and an all-gather."""
    return {"reduce_scatter": scatter, "all_gather": gather, "all_reduce": scatter + gather}[kind]


def _rings(size_bytes: float, cycles: list[np.ndarray]) -> tuple[Chain, Chain]:
    p = len(cycles[0])
    source, target = np.concatenate([(cycle, np.roll(cycle, -1)) for cycle in cycles], axis=1)
    phase = Phase(source=source, target=target, step_bytes=size_bytes / p / len(cycles), steps=p - 1, lanes=len(cycles))
    return [phase], [phase]


def _cycles(topology: Topology, ranks: np.ndarray, algorithm: Algorithm) -> list[np.ndarray]:
    """Return the orders of ranks in which rings run, one for each direction that is used."""
    grid = topology.grid(ranks)
    cycles = [] if grid is None else hamiltonian_cycles(*grid.shape)
    orders = [ranks] if grid is None or not cycles else [grid[cycle[:, 0], cycle[:, 1]] for cycle in cycles]
    if algorithm == "ring":
        return orders[:1]
    if algorithm == "bidirectional":
        return [orders[0], orders[0][::-1]]
    if len(orders) < 2:
        shape = "no mesh" if grid is None else f"a mesh of {grid.shape[0]} x {grid.shape[1]}"
        raise WorkloadError(
            f"two edge-disjoint rings are not constructible for {len(ranks)} ranks on {topology.name} ({shape}): "
            "one side must divide the other, and the longer share no factor with the shorter less 1; "
            "use torus2d, ring or auto"
        )
    return [way for order in orders for way in (order, order[::-1])]


def _grid(topology: Topology, ranks: np.ndarray) -> np.ndarray:
    grid = topology.grid(ranks)
    if grid is None or min(grid.shape) < 2:
        raise WorkloadError(
            f"the two-dimensional all-reduce needs ranks that fill at least 2 rows and 2 columns of a mesh; "
            f"{len(ranks)} ranks on {topology.name} do not; use ring or auto"
        )
    return grid


def _rows_first(size_bytes: float, grid: np.ndarray) -> tuple[Chain, Chain]:
    """Scatter along rows, then along columns, and gather in reverse; both directions take half of the bytes each."""
    rows, columns = grid.shape
    (source, target), (across_source, across_target) = _both_ways(grid), _both_ways(grid.T)
    chunk = size_bytes / 2 / columns
    along = Phase(source=source, target=target, step_bytes=chunk, steps=columns - 1, lanes=2)
    across = Phase(source=across_source, target=across_target, step_bytes=chunk / rows, steps=rows - 1, lanes=2)
    return [along, across], [across, along]


def _both_ways(lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sources and targets of the neighbour flows along every line, in both directions."""
    following = np.roll(lines, -1, axis=1)
    return np.concatenate([lines.ravel(), following.ravel()]), np.concatenate([following.ravel(), lines.ravel()])


def _halving(size_bytes: float, ranks: np.ndarray) -> Chain:
    """Return the reduce-scatter by vector halving and distance doubling (Rabenseifner 2004), for any number of ranks.

    Ranks count in the mixed radix of the prime factors of p: for each factor f, groups of f ranks scatter what they have
    among themselves in f - 1 steps. Factors of two are the usual exchanges; neighbours exchange the most.
    """
    chain: Chain = []
    place, stride, share = np.arange(len(ranks)), 1, size_bytes
    for factor in _prime_factors(len(ranks)):
        digit = place // stride % factor
        following = place + ((digit + 1) % factor - digit) * stride
        share /= factor
        chain.append(Phase(source=ranks, target=ranks[following], step_bytes=share, steps=factor - 1))
        stride *= factor
    return chain


def _servers(ranks: np.ndarray, topology: Topology, tuning: Tuning) -> np.ndarray:
    """Return the ranks as a grid [servers, places]; WorkloadError if servers are unknown or hold unequally many."""
    per_server = tuning.per_server or getattr(topology, "gpus_per_node", None)
    if per_server is None:
        raise WorkloadError(
            f"a hierarchical all-reduce goes server by server, and {topology.name} has none; say per_server, the consecutive "
            "hosts of one"
        )
    server, place = np.unique(ranks // per_server, return_inverse=True)
    counts = np.bincount(place)
    if counts.min() != counts.max():
        at = server[counts.argmin()]
        raise WorkloadError(
            f"a hierarchical all-reduce over {len(ranks)} ranks with per_server {per_server}: server {at} holds {counts.min()} of "
            f"them, server {server[counts.argmax()]} {counts.max()}; all must hold equally many, so choose another per_server"
        )
    return np.asarray(ranks[np.argsort(place, kind="stable")].reshape(len(server), -1))


def _servers_first(size_bytes: float, servers: np.ndarray) -> Chain:
    """Scatter within every server, then over the ranks of equal places of all servers, along rings."""
    chain: Chain = []
    for lines, share in ((servers, size_bytes), (servers.T, size_bytes / servers.shape[1])):
        steps = lines.shape[1] - 1
        if steps:
            source, target = lines.ravel(), np.roll(lines, -1, axis=1).ravel()
            chain.append(Phase(source=source, target=target, step_bytes=share / (steps + 1), steps=steps))
    return chain


def _doubling(size_bytes: int, ranks: np.ndarray, topology: Topology, tuning: Tuning) -> Chain:  # noqa: ARG001
    """Exchange whole buffers at doubling distances; ranks beyond a power of two fold into one below it and out again."""
    power = 1 << (len(ranks).bit_length() - 1)
    below, above, place = ranks[: len(ranks) - power], ranks[power:], np.arange(power)
    pairs = [(ranks[:power], ranks[place ^ (1 << turn)]) for turn in range(power.bit_length() - 1)]
    if len(above):
        pairs = [(above, below), *pairs, (below, above)]
    return [Phase(source=source, target=target, step_bytes=size_bytes, steps=1, meets=True) for source, target in pairs]


def _double_tree(size_bytes: int, ranks: np.ndarray, topology: Topology, tuning: Tuning) -> Chain:
    if tuning.chunk_bytes is None:
        bytes_per_s = topology.planes * topology.link_bps / 8
        pieces = best_pieces(len(ranks), size_bytes, bytes_per_s, 2 * int(topology.network.latency_ps.max()))
    else:
        pieces = -(-size_bytes // 2 // tuning.chunk_bytes)
    if size_bytes < 2:  # there are no halves
        return [*_tree("reduce", size_bytes, ranks), *_tree("broadcast", size_bytes, ranks)]
    tree = DoubleTree(ranks=ranks, size_bytes=size_bytes, pieces=max(pieces, 1))
    if len(tree) > MOST_MESSAGES:
        raise WorkloadError(
            f"a double binary tree over {len(ranks)} ranks in pieces of {tuning.chunk_bytes} bytes is {len(tree)} messages, and the "
            f"most are {MOST_MESSAGES}; use larger chunk_bytes"
        )
    return [tree]


def _in_switches(size_bytes: int, ranks: np.ndarray, topology: Topology, tuning: Tuning) -> Chain:
    chunk_bytes, in_flight = tuning.chunk_bytes or 0, tuning.chunks_in_flight or 0
    return [reduction(topology.network, ranks, size_bytes, chunk_bytes=chunk_bytes, in_flight=in_flight)]


_WHOLE: dict[str, Callable[[int, np.ndarray, Topology, Tuning], Chain]] = {
    "recursive_doubling": _doubling,
    "double_binary_tree": _double_tree,
    "in_network": _in_switches,
}


def _prime_factors(count: int) -> list[int]:
    """Return the prime factors, largest first."""
    factors, divisor = [], 2
    while count > 1:
        while count % divisor == 0:
            factors.append(divisor)
            count //= divisor
        divisor += 1
    return factors[::-1]


def _tree(kind: str, size_bytes: int, ranks: np.ndarray) -> Chain:
    """Return a binomial tree from (broadcast) or to (reduce) the first rank; a barrier is both with one byte."""
    step_bytes = 1 if kind == "barrier" else max(size_bytes, 1)
    down: list[Phase] = []
    reached = 1
    while reached < len(ranks):
        children = np.arange(reached, min(2 * reached, len(ranks)))
        parents = ranks[children - reached]
        down.append(Phase(source=parents, target=ranks[children], step_bytes=step_bytes, steps=1))
        reached *= 2
    up = [
        Phase(source=phase.target, target=phase.source, step_bytes=phase.step_bytes, steps=1)
        for phase in reversed(down)
    ]
    return [*(up if kind != "broadcast" else []), *(down if kind != "reduce" else [])]
