"""HammingMesh: boards with a 2D mesh of accelerators, joined by switched row and column networks (arXiv:2209.01346).

Every accelerator has ports N, E, S and W in each plane. Neighbours on a board are joined by traces. For every
accelerator row of the machine one row network joins the W and E ends of all its boards, for every accelerator
column one column network the N and S ends: one switch where all ends fit, else leaves of radix/2 ends below one
logical spine. Boards of 1 x 1 are a 2D HyperX.

Routing for flows is minimal in hops, where a trace is one hop and the way through a network one hop below one leaf
and two through the spine: traffic inside a board wraps through the row or column network where that is shorter than
the way across the board. Published routing chooses by credits among equally long ways; here they go across the
board, as credits would steer neighbour traffic, and a flow is split over all minimal paths that remain: evenly, or in
the proportions that carry a uniform all-to-all best (`balance`).

Without ``wrap`` nothing that is on the board of its target leaves it, and nothing crosses a row (column) of boards that
is on a board of the target's column (row) already: the mode `nogl` of the published simulator, a fork of SST/Merlin. A
crossing then costs more than the longest walk across a board, and all other minimal paths stay what they are.

On links that never drop, packets turn north last inside a board (the turn model of Glass and Ni, 1992) and change their
virtual channel at every exit from one, which takes three channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.sparse import csr_array, vstack

from orchestrator_network.cost import Bill, hamming_mesh_bill
from orchestrator_network.errors import TopologyError
from orchestrator_network.graph import ChannelOrder, Network, Wiring
from orchestrator_network.line_routes import Costs, LineShape, LineTables, line_tables, product_shares
from orchestrator_network.routes import Routes, check_pairs, minimal_loads, minimal_routes, span
from orchestrator_network.shape_rules import check_hamming_mesh, check_links

# Twelve a hop. The way over one switch, two cables, counts 16: longer than one trace, shorter than two. The way over the
# spine, two uplinks more, counts 26, between two and three. No sum of one kind equals one of another, so all minimal
# paths of a pair have equally many hops.
_TRACE, _CABLE, _UPLINK = 12, 8, 5
# Without wrapping a crossing counts more than all traces of a row; two uplinks count less than a trace, as above.
_TRACE_NO_WRAP, _UPLINK_NO_WRAP = 3, 1
_FLOWS = 8192  # routed at once


@dataclass(frozen=True, kw_only=True)
class HammingMesh:
    """A grid of boards; hosts = board_rows x board_columns x grid_rows x grid_columns.

    Host ids are row-major by board, then by place on the board. ``planes`` disjoint copies carry 1/planes of every
    message each and are alike, so one is simulated. ``latency_ps`` is that of one link, trace or cable. ``routing``:
    ``even`` splits a flow evenly over its minimal paths, ``balanced`` as a uniform all-to-all needs it. ``wrap``: traffic
    of a board may take a row or column network where that is shorter; without, it stays on its board.
    """

    board_rows: int = 2
    board_columns: int = 2
    grid_rows: int = 16
    grid_columns: int = 16
    link_gbps: float = 400.0
    radix: int = 64
    planes: int = 1
    latency_ps: int = 1_000_000
    routing: Literal["even", "balanced"] = "even"
    wrap: bool = True

    def __post_init__(self) -> None:
        if self.routing not in {"even", "balanced"}:
            raise TopologyError(f"routing is `{self.routing}`, it must be even or balanced")
        check_links(self.link_gbps, self.planes)
        check_hamming_mesh(self.board_rows, self.board_columns, self.grid_rows, self.grid_columns, self.radix)

    def with_latency(self, latency_ps: int) -> HammingMesh:
        """Return the same mesh with another latency a link."""
        return replace(self, latency_ps=latency_ps)

    @property
    def hosts(self) -> int:
        """The number of accelerators."""
        return self.board_rows * self.board_columns * self.grid_rows * self.grid_columns

    @property
    def name(self) -> str:
        """The family by its board, and its routing where that is not the usual, for tables: hx2mesh has 2 x 2 boards."""
        square = self.board_rows == self.board_columns
        board = f"{self.board_rows}" if square else f"{self.board_rows}x{self.board_columns}"
        routing = "" if self.routing == "even" else f"_{self.routing}"
        return f"hx{board}mesh" + routing + ("" if self.wrap else "_no_wrap")

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

    @property
    def _costs(self) -> tuple[int, int, int]:
        """Return what a trace, a cable and an uplink cost."""
        if self.wrap:
            return _TRACE, _CABLE, _UPLINK
        # At least two uplinks, so that no two crossings below leaves replace one through the spine.
        cable = _TRACE_NO_WRAP * (max(self.board_rows, self.board_columns) - 1) // 2 + 1
        return _TRACE_NO_WRAP, max(cable, 2 * _UPLINK_NO_WRAP), _UPLINK_NO_WRAP

    @cached_property
    def hosts_at(self) -> np.ndarray:
        """Host id at every accelerator row and column of the machine, int64 [rows, columns]."""
        row, column = np.mgrid[: self.rows, : self.columns]
        board = (row // self.board_rows) * self.grid_columns + column // self.board_columns
        local = (row % self.board_rows) * self.board_columns + column % self.board_columns
        return np.asarray(board * (self.board_rows * self.board_columns) + local)

    @cached_property
    def _place(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the accelerator row and column of every host."""
        order = np.argsort(self.hosts_at, axis=None)
        return np.divmod(order, self.columns)

    @cached_property
    def _lines(self) -> tuple[LineShape, LineShape]:
        """Return the shape of a row and of a column, which own consecutive trunks."""
        shapes, trunk = [], 0
        for lines, board, boards in (
            (self.rows, self.board_columns, self.grid_columns),
            (self.columns, self.board_rows, self.grid_rows),
        ):
            traces, leaves = (board - 1) * boards * lines, tree_of(2 * boards, self.radix)[0]
            stride = 4 * boards + (2 * leaves if leaves > 1 else 0)
            shapes.append(
                LineShape(
                    board=board,
                    boards=boards,
                    trace=trunk,
                    backward=trunk + traces,
                    network=trunk + 2 * traces,
                    network_stride=stride,
                    ends_a_leaf=self.radix // 2 if leaves > 1 else 2 * boards,
                    leaves=leaves,
                )
            )
            trunk += 2 * traces + lines * stride
        return shapes[0], shapes[1]

    @cached_property
    def network(self) -> Network:
        """One plane as a graph."""
        wiring = Wiring()
        names = [f"host{i}" for i in range(self.hosts)]
        for kind, at, shape in zip(("row", "column"), (self.hosts_at, self.hosts_at.T), self._lines, strict=True):
            self._wire_traces(wiring, at, shape)
            for line, hosts in enumerate(at):
                self._wire_line(wiring, hosts, shape, shape.network + line * shape.network_stride, len(names))
                names += [f"{kind}{line}.leaf{leaf}" for leaf in range(shape.leaves)]
                names += [f"{kind}{line}.spine"] if shape.leaves > 1 else []
        network = wiring.network(self.hosts, tuple(names), self.link_bps)
        network = replace(network, channel_order=self._channel_order(network))
        if self.routing == "even":
            return network
        # Balancing asks for the even network of this class, so the module is loaded here.
        from orchestrator_network.balance import balanced_weights

        return replace(network, route_weight=balanced_weights(self, network))

    def _channel_order(self, network: Network) -> ChannelOrder:
        """Return the way out of a board before the way in before traces: row by row to the south, and the way north last."""
        source, target = network.source, network.target
        leaf = np.zeros(network.nodes, bool)
        leaf[target[source < self.hosts]] = True
        # Up to a leaf, up to a spine, down to a leaf, down to an accelerator.
        rank = np.select([source < self.hosts, target < self.hosts, leaf[source]], [0, 3, 1], 2)
        row_of, column_of = self._place
        trace = np.flatnonzero((source < self.hosts) & (target < self.hosts))
        row, column = row_of[source[trace]] % self.board_rows, column_of[source[trace]] % self.board_columns
        south = row_of[target[trace]] - row_of[source[trace]]
        east = column_of[target[trace]] - column_of[source[trace]]
        along = np.select([east > 0, east < 0], [column, self.board_columns - 1 - column], self.board_columns)
        width = self.board_columns + 1
        rank[trace] = 4 + np.where(south < 0, width * (2 * self.board_rows - row), width * row + along)
        phase = np.zeros(network.links, np.int64)
        phase[trace[south < 0]] = 1
        return ChannelOrder(rank=rank, phase=phase)

    def _wire_traces(self, wiring: Wiring, at: np.ndarray, shape: LineShape) -> None:
        """Join neighbours along the second axis of ``at`` inside every board."""
        inside = np.flatnonzero((np.arange(at.shape[1]) + 1) % shape.board != 0)
        first, second = at[:, inside].ravel(), at[:, inside + 1].ravel()
        number = np.arange(len(first))
        wiring.cable(
            first,
            second,
            trunk=shape.trace + number,
            back=shape.backward + number,
            latency_ps=self.latency_ps,
            route_cost=self._costs[0],
        )

    def _wire_line(self, wiring: Wiring, hosts: np.ndarray, shape: LineShape, trunk: int, first_leaf: int) -> None:
        """Join both ends of all boards of a line by a switch or a tree."""
        end = np.arange(2 * shape.boards)
        at_end = hosts[end // 2 * shape.board + (shape.board - 1) * (end % 2)]
        wiring.cable(
            at_end,
            first_leaf + end // shape.ends_a_leaf,
            trunk=trunk + end,
            back=trunk + len(end) + end,
            latency_ps=self.latency_ps,
            route_cost=self._costs[1],
        )
        if shape.leaves > 1:
            leaf = np.repeat(np.arange(shape.leaves), tree_of(len(end), self.radix)[1])
            trunk += 2 * len(end)
            wiring.cable(
                first_leaf + leaf,
                np.full(len(leaf), first_leaf + shape.leaves),
                trunk=trunk + leaf,
                back=trunk + shape.leaves + leaf,
                latency_ps=self.latency_ps,
                route_cost=self._costs[2],
            )

    @cached_property
    def _tables(self) -> tuple[LineTables, LineTables]:
        trace, cable, uplink = self._costs
        costs = Costs(trace=trace, leaf=2 * cable, spine=2 * (cable + uplink))
        rows, columns = (line_tables(shape, costs) for shape in self._lines)
        return rows, columns

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Split every flow over its minimal paths; evenly, from the tables of one row and one column.

        Other proportions follow no table and cost links x distinct pairs.
        """
        if self.routing != "even":
            return minimal_routes(self.network, sources, targets)
        check_pairs(self.hosts, sources, targets)
        (rows, columns), (row_of, column_of) = self._tables, self._place
        parts = []
        for begin in range(0, max(len(sources), 1), _FLOWS):
            s, t = sources[begin : begin + _FLOWS], targets[begin : begin + _FLOWS]
            in_row = column_of[s] * self.columns + column_of[t]
            in_column = row_of[s] * self.rows + row_of[t]
            on_rows = product_shares(rows, in_row, columns, in_column)
            on_columns = product_shares(columns, in_column, rows, in_row)
            flow, trunk, share = (np.concatenate(both) for both in zip(on_rows, on_columns, strict=True))
            shares = csr_array((share, (flow, trunk)), shape=(len(s), len(self.network.trunk_bps)))
            shares.sum_duplicates()
            parts.append((shares, rows.links[in_row] + columns.links[in_column]))
        hops = np.concatenate([links for _, links in parts]).astype(float)
        share = csr_array(vstack([shares for shares, _ in parts], format="csr"))
        return Routes(share=share, latency_ps=hops * self.latency_ps, hops=hops)

    def spans(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Return how far hosts are apart: `routes`, where it is known from the tables without shares."""
        if self.routing != "even":
            return self.routes(sources, targets)
        (rows, columns), (row_of, column_of) = self._tables, self._place
        in_row = column_of[sources] * self.columns + column_of[targets]
        in_column = row_of[sources] * self.rows + row_of[targets]
        hops = (rows.links[in_row] + columns.links[in_column]).astype(float)
        return span(hops * self.latency_ps, hops)

    def loads(self, demand: np.ndarray) -> np.ndarray:
        """Return what a demand matrix [hosts, hosts] puts on every trunk, in the demand's unit, float64 [trunks]."""
        return minimal_loads(self.network, demand)

    def grid(self, ranks: np.ndarray) -> np.ndarray | None:
        """Return the hosts as a grid [rows, columns] if they are all crossings of some rows and columns, else None."""
        row_of, column_of = self._place
        rows, columns = np.unique(row_of[ranks]), np.unique(column_of[ranks])
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
