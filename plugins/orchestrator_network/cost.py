"""What a network costs: switches, copper and optical cables.

Rules (they reproduce all 16 totals published for HammingMesh, arXiv:2209.01346 table 2): 64-port switches; 16 links
of 400 Gb/s an accelerator (16 planes of a tree with one link, or 4 planes of a mesh with four); traces on a board
are free; cables from host to ToR and half of the board-edge cables are copper (DAC), all others optical (AoC). An NVSwitch is a
part of its server and no switch of the network: it has a price of its own, which does not follow the speed of links.
A tree of three tiers buys every cable of its graph; the large tapered machines of the published table, whose last pod is
partly filled, buy fewer (`fat_tree_bill`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from orchestrator_network.fat_tree_ports import Ports

PUBLISHED_LINK_GBPS = 400.0
LINKS_PER_DEVICE = 16
_MOST_USD = 1e100  # so that no sum of a network is infinite


@dataclass(frozen=True, kw_only=True)
class Prices:
    """US dollars a piece; the defaults are those of the published totals, and an NVSwitch is paid with its server."""

    switch_usd: float = 14_280.0
    dac_usd: float = 272.0
    aoc_usd: float = 603.0
    nvswitch_usd: float = 0.0
    ports: int = 64
    source: str = "arXiv:2209.01346, table 2"

    def __post_init__(self) -> None:
        for name in ("switch_usd", "dac_usd", "aoc_usd", "nvswitch_usd"):
            value = getattr(self, name)
            if not 0 <= value < _MOST_USD:
                raise ValueError(
                    f"{name} is {value}, it must be 0 or more and below {_MOST_USD:g}, in US dollars a piece"
                )
        if self.ports < 1:
            raise ValueError(f"ports is {self.ports}; a switch has at least 1")


@dataclass(frozen=True, kw_only=True)
class Bill:
    """Pieces to buy: switches (fractions: a switch shared with another network), copper and optical cables, NVSwitches."""

    switches: float
    dac_cables: float
    aoc_cables: float
    nvswitches: float = 0

    def times(self, copies: float) -> Bill:
        """Return the bill of that many copies."""
        return Bill(
            switches=self.switches * copies,
            dac_cables=self.dac_cables * copies,
            aoc_cables=self.aoc_cables * copies,
            nvswitches=self.nvswitches * copies,
        )

    def usd(self, prices: Prices = Prices()) -> float:
        """Return the price in US dollars."""
        cables = self.dac_cables * prices.dac_usd + self.aoc_cables * prices.aoc_usd
        return self.switches * prices.switch_usd + cables + self.nvswitches * prices.nvswitch_usd


class Billed(Protocol):
    """Anything with a bill."""

    def bill(self) -> Bill:
        """Return switches and cables of all planes."""


def fat_tree_bill(hosts: int, ports: Ports, *, pods: bool = True) -> Bill:
    """Return the bill of one plane: the cables of the graph, and upper tiers packed, as many switches as their cables fill.

    ``pods`` False, as the published machines are priced: aggregation switches serve the ToRs of any pod, so that those of a
    partly filled pod have no more uplinks than their ToRs fill, which the graph has.
    """
    tors = math.ceil(hosts / ports.tor_down)
    if ports.levels == 1:
        return Bill(switches=1, dac_cables=hosts, aoc_cables=0)
    rising = tors * ports.tor_up
    if ports.levels == 2:
        return Bill(switches=tors + math.ceil(rising / ports.core), dac_cables=hosts, aoc_cables=rising)
    to_core = ports.links_from_top(hosts) if pods else rising * ports.agg_up // ports.agg_down
    middle = math.ceil((rising + to_core) / (ports.agg_down + ports.agg_up))
    switches = tors + middle + math.ceil(to_core / ports.core)
    return Bill(switches=switches, dac_cables=hosts, aoc_cables=rising + to_core)


def hamming_mesh_bill(
    board_rows: int, board_columns: int, grid_rows: int, grid_columns: int, *, radix: int = 64
) -> Bill:
    """Return the bill of one plane; a partly used switch is shared, half of the board-edge cables are copper."""
    switches = uplinks = edges = 0.0
    for lines, boards in ((board_rows * grid_rows, grid_columns), (board_columns * grid_columns, grid_rows)):
        ends = 2 * boards
        edges += lines * ends
        if ends <= radix:
            switches += lines * ends / radix
        else:
            leaves = math.ceil(ends / (radix // 2))
            switches += lines * leaves * 1.5
            uplinks += lines * leaves * (radix // 2)
    return Bill(switches=switches, dac_cables=edges / 2, aoc_cables=edges / 2 + uplinks)


def dragonfly_bill(groups: int, routers: int, hosts_a_router: int, global_links: int, *, radix: int = 64) -> Bill:
    """Return the bill of one plane of a Dragonfly; routers that fit share a switch, with free links inside."""
    used = hosts_a_router + routers - 1 + global_links
    together = max(1, radix // used)
    full, rest = divmod(routers, together)
    switches_a_group = math.ceil(routers / together)
    inside = full * math.comb(together, 2) + math.comb(rest, 2)
    local = math.comb(routers, 2) - inside
    hosts = groups * routers * hosts_a_router
    return Bill(
        switches=groups * switches_a_group,
        dac_cables=hosts + groups * local,
        aoc_cables=groups * routers * global_links / 2,
    )


def torus_bill(*sides: int, board: int = 2) -> Bill:
    """Return the bill of one plane of a torus of square boards, which lie in its first two dimensions.

    Cables lead from board to board, all optical; one of ``board`` links of a line leaves its board.
    """
    hosts = math.prod(sides)
    return Bill(switches=0, dac_cables=0, aoc_cables=2 * hosts / board + (len(sides) - 2) * hosts)


def rail_bill(hosts: int, leaves: int, uplinks: int, *, radix: int = 64) -> Bill:
    """Return the bill of one plane of rails below a spine; the switch inside a server is part of the server."""
    rising = leaves * uplinks
    return Bill(switches=leaves + math.ceil(rising / radix), dac_cables=hosts, aoc_cables=rising)


def topology_cost(topology: Billed, prices: Prices = Prices(), *, link_gbps: float | None = None) -> dict[str, float]:
    """Return ``switches``, ``nvswitches``, ``dac_cables``, ``aoc_cables``, ``published_usd`` and ``network_capex_usd``.

    The published prices are those of 400 Gb/s parts; ``network_capex_usd`` holds the price of a gigabit constant,
    so links of another speed (``link_gbps``) cost in proportion, but NVSwitches what they cost. A topology that says itself how fast what is bought is
    (``bought_gbps``, unless it is None) is believed.
    """
    bought_gbps = getattr(topology, "bought_gbps", None)
    link_gbps = link_gbps if bought_gbps is None else bought_gbps
    bill = topology.bill()
    usd = bill.usd(prices)
    scale = 1.0 if link_gbps is None else link_gbps / PUBLISHED_LINK_GBPS
    inside_usd = bill.nvswitches * prices.nvswitch_usd
    pieces = {name: getattr(bill, name) for name in ("switches", "nvswitches", "dac_cables", "aoc_cables")}
    return {**pieces, "published_usd": usd, "network_capex_usd": (usd - inside_usd) * scale + inside_usd}


@dataclass(frozen=True, kw_only=True)
class PublishedShape:
    """One of the 16 published machines: its bill and the total in millions of US dollars."""

    topology: str
    scale: str
    devices: int
    musd: float
    bill: Bill
    detail: Mapping[str, Any] = field(default_factory=dict)


def published_shapes() -> list[PublishedShape]:
    """Return the 16 machines of the published cost table, recomputed from their shapes."""
    from orchestrator_network.fat_tree import FatTree
    from orchestrator_network.hamming_mesh import HammingMesh

    shapes = []
    for name, taper, small, large in (
        ("fat_tree", 1, (1024, 25.3), (16384, 679.9)),
        ("fat_tree_50", 2, (1050, 17.6), (16422, 419.1)),
        ("fat_tree_75", 4, (1071, 13.2), (16422, 270.8)),
    ):
        for scale, (hosts, musd) in (("small", small), ("large", large)):
            tree = FatTree(hosts=hosts, oversubscription=taper, radix=64, planes=16)
            bill = fat_tree_bill(hosts, tree.ports, pods=False).times(tree.planes)
            shapes.append(_shape(name, scale, hosts, musd, bill))
    small_fly, large_fly = dragonfly_bill(8, 16, 8, 8), dragonfly_bill(30, 32, 17, 16)
    shapes.append(_shape("dragonfly", "small", 1024, 27.9, small_fly.times(16)))
    shapes.append(_shape("dragonfly", "large", 16320, 429.2, large_fly.times(16)))
    for board, small_musd, large_musd in ((1, 10.8, 448.2), (2, 5.4, 224.1), (4, 2.7, 43.3)):
        for scale, side, musd in (("small", 32, small_musd), ("large", 128, large_musd)):
            grid = side // board
            mesh = HammingMesh(board_rows=board, board_columns=board, grid_rows=grid, grid_columns=grid, planes=4)
            name = "hyperx" if board == 1 else f"hx{board}mesh"
            shapes.append(_shape(name, scale, side * side, musd, mesh.bill()))
    shapes.append(_shape("torus", "small", 1024, 2.5, torus_bill(32, 32).times(4)))
    shapes.append(_shape("torus", "large", 16384, 39.5, torus_bill(128, 128).times(4)))
    return shapes


def _shape(name: str, scale: str, devices: int, musd: float, bill: Bill) -> PublishedShape:
    return PublishedShape(topology=name, scale=scale, devices=devices, musd=musd, bill=replace(bill))
