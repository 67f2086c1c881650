"""Torus of accelerators in two or three dimensions: every accelerator forwards, there are no switches.

Neighbours along every dimension are joined by one link, the ends of a line as well; on a side of 2 the link and the one
around are two. Flows are split evenly over all minimal paths. For a displacement of m_k steps along dimension k there
are M(m) = (sum m)! / prod m_k! of them, so the share of the link that leaves offset p along dimension k is

    M(p) M(m - p - e_k) / M(m)

and where half a side is to be crossed, both directions take half. All hosts see the same network, so one table a
displacement serves every flow.

On links that never drop, packets go along one dimension after the other, and change their virtual channel where they pass
from the last place of a line to the first (the dateline of Dally and Seitz, 1987), which takes two channels.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array
from scipy.special import gammaln

from orchestrator_network.cost import Bill, torus_bill
from orchestrator_network.graph import ChannelOrder, Network, Wiring
from orchestrator_network.rings import hamiltonian_cycles
from orchestrator_network.routes import Routes, check_pairs, minimal_loads, span
from orchestrator_network.shape_rules import check_links, check_torus


@dataclass(frozen=True, kw_only=True)
class Torus:
    """A torus with 2 or 3 ``sides``, each at least 2; host ids are row-major.

    ``planes`` disjoint copies carry 1/planes of every message each and are alike, so one is simulated. ``latency_ps``
    is that of one link. Boards of ``board`` x ``board`` accelerators in the first two dimensions hold the links that
    cost nothing, 1 for none. Impossible shapes raise :class:`TopologyError`.
    """

    sides: tuple[int, ...] = (32, 32)
    link_gbps: float = 400.0
    planes: int = 1
    latency_ps: int = 1_000_000
    board: int = 2

    def __post_init__(self) -> None:
        check_links(self.link_gbps, self.planes)
        check_torus(self.sides, self.board)

    def with_latency(self, latency_ps: int) -> Torus:
        """Return the same torus with another latency a link, in picoseconds."""
        return replace(self, latency_ps=latency_ps)

    @property
    def hosts(self) -> int:
        """The number of accelerators."""
        return math.prod(self.sides)

    @property
    def name(self) -> str:
        """The family by its dimensions, for tables."""
        return f"torus{len(self.sides)}d"

    @property
    def link_bps(self) -> float:
        """Capacity of one link in bits per second."""
        return self.link_gbps * 1e9

    @property
    def injection_bps(self) -> float:
        """What one accelerator can send in one plane, over its two ports a dimension, in bits per second."""
        return 2 * len(self.sides) * self.link_bps

    @cached_property
    def network(self) -> Network:
        """One plane as a graph; the link that leaves host u forward along dimension k is trunk 2 k hosts + u."""
        wiring, host = Wiring(), np.arange(self.hosts)
        at = host.reshape(self.sides)
        for axis in range(len(self.sides)):
            following = np.roll(at, -1, axis=axis).ravel()
            forward = 2 * axis * self.hosts
            wiring.cable(
                host,
                following,
                trunk=forward + host,
                back=forward + self.hosts + following,
                latency_ps=self.latency_ps,
            )
        network = wiring.network(self.hosts, tuple(f"host{i}" for i in host), self.link_bps)
        return replace(network, channel_order=self._channel_order)

    @property
    def _channel_order(self) -> ChannelOrder:
        """Return dimensions as phases, and places in the direction of a link as ranks, in the order of `network`."""
        phase, rank = [], []
        for axis, place in enumerate(np.unravel_index(np.arange(self.hosts), self.sides)):
            phase += [np.full(2 * self.hosts, axis)]
            rank += [place, self.sides[axis] - 1 - (place + 1) % self.sides[axis]]
        return ChannelOrder(phase=np.concatenate(phase), rank=np.concatenate(rank))

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Split every flow evenly over its minimal paths, in closed form; WorkloadError for impossible pairs."""
        check_pairs(self.hosts, sources, targets)
        start = np.stack(np.unravel_index(sources, self.sides), axis=1)
        end = np.stack(np.unravel_index(targets, self.sides), axis=1)
        sides = np.array(self.sides)
        ahead = (end - start) % sides
        kinds, kind_of = np.unique(ahead, axis=0, return_inverse=True)
        flows, trunks, shares = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
        for kind, steps in enumerate(kinds):
            group, offset, share = self._displaced(tuple(steps.tolist()))
            flow = np.flatnonzero(kind_of.ravel() == kind)
            leaving = np.ravel_multi_index(np.moveaxis((start[flow, None] + offset) % sides, -1, 0), self.sides)
            flows.append(np.repeat(flow, len(share)))
            trunks.append((group * self.hosts + leaving).ravel())
            shares.append(np.tile(share, len(flow)))
        table = csr_array(
            (np.concatenate(shares), (np.concatenate(flows), np.concatenate(trunks))),
            shape=(len(sources), 2 * len(self.sides) * self.hosts),
        )
        table.sum_duplicates()
        return replace(self._span(ahead), share=table)

    def spans(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Return how far hosts are apart: `routes` without shares."""
        start, end = (np.stack(np.unravel_index(side, self.sides), axis=1) for side in (sources, targets))
        return self._span((end - start) % np.array(self.sides))

    def _span(self, ahead: np.ndarray) -> Routes:
        hops = np.minimum(ahead, np.array(self.sides) - ahead).sum(axis=1).astype(float)
        return span(hops * self.latency_ps, hops)

    def _displaced(self, ahead: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the links of the minimal paths to a host ``ahead`` steps forward.

        Trunk group (2 x dimension, plus 1 backward) int64 [n], offset of the node that they leave int64 [n, dimensions],
        and share float64 [n].
        """
        ways = [_ways(steps, side) for steps, side in zip(ahead, self.sides, strict=True)]
        groups, offsets, shares = [], [], []
        choices = list(itertools.product(*ways))
        for signs in choices:
            steps = np.array(
                [step if sign > 0 else side - step for step, side, sign in zip(ahead, self.sides, signs, strict=True)]
            )
            point = np.indices(tuple(steps + 1)).reshape(len(steps), -1).T
            before = _log_paths(point)
            for axis, sign in enumerate(signs):
                inside = point[:, axis] < steps[axis]
                after = steps - point[inside]
                after[:, axis] -= 1
                shares.append(np.exp(before[inside] + _log_paths(after) - _log_paths(steps[None])) / len(choices))
                offsets.append(point[inside] * np.array(signs))
                groups.append(np.full(len(after), 2 * axis + (sign < 0)))
        return np.concatenate(groups), np.concatenate(offsets), np.concatenate(shares)

    def loads(self, demand: np.ndarray) -> np.ndarray:
        """Return what a demand matrix [hosts, hosts] puts on every trunk, in the demand's unit, float64 [trunks]."""
        return minimal_loads(self.network, demand)

    def grid(self, ranks: np.ndarray) -> np.ndarray | None:
        """Return the hosts as a grid [rows, columns] if they are all crossings of some coordinates, else None.

        In three dimensions a row of the grid is a place on a cycle through the first two, which leaves two of six
        ports unused.
        """
        axes = [np.unique(place) for place in np.unravel_index(np.asarray(ranks), self.sides)]
        sides = [len(axis) for axis in axes]
        if math.prod(sides) != len(ranks) or len(np.unique(ranks)) != len(ranks):
            return None
        at = np.ravel_multi_index(np.ix_(*axes), self.sides)
        if len(sides) == 2:
            return np.asarray(at)
        if 1 in sides:
            flat = [side for side in sides if side > 1]
            return at.reshape(flat if len(flat) == 2 else (1, -1))
        cycles = hamiltonian_cycles(sides[0], sides[1])
        return np.asarray(at[cycles[0][:, 0], cycles[0][:, 1]]) if cycles else None

    def bill(self) -> Bill:
        """Return the cables of all planes."""
        return torus_bill(*self.sides, board=self.board).times(self.planes)


def _ways(steps: int, side: int) -> tuple[int, ...]:
    """Return the shortest directions around a line: forward 1, backward -1, or both."""
    if 2 * steps == side:
        return (1, -1)
    return (1,) if 2 * steps < side else (-1,)


def _log_paths(steps: np.ndarray) -> np.ndarray:
    """Return the logarithm of the number of orders of ``steps`` [n, dimensions] steps, float64 [n]."""
    return np.asarray(gammaln(steps.sum(axis=1) + 1) - gammaln(steps + 1).sum(axis=1))
