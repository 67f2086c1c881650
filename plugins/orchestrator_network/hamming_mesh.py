"""HammingMesh: boards with a 2D mesh of accelerators, joined by switched row and column networks (arXiv:2209.01346).

Every accelerator has ports N, E, S and W in each plane. Neighbours on a board are joined by traces. For every
accelerator row of the machine one row network joins the W and E ends of all its boards, for every accelerator
column one column network the N and S ends: one switch where all ends fit, else leaves of radix/2 ends below one
logical spine. Boards of 1 x 1 are a 2D HyperX.

Routing for flows is minimal in hops, where a trace is one hop and the way through a network one hop below one leaf
and two through the spine: traffic inside a board wraps through the row or column network where that is shorter than
the way across the board. Published routing chooses by credits among equally long ways; here they go across the
board, as credits would steer neighbour traffic, and a flow is split evenly over all minimal paths that remain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from orchestrator_network.cost import Bill, hamming_mesh_bill
from orchestrator_network.errors import TopologyError
from orchestrator_network.graph import Network, Wiring
from orchestrator_network.routes import MinimalRouting, Routes

# Three a hop. The way over one switch, two cables, counts four: longer than one trace, shorter than two. The way over
# the spine, two uplinks more, counts six, two hops.
_TRACE, _CABLE, _UPLINK = 3, 2, 1


@dataclass(frozen=True, kw_only=True)
class HammingMesh:
    """A grid of boards; hosts = board_rows x board_columns x grid_rows x grid_columns.

    Host ids are row-major by board, then by place on the board. ``planes`` disjoint copies carry 1/planes of every
    message each and are alike, so one is simulated. ``latency_ps`` is that of one link, trace or cable.
    """

    board_rows: int = 2
    board_columns: int = 2
    grid_rows: int = 16
    grid_columns: int = 16
    link_gbps: float = 400.0
    radix: int = 64
    planes: int = 1
    latency_ps: int = 1_000_000

    def __post_init__(self) -> None:
        shape = (self.board_rows, self.board_columns, self.grid_rows, self.grid_columns)
        if min(shape) < 1 or self.hosts < 2:
            raise TopologyError(f"a HammingMesh needs positive sides and at least 2 hosts, got {shape}")
        if self.link_gbps <= 0:
            raise TopologyError(f"link_gbps must be above 0, got {self.link_gbps}")
        if self.planes < 1:
            raise TopologyError(f"planes must be at least 1, got {self.planes}")
        if self.radix < 4 or self.radix % 2:
            raise TopologyError(f"radix must be an even number of ports, at least 4, got {self.radix}")
        for side, boards in (("row", self.grid_columns), ("column", self.grid_rows)):
            if 2 * boards > self.radix * self.radix // 2:
                raise TopologyError(
                    f"{boards} boards in a {side} have {2 * boards} ends, a tree of two levels "
                    f"of {self.radix}-port switches has {self.radix * self.radix // 2}; use larger boards or a "
                    "larger radix"
                )

    def with_latency(self, latency_ps: int) -> HammingMesh:
        """Return the same mesh with another latency a link."""
        return replace(self, latency_ps=latency_ps)

    @property
    def hosts(self) -> int:
        """The number of accelerators."""
        return self.board_rows * self.board_columns * self.grid_rows * self.grid_columns

    @property
    def name(self) -> str:
        """The family by its board, for tables: hx2mesh has 2 x 2 boards."""
        square = self.board_rows == self.board_columns
        return f"hx{self.board_rows}mesh" if square else f"hx{self.board_rows}x{self.board_columns}mesh"

    @property
    def rows(self) -> int:
        """Accelerator rows of the whole machine."""
        return self.board_rows * self.grid_rows

    @property
    def columns(self) -> int:
        """Accelerator columns of the whole machine."""
        return self.board_columns * self.grid_columns

    @property
    def link_bps(self) -> float:
        """Capacity of one link in bits per second."""
        return self.link_gbps * 1e9

    @property
    def injection_bps(self) -> float:
        """What one accelerator can send in one plane, over its four ports, in bits per second."""
        return 4 * self.link_bps

    @cached_property
    def hosts_at(self) -> np.ndarray:
        """Host id at every accelerator row and column of the machine, int64 [rows, columns]."""
        row, column = np.mgrid[: self.rows, : self.columns]
        board = (row // self.board_rows) * self.grid_columns + column // self.board_columns
        local = (row % self.board_rows) * self.board_columns + column % self.board_columns
        return np.asarray(board * (self.board_rows * self.board_columns) + local)

    @cached_property
    def network(self) -> Network:
        """One plane as a graph."""
        wiring = Wiring()
        names = [f"host{i}" for i in range(self.hosts)]
        next_trunk = 0
        for kind, at, board in (
            ("row", self.hosts_at, self.board_columns),
            ("column", self.hosts_at.T, self.board_rows),
        ):
            next_trunk = self._traces(wiring, at, board, next_trunk)
            next_trunk = self._networks(wiring, at, board, kind=kind, names=names, trunk=next_trunk)
        return wiring.network(self.hosts, tuple(names), self.link_bps)

    def _traces(self, wiring: Wiring, at: np.ndarray, board: int, trunk: int) -> int:
        """Join neighbours along the second axis of ``at`` inside every board; return the next free trunk."""
        inside = np.flatnonzero((np.arange(at.shape[1]) + 1) % board != 0)
        first, second = at[:, inside].ravel(), at[:, inside + 1].ravel()
        if len(first):
            number = trunk + np.arange(len(first))
            wiring.cable(
                first, second, trunk=number, back=number + len(first), latency_ps=self.latency_ps, route_cost=_TRACE
            )
        return trunk + 2 * len(first)

    def _networks(self, wiring: Wiring, at: np.ndarray, board: int, *, kind: str, names: list[str], trunk: int) -> int:
        """Join both ends of all boards of every line of ``at`` by a switch or a tree; return the next free trunk."""
        column = np.arange(at.shape[1])
        ends = np.sort(np.concatenate([column[column % board == 0], column[column % board == board - 1]]))
        leaves, uplinks = tree_of(len(ends), self.radix)
        for line, hosts in enumerate(at):
            first_leaf = len(names)
            names += [f"{kind}{line}.leaf{leaf}" for leaf in range(leaves)]
            end = np.arange(len(ends))
            number = trunk + end
            leaf = first_leaf + (end // (self.radix // 2) if leaves > 1 else 0 * end)
            wiring.cable(
                hosts[ends], leaf, trunk=number, back=number + len(ends), latency_ps=self.latency_ps, route_cost=_CABLE
            )
            trunk += 2 * len(ends)
            if leaves > 1:
                names.append(f"{kind}{line}.spine")
                leaf = np.repeat(np.arange(leaves), uplinks)
                wiring.cable(
                    first_leaf + leaf,
                    np.full(len(leaf), first_leaf + leaves),
                    trunk=trunk + leaf,
                    back=trunk + leaves + leaf,
                    latency_ps=self.latency_ps,
                    route_cost=_UPLINK,
                )
                trunk += 2 * leaves
        return trunk

    @cached_property
    def _routing(self) -> MinimalRouting:
        return MinimalRouting(self.network)

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Split every flow evenly over its minimal paths."""
        return self._routing.routes(sources, targets)

    def loads(self, demand: np.ndarray) -> np.ndarray:
        """Return what a demand matrix [hosts, hosts] puts on every trunk, in the demand's unit, float64 [trunks]."""
        return self._routing.loads(demand)

    def grid(self, ranks: np.ndarray) -> np.ndarray | None:
        """Return the hosts as a grid [rows, columns] if they are all crossings of some rows and columns, else None."""
        place = np.full((self.hosts, 2), -1)
        row, column = np.mgrid[: self.rows, : self.columns]
        place[self.hosts_at.ravel()] = np.stack([row.ravel(), column.ravel()], axis=1)
        rows, columns = np.unique(place[ranks, 0]), np.unique(place[ranks, 1])
        if len(rows) * len(columns) != len(ranks) or len(np.unique(ranks)) != len(ranks):
            return None
        return np.asarray(self.hosts_at[np.ix_(rows, columns)])

    def bill(self) -> Bill:
        """Return switches and cables of all planes."""
        shape = (self.board_rows, self.board_columns, self.grid_rows, self.grid_columns)
        return hamming_mesh_bill(*shape, radix=self.radix).times(self.planes)


def tree_of(ends: int, radix: int) -> tuple[int, int]:
    """Return leaves and uplinks a leaf of the network that joins ``ends``: one switch and no uplink where they fit."""
    return (1, 0) if ends <= radix else (math.ceil(ends / (radix // 2)), radix // 2)
