"""2D HyperX of accelerators: the HammingMesh of 1 x 1 boards (arXiv:2209.01346, table 2), under its own name.

Every accelerator has four ports in each plane: two into the switch of its row, two into that of its column. Bandwidths
are shares of all four. A line of more than radix/2 accelerators takes a tree of two levels instead of one switch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.sparse import csr_array

from orchestrator_network.cost import Bill
from orchestrator_network.graph import Detours, Network
from orchestrator_network.hamming_mesh import HammingMesh
from orchestrator_network.routes import Routes
from orchestrator_network.shape_rules import check_hyperx


@dataclass(frozen=True, kw_only=True)
class HyperX:
    """A grid of ``rows`` x ``columns`` accelerators, host ids row-major.

    ``routing``: ``minimal``; ``valiant``, over another accelerator, all of them alike; or, at fidelity packet, ``ugal_l`` and
    ``ugal_g``, which choose between the two, and ``dal``, which may pass one more accelerator in each dimension.

    ``planes`` disjoint copies carry 1/planes of every message each and are alike, so one is simulated. ``latency_ps``
    is that of one link. Impossible shapes raise :class:`TopologyError`.
    """

    rows: int = 32
    columns: int = 32
    link_gbps: float = 400.0
    routing: Literal["minimal", "valiant", "ugal_l", "ugal_g", "dal"] = "minimal"
    radix: int = 64
    planes: int = 1
    latency_ps: int = 1_000_000

    def __post_init__(self) -> None:
        check_hyperx(self.rows, self.columns, self.radix, self.routing)
        _ = self.mesh

    @cached_property
    def mesh(self) -> HammingMesh:
        """The HammingMesh that it is."""
        return HammingMesh(
            board_rows=1,
            board_columns=1,
            grid_rows=self.rows,
            grid_columns=self.columns,
            link_gbps=self.link_gbps,
            radix=self.radix,
            planes=self.planes,
            latency_ps=self.latency_ps,
        )

    def with_latency(self, latency_ps: int) -> HyperX:
        """Return the same network with another latency a link, in picoseconds."""
        return replace(self, latency_ps=latency_ps)

    @property
    def hosts(self) -> int:
        """The number of accelerators."""
        return self.rows * self.columns

    @property
    def name(self) -> str:
        """The family, and its routing where that is not minimal, for tables."""
        return "hyperx" if self.routing == "minimal" else f"hyperx_{self.routing}"

    @property
    def link_bps(self) -> float:
        """Capacity of one link in bits per second."""
        return self.mesh.link_bps

    @property
    def injection_bps(self) -> float:
        """What one accelerator can send in one plane, over its four ports, in bits per second."""
        return self.mesh.injection_bps

    @cached_property
    def network(self) -> Network:
        """One plane as a graph."""
        network = self.mesh.network
        if self.routing == "minimal":
            return network
        area = np.where(np.arange(network.nodes) < self.hosts, np.arange(network.nodes), -1)
        return replace(network, detours=Detours(rule=self.routing, area=area, columns=self.columns))

    @property
    def cuts(self) -> HyperX:
        """What is certain of routes whatever packets choose: that they are no shorter than minimal ones."""
        return replace(self, routing="minimal")

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Split every flow evenly over its minimal paths, or those over every other host; WorkloadError for impossible pairs.

        With m the mean over all hosts but the two ends, valiant(s, t) = mean of minimal(s, m) + minimal(m, t).
        """
        straight = self.mesh.routes(sources, targets)
        if self.routing != "valiant":
            return straight
        spread = 1 / (self.hosts - 2)
        sides = [self._all_from(sources), self._all_from(targets, back=True)]
        share, latency_ps, hops = (
            (getattr(sides[0], name) + getattr(sides[1], name) - 2 * getattr(straight, name)) * spread
            for name in ("share", "latency_ps", "hops")
        )
        return Routes(share=csr_array(share), latency_ps=latency_ps, hops=hops)

    def spans(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Return how far hosts are apart: `routes`, without shares where they are minimal."""
        return self.routes(sources, targets) if self.routing == "valiant" else self.mesh.spans(sources, targets)

    def _all_from(self, hosts: np.ndarray, back: bool = False) -> Routes:
        """Return the sum of the minimal routes from (``back``: to) each of ``hosts`` to all others."""
        ends, place = np.unique(hosts, return_inverse=True)
        here, there = np.repeat(ends, self.hosts), np.tile(np.arange(self.hosts), len(ends))
        away = here != there
        here, there = here[away], there[away]
        routes = self.mesh.routes(there, here) if back else self.mesh.routes(here, there)
        row = np.searchsorted(ends, here)
        gather = csr_array((np.ones(len(row)), (row, np.arange(len(row)))), shape=(len(ends), len(row)))
        return Routes(
            share=csr_array((gather @ routes.share)[place]),
            latency_ps=np.asarray(gather @ routes.latency_ps)[place],
            hops=np.asarray(gather @ routes.hops)[place],
        )

    def loads(self, demand: np.ndarray) -> np.ndarray:
        """Return what a demand matrix [hosts, hosts] puts on every trunk, in the demand's unit, float64 [trunks]."""
        if self.routing != "valiant":
            return self.mesh.loads(demand)
        wanted = demand.astype(float)
        np.fill_diagonal(wanted, 0)
        # What leaves s goes to every host but s and its target, and what reaches t comes from all but t and its source.
        first = wanted.sum(axis=1, keepdims=True) - wanted
        second = wanted.sum(axis=0, keepdims=True) - wanted
        through = (first + second) / (self.hosts - 2)
        np.fill_diagonal(through, 0)
        return np.asarray(self.mesh.loads(through))

    def grid(self, ranks: np.ndarray) -> np.ndarray | None:
        """Return the hosts as a grid [rows, columns] if they are all crossings of some rows and columns, else None."""
        return self.mesh.grid(ranks)

    def bill(self) -> Bill:
        """Return switches and cables of all planes."""
        return self.mesh.bill()
