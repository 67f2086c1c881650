"""2D HyperX of accelerators: the HammingMesh of 1 x 1 boards (arXiv:2209.01346, table 2), under its own name.

Every accelerator has four ports in each plane: two into the switch of its row, two into that of its column. Bandwidths
are shares of all four. A line of more than radix/2 accelerators takes a tree of two levels instead of one switch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from orchestrator_network.cost import Bill
from orchestrator_network.errors import TopologyError
from orchestrator_network.graph import Network
from orchestrator_network.hamming_mesh import HammingMesh
from orchestrator_network.routes import Routes


@dataclass(frozen=True, kw_only=True)
class HyperX:
    """A grid of ``rows`` x ``columns`` accelerators, host ids row-major.

    ``planes`` disjoint copies carry 1/planes of every message each and are alike, so one is simulated. ``latency_ps``
    is that of one link. Impossible shapes raise :class:`TopologyError`.
    """

    rows: int = 32
    columns: int = 32
    link_gbps: float = 400.0
    radix: int = 64
    planes: int = 1
    latency_ps: int = 1_000_000

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1 or self.rows * self.columns < 2:
            raise TopologyError(
                f"a HyperX needs positive rows and columns and at least 2 hosts, got {self.rows} x {self.columns}"
            )
        most = self.radix * self.radix // 4
        if max(self.rows, self.columns) > most:
            raise TopologyError(
                f"a line of {max(self.rows, self.columns)} accelerators is too long: two levels of {self.radix}-port "
                f"switches join {most}; use shorter sides or a larger radix"
            )
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
        """The family, for tables."""
        return "hyperx"

    @property
    def link_bps(self) -> float:
        """Capacity of one link in bits per second."""
        return self.mesh.link_bps

    @property
    def injection_bps(self) -> float:
        """What one accelerator can send in one plane, over its four ports, in bits per second."""
        return self.mesh.injection_bps

    @property
    def network(self) -> Network:
        """One plane as a graph."""
        return self.mesh.network

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Split every flow evenly over its minimal paths; WorkloadError for impossible pairs."""
        return self.mesh.routes(sources, targets)

    def loads(self, demand: np.ndarray) -> np.ndarray:
        """Return what a demand matrix [hosts, hosts] puts on every trunk, in the demand's unit, float64 [trunks]."""
        return self.mesh.loads(demand)

    def grid(self, ranks: np.ndarray) -> np.ndarray | None:
        """Return the hosts as a grid [rows, columns] if they are all crossings of some rows and columns, else None."""
        return self.mesh.grid(ranks)

    def bill(self) -> Bill:
        """Return switches and cables of all planes."""
        return self.mesh.bill()
