"""Which shapes a topology can have, by arithmetic alone: every rule once, for recipes and for the topologies.

Loads nothing, so that a recipe is refused when it is planned. Every function raises TopologyError with value, rule and fix.
What fat trees can be is in `fat_tree_ports`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from orchestrator_network.errors import TopologyError

Rule = Literal["valiant", "ugal_l", "ugal_g", "dal"]
#: Of a link: less is no bit a second, and more no link that there is.
_LEAST_GBPS, _MOST_GBPS = 1e-9, 1e9


def check_gbps(name: str, gbps: float, links: int = 1) -> None:
    """Refuse what ``links`` together carry, which ``name`` says, where it is no speed of links."""
    if gbps <= 0:
        raise TopologyError(f"{name} is {gbps}, it must be above 0")
    if not _LEAST_GBPS <= gbps / links <= _MOST_GBPS:
        raise TopologyError(f"{name} is {gbps:g}; it must be {links * _LEAST_GBPS:g} to {links * _MOST_GBPS:g} Gb/s")


def check_links(link_gbps: float, planes: int) -> None:
    """Refuse links that carry nothing, and no plane."""
    if not link_gbps > 0:
        raise TopologyError(f"link_gbps must be above 0, got {link_gbps}")
    if planes < 1:
        raise TopologyError(f"planes must be at least 1, got {planes}")


def check_radix(radix: int) -> None:
    """Refuse switches that cannot be halved into ports down and up."""
    if radix < 4 or radix % 2:
        raise TopologyError(f"radix must be an even number of ports, at least 4, got {radix}")


def check_routing(routing: str, *, grid: bool) -> None:
    """Refuse a routing that is none, with those that are; ``dal`` routes on a ``grid``."""
    rules = ["minimal", *(rule for rule in get_args(Rule) if grid or rule != "dal")]
    if routing not in rules:
        raise TopologyError(f"routing is `{routing}`, it must be one of {', '.join(rules)}")


def check_board_line(side: str, boards: int, radix: int) -> None:
    """Refuse more boards in a ``side`` (row or column) of a HammingMesh than a tree of two levels joins."""
    if 2 * boards > radix * radix // 2:
        raise TopologyError(
            f"{boards} boards in a {side} have {2 * boards} ends, a tree of two levels "
            f"of {radix}-port switches has {radix * radix // 2}; use larger boards or a larger radix"
        )


def check_hamming_mesh(board_rows: int, board_columns: int, grid_rows: int, grid_columns: int, radix: int) -> None:
    """Refuse a HammingMesh of empty sides, or of lines that are too long."""
    shape = (board_rows, board_columns, grid_rows, grid_columns)
    if min(shape) < 1 or math.prod(shape) < 2:
        raise TopologyError(f"a HammingMesh needs positive sides and at least 2 hosts, got {shape}")
    check_radix(radix)
    check_board_line("row", grid_columns, radix)
    check_board_line("column", grid_rows, radix)


def check_line(accelerators: int, radix: int) -> None:
    """Refuse more accelerators in a line of a HyperX than a tree of two levels joins."""
    most = radix * radix // 4
    if accelerators > most:
        raise TopologyError(
            f"a line of {accelerators} accelerators is too long: two levels of {radix}-port "
            f"switches join {most}; use shorter sides or a larger radix"
        )


def check_hyperx(rows: int, columns: int, radix: int, routing: str) -> None:
    """Refuse a HyperX of empty sides or lines that are too long, and detours without a third accelerator."""
    check_routing(routing, grid=True)
    if min(rows, columns) < 1 or rows * columns < 2:
        raise TopologyError(f"a HyperX needs positive rows and columns and at least 2 hosts, got {rows} x {columns}")
    if routing != "minimal" and rows * columns < 3:
        raise TopologyError(
            f"routing {routing} needs a third accelerator to pass through, there are {rows * columns}; use minimal, or "
            "3 accelerators"
        )
    check_radix(radix)
    check_line(max(rows, columns), radix)


def check_torus(sides: Sequence[int], board: int) -> None:
    """Refuse a torus of other than two or three dimensions, of sides without a neighbour, or that boards do not tile."""
    if len(sides) not in {2, 3} or min(sides) < 2:
        raise TopologyError(f"a torus has 2 or 3 sides of at least 2, got {tuple(sides)}")
    if board < 1 or any(side % board for side in sides[:2]):
        raise TopologyError(
            f"boards of {board} x {board} do not tile {sides[0]} x {sides[1]} accelerators; "
            "use a board that divides both sides, or board=1"
        )


def least_groups(routing: str) -> int:
    """Return how many groups a Dragonfly has at least: detours pass through a third."""
    return 2 if routing == "minimal" else 3


def check_dragonfly(hosts: int, routers: int, links: int, groups: int, routing: str, radix: int) -> None:
    """Refuse a Dragonfly of ``hosts`` and global ``links`` a router, ``routers`` a group, whose ports do not suffice."""
    for name, value in (("hosts_per_router", hosts), ("routers_per_group", routers), ("global_links", links)):
        if value < 1:
            raise TopologyError(f"{name} must be at least 1, got {value}")
    if groups < least_groups("minimal"):
        raise TopologyError(f"a Dragonfly has at least 2 groups, got {groups}; one group is a HyperX")
    check_routing(routing, grid=False)
    if groups < least_groups(routing):
        raise TopologyError(f"routing {routing} needs a third group to pass through; use minimal, or 3 groups")
    if routers * links < groups - 1:
        raise TopologyError(
            f"{groups} groups cannot all be joined: a group has {routers} x {links} global ports for {groups - 1} "
            "others; use more global_links or fewer groups"
        )
    used = hosts + routers - 1 + links
    if used > radix:
        raise TopologyError(
            f"a router needs {used} ports ({hosts} hosts, {routers - 1} local, {links} global), the switch has {radix}; "
            "use fewer, or a larger radix"
        )


def nodes_a_unit(nodes: int, oversubscription: float | None, radix: int) -> int:
    """Return the servers whose GPUs share leaves: the ports down of a leaf, or all servers if they are fewer."""
    taper = oversubscription
    down = radix if taper is None else min(math.floor(radix * taper / (1 + taper)), radix - 1)
    return min(nodes, down)


def check_rails(nodes: int, gpus_per_node: int, oversubscription: float | None, cross_rail: str, radix: int) -> None:
    """Refuse rails without servers, without the spine that joins them, or with more leaves than a spine has ports."""
    if nodes < 1 or gpus_per_node < 1 or nodes * gpus_per_node < 2:
        raise TopologyError(
            f"a rail-optimised cluster needs servers, GPUs and at least 2 hosts, got {nodes} servers of "
            f"{gpus_per_node} GPUs"
        )
    check_radix(radix)
    if cross_rail not in {"nvlink", "spine"}:
        raise TopologyError(f"cross_rail is `{cross_rail}`, it must be nvlink or spine")
    if oversubscription is None:
        if nodes > radix:
            raise TopologyError(
                f"{nodes} servers do not fit rails of one {radix}-port switch; give an oversubscription, "
                "so that a spine joins several, or a larger radix"
            )
        if cross_rail == "spine":
            raise TopologyError("oversubscription is null, so there is no spine; use cross_rail nvlink")
        return
    if not 1 <= oversubscription < math.inf:
        raise TopologyError(f"oversubscription must be at least 1 (1 is non-blocking), got {oversubscription}")
    down = nodes_a_unit(nodes, oversubscription, radix)
    leaves = math.ceil(nodes / down) * gpus_per_node
    if leaves > radix:
        raise TopologyError(
            f"{nodes} servers of {gpus_per_node} GPUs need {leaves} leaves of {down} "
            f"ports down, a spine has {radix} ports; use fewer servers, a larger radix or more oversubscription"
        )
