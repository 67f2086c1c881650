"""The topologies that a recipe chooses by name: a shape, built for a number of devices, a link speed and planes.

Without a number of planes every device has 16 links, as in the published machines: 16 planes of a fat tree with one
link each, or 4 planes of a HammingMesh, HyperX or torus with four. Planes are disjoint and alike, so one is simulated
with its share of every message. Dragonflies, rails and files are in `cluster_components`.

A config refuses what makes a network of no number of devices, and its ``shape(devices)``, which says what the network of so
many devices looks like, what cannot be built of them: both when the recipe is planned; so may those of other packages. ``forwarding``: its hosts have several links and pass packets on;
``has_mesh``: whether they may have rows and columns for an all-reduce; ``host_links`` of one in a plane, where all are alike;
``cables``: what they join, by names with # for numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from orchestrator_network.cost import LINKS_PER_DEVICE
from orchestrator_network.errors import TopologyError
from orchestrator_network.fat_tree_ports import Ports, check_tree, tree_ports
from orchestrator_network.shape_rules import (
    check_board_line,
    check_hamming_mesh,
    check_hyperx,
    check_line,
    check_radix,
    check_torus,
)

if TYPE_CHECKING:
    from orchestrator_network.fat_tree import FatTree
    from orchestrator_network.hamming_mesh import HammingMesh
    from orchestrator_network.hyperx import HyperX
    from orchestrator_network.torus import Torus

PORTS_OF_A_MESH = 4

_FASTEST = 1e6  # times the links of hosts
Cables = frozenset[tuple[str, str]]
_LINE_CABLES: Cables = frozenset(
    (below, above)
    for line in ("row#", "column#")
    for below, above in (("host#", f"{line}.leaf#"), (f"{line}.leaf#", f"{line}.spine"))
)


@dataclass(frozen=True, kw_only=True)
class FatTreeConfig:
    """What may be set of a fat tree.

    oversubscription   taper at the leaf: ports down over ports up; 1, 2, 4 are published as full, 50 %, 75 %
    tiers              1 to 3; null: the fewest that fit
    radix              ports of a switch; null with three tiers: the k-ary tree of k^3/4 hosts
    tier_speeds        of the links below every tier in use, over that of hosts' links: 1 first; null: all alike
    switch_latency_ns  what a packet takes through a switch, beside the latency of links
    """

    cables: ClassVar[Cables] = frozenset({("host#", "tor#"), ("tor#", "agg#"), ("tor#", "core#"), ("agg#", "core#")})
    oversubscription: float = 1.0
    tiers: int | None = None
    radix: int | None = 64
    tier_speeds: tuple[float, ...] | None = None
    switch_latency_ns: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.switch_latency_ns < 1e9:
            raise ValueError(f"switch_latency_ns is {self.switch_latency_ns}; it must be 0 or more, and below a second")
        speeds = self.tier_speeds
        if speeds is not None and (not speeds or speeds[0] != 1 or not all(0 < one < _FASTEST for one in speeds)):
            raise ValueError(
                f"tier_speeds is {list(speeds)}; it has the speed of each tier's links over that of hosts' links, so 1 first and all above 0 "
                f"and below {_FASTEST:g}, for example [1, 2, 4]"
            )
        if self.radix is None and self.tiers != 3:
            raise ValueError(
                f"radix is null and tiers is {'null' if self.tiers is None else self.tiers}; only the k-ary tree of "
                "3 tiers needs no radix, set tiers: 3 or a radix"
            )
        check_tree(self.tiers, self.oversubscription, self.radix)

    def shape(self, devices: int) -> Ports:
        """Return the ports of every tier; raises TopologyError."""
        ports = tree_ports(devices, self.tiers, self.oversubscription, self.radix)
        if self.tier_speeds is not None and len(self.tier_speeds) != ports.levels:
            raise TopologyError(
                f"tier_speeds is {list(self.tier_speeds)}, and a tree of {devices} hosts has {ports.levels} tiers; give one speed a tier, or "
                "set tiers"
            )
        return ports

    def links_from_top(self, devices: int) -> int:
        """Return how many links lead from the top tier down, which ``slow_links`` counts."""
        return self.shape(devices).links_from_top(devices)


@dataclass(frozen=True, kw_only=True)
class Hx2MeshConfig:
    """What may be set of a HammingMesh.

    board          rows of accelerators of a board
    board_columns  columns of accelerators of a board; null: as many as rows
    grid_rows      of boards; null: as square as the devices allow
    radix          ports of a switch
    routing        flows are split over minimal paths evenly, or balanced, as a uniform all-to-all needs it
    wrap           whether traffic of a board may take row and column networks where that is shorter; false keeps it on
                   the board, the mode `nogl` of the published simulator, a fork of SST/Merlin
    """

    board: int = 2
    board_columns: int | None = None
    forwarding: ClassVar[bool] = True
    cables: ClassVar[Cables] = _LINE_CABLES | {("host#", "host#")}
    host_links: ClassVar[int] = PORTS_OF_A_MESH
    grid_rows: int | None = None
    radix: int = 64
    routing: Literal["even", "balanced"] = "even"
    wrap: bool = True

    def __post_init__(self) -> None:
        if min(self.sides) < 1:
            raise ValueError(f"board is {self.sides[0]} x {self.sides[1]}, a board has at least 1 accelerator a side")
        if self.grid_rows is not None and self.grid_rows < 1:
            raise ValueError(f"grid_rows is {self.grid_rows}, it must be at least 1, or null")
        check_radix(self.radix)
        check_board_line("column", self.grid_rows or 1, self.radix)

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of accelerators of a board."""
        return self.board, self.board if self.board_columns is None else self.board_columns

    def has_mesh(self, devices: int | None) -> bool:
        """Whether hosts may have two rows and two columns; None: of some number of devices."""
        if devices is None:
            return self.sides[0] > 1 or self.grid_rows != 1
        return min(side * grid for side, grid in zip(self.sides, self.shape(devices), strict=True)) > 1

    def shape(self, devices: int) -> tuple[int, int]:
        """Return the rows and columns of boards; raises TopologyError."""
        boards = _boards(devices, self.sides, "another board")
        rows = self.grid_rows or _squarest(boards)
        if boards % rows:
            raise TopologyError(f"{boards} boards do not fill {rows} rows; grid_rows must divide {boards}")
        check_hamming_mesh(*self.sides, rows, boards // rows, self.radix)
        return rows, boards // rows


@dataclass(frozen=True, kw_only=True)
class Hx4MeshConfig(Hx2MeshConfig):
    """As `Hx2MeshConfig`, with boards of 4 x 4."""

    board: int = 4


@dataclass(frozen=True, kw_only=True)
class TorusConfig:
    """What may be set of a torus.

    rows   of accelerators; null: as square as the devices allow
    board  accelerators a side of a board, whose links are free; 1 for none
    depth  accelerators of the third dimension, with link_gbps, as 16 links a device do not fill six ports evenly;
           null: two dimensions
    """

    forwarding: ClassVar[bool] = True
    cables: ClassVar[Cables] = frozenset({("host#", "host#")})
    rows: int | None = None
    board: int = 2
    depth: int | None = None

    def __post_init__(self) -> None:
        _check_rows(self.rows, least=2)
        if self.board < 1:
            raise ValueError(f"board is {self.board}, it must be at least 1")
        if self.rows is not None and self.rows % self.board:
            raise ValueError(f"rows is {self.rows}, it must be a multiple of board, {self.board}")
        if self.depth is not None and self.depth < 2:
            raise ValueError(f"depth is {self.depth}, a third dimension has at least 2 accelerators; null for none")

    @property
    def host_links(self) -> int:
        """Two a dimension."""
        return PORTS_OF_A_MESH if self.depth is None else PORTS_OF_A_MESH + 2

    def has_mesh(self, devices: int | None) -> bool:  # noqa: ARG002 - as of all
        """Whether hosts have two rows and two columns: always."""
        return True

    def shape(self, devices: int) -> tuple[int, ...]:
        """Return the rows, the columns and, of three dimensions, the depth of accelerators; raises TopologyError."""
        if self.depth is not None:
            if devices % self.depth:
                raise TopologyError(f"{devices} devices do not fill depth {self.depth}; it must divide them")
            return *replace(self, depth=None).shape(devices // self.depth), self.depth
        boards = _boards(devices, (self.board, self.board), "board 1")
        rows = self.rows or _squarest(boards) * self.board
        columns = _columns(devices, rows)
        if min(rows, columns) < 2:
            raise TopologyError(
                f"{devices} devices in {rows} rows make no torus, both sides must be at least 2; use other rows, or "
                f"{max(4, devices + devices % 2)} devices"
            )
        check_torus((rows, columns), self.board)
        return rows, columns


@dataclass(frozen=True, kw_only=True)
class HyperXConfig:
    """What may be set of a HyperX.

    rows     of accelerators; null: as square as the devices allow
    radix    ports of a switch
    routing  minimal, valiant, or at fidelity packet ugal_l (own queues), ugal_g (queues of the whole way) and dal (one
             more hop in each dimension where the direct one is busy)
    """

    forwarding: ClassVar[bool] = True
    host_links: ClassVar[int] = PORTS_OF_A_MESH
    cables: ClassVar[Cables] = _LINE_CABLES
    rows: int | None = None
    radix: int = 64
    routing: Literal["minimal", "valiant", "ugal_l", "ugal_g", "dal"] = "minimal"

    def __post_init__(self) -> None:
        _check_rows(self.rows)
        check_radix(self.radix)
        check_line(self.rows or 1, self.radix)

    def has_mesh(self, devices: int | None) -> bool:
        """Whether hosts may have two rows and two columns; None: of some number of devices."""
        return self.rows != 1 if devices is None else min(self.shape(devices)) > 1

    def shape(self, devices: int) -> tuple[int, int]:
        """Return the rows and columns of accelerators; raises TopologyError."""
        rows = self.rows or _squarest(devices)
        columns = _columns(devices, rows)
        check_hyperx(rows, columns, self.radix, self.routing)
        return rows, columns


def _boards(devices: int, sides: tuple[int, int], otherwise: str) -> int:
    """Return the number of boards of these sides; TopologyError where the last is not full."""
    size = sides[0] * sides[1]
    boards, rest = divmod(devices, size)
    if rest or boards == 0:
        near = sorted({max(1, boards) * size, (boards + 1) * size})
        raise TopologyError(
            f"{devices} devices do not fill boards of {sides[0]} x {sides[1]}; use {' or '.join(map(str, near))} devices, or "
            f"{otherwise}"
        )
    return boards


def _columns(devices: int, rows: int) -> int:
    if devices % rows:
        raise TopologyError(f"{devices} devices do not fill {rows} rows; rows must divide {devices}")
    return devices // rows


def _check_rows(rows: int | None, least: int = 1) -> None:
    if rows is not None and rows < least:
        raise ValueError(f"rows is {rows}, it must be at least {least}, or null")


class FatTreeBuilder:
    """Kind ``topology``: a fat tree with any taper."""

    def __init__(self, config: FatTreeConfig) -> None:
        self.config = config

    def build(self, devices: int, link_gbps: float, planes: int | None = None) -> FatTree:
        """Return the tree for that many devices, links of ``link_gbps``, 16 a device or ``planes``; raises TopologyError."""
        from orchestrator_network.fat_tree import FatTree

        config = self.config
        config.shape(devices)
        speeds = config.tier_speeds
        return FatTree(
            hosts=devices,
            tiers=config.tiers,
            oversubscription=config.oversubscription,
            link_gbps=link_gbps if speeds is None else tuple(link_gbps * speed for speed in speeds),
            radix=config.radix,
            planes=planes or LINKS_PER_DEVICE,
            switch_latency_ps=round(config.switch_latency_ns * 1000),
        )


class HammingMeshBuilder:
    """Kind ``topology``: a HammingMesh of any boards."""

    def __init__(self, config: Hx2MeshConfig) -> None:
        self.config = config

    def build(self, devices: int, link_gbps: float, planes: int | None = None) -> HammingMesh:
        """Return the mesh for that many devices, links of ``link_gbps``, 16 a device or ``planes``; raises TopologyError."""
        from orchestrator_network.hamming_mesh import HammingMesh

        rows, columns = self.config.shape(devices)
        return HammingMesh(
            board_rows=self.config.sides[0],
            board_columns=self.config.sides[1],
            grid_rows=rows,
            grid_columns=columns,
            link_gbps=link_gbps,
            radix=self.config.radix,
            planes=planes or LINKS_PER_DEVICE // PORTS_OF_A_MESH,
            routing=self.config.routing,
            wrap=self.config.wrap,
        )


class TorusBuilder:
    """Kind ``topology``: a torus of two or three dimensions."""

    def __init__(self, config: TorusConfig) -> None:
        self.config = config

    def build(self, devices: int, link_gbps: float, planes: int | None = None) -> Torus:
        """Return the torus for that many devices, links of ``link_gbps``, 16 a device or ``planes``; raises TopologyError."""
        from orchestrator_network.torus import Torus

        sides = self.config.shape(devices)
        if len(sides) > 2 and planes is None:
            raise TopologyError(
                f"a torus of depth {self.config.depth} has six ports, which 16 links a device do not fill evenly; set link_gbps and planes"
            )
        return Torus(
            sides=sides,
            link_gbps=link_gbps,
            planes=planes or LINKS_PER_DEVICE // PORTS_OF_A_MESH,
            board=self.config.board,
        )


class HyperXBuilder:
    """Kind ``topology``: a 2D HyperX of accelerators."""

    def __init__(self, config: HyperXConfig) -> None:
        self.config = config

    def build(self, devices: int, link_gbps: float, planes: int | None = None) -> HyperX:
        """Return the HyperX for that many devices, links of ``link_gbps``, 16 a device or ``planes``; raises TopologyError."""
        from orchestrator_network.hyperx import HyperX

        rows, columns = self.config.shape(devices)
        return HyperX(
            rows=rows,
            columns=columns,
            link_gbps=link_gbps,
            routing=self.config.routing,
            radix=self.config.radix,
            planes=planes or LINKS_PER_DEVICE // PORTS_OF_A_MESH,
        )


def _squarest(count: int) -> int:
    """Return the largest divisor of ``count`` that is at most its square root."""
    return max(side for side in range(1, int(count**0.5) + 1) if count % side == 0)
