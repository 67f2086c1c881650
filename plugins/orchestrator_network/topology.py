"""What the simulators ask of a topology, and every topology of the family fulfils."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from orchestrator_network.cost import Bill
from orchestrator_network.graph import Network
from orchestrator_network.routes import Routes


class Topology(Protocol):
    """A network in `planes` disjoint copies alike, of which one is simulated with 1/planes of every message."""

    @property
    def planes(self) -> int:
        """The number of copies."""
        ...

    @property
    def hosts(self) -> int:
        """The number of hosts."""
        ...

    @property
    def name(self) -> str:
        """The family, for tables."""
        ...

    @property
    def link_bps(self) -> float:
        """Capacity of one link in bits per second."""
        ...

    @property
    def injection_bps(self) -> float:
        """What one host can send in one plane, in bits per second."""
        ...

    @property
    def network(self) -> Network:
        """One plane as a graph."""
        ...

    def with_latency(self, latency_ps: int) -> Topology:
        """Return the same network with another latency a link, in picoseconds."""
        ...

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Split every flow over its paths; WorkloadError for impossible pairs."""
        ...

    def loads(self, demand: np.ndarray) -> np.ndarray:
        """What a demand matrix [hosts, hosts] puts on every trunk, in its unit, float64 [trunks]."""
        ...

    def grid(self, ranks: np.ndarray) -> np.ndarray | None:
        """The hosts `ranks` as a grid [rows, columns] of a mesh, or None."""
        ...

    def bill(self) -> Bill:
        """Switches and cables of all planes."""
        ...
